"""The model card of a critic: what it is for, how good it is on prompts and topics it never saw, and what made it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critic_models.critic import CriticBinding, LatentCritic
from critic_models.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)
PLACES = {"first_block": "after the first block", "half": "at half of the response", "end": "at its end"}
COLOURS = {"first_block": "#D55E00", "half": "#0072B2", "end": "#009E73"}  # Okabe and Ito's palette


def write_card(critic: LatentCritic, metrics: dict[str, Any], folder: str | Path) -> Path:
    """Writes README.md and, where matplotlib is installed, its two pictures.

    Args:
        critic: Bound to its policy.
        metrics: As ``fit_critic`` returned them.
        folder: The checkpoint's.

    Returns:
        The path of README.md.

    Raises:
        ConfigurationError: The critic was never bound to a policy.
    """
    if critic.binding is None:
        raise ConfigurationError("this critic is bound to no policy; set critic.binding = CriticBinding(...) first")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _draw(metrics, folder)
    parts = [_front(critic.binding), _purpose(critic, critic.binding), _quality(metrics), _calibration(metrics)]
    if pictures:
        parts.append("![Reliability of the safety head](reliability.png)\n\n![Quality along the response](along.png)\n")
    parts += [_limits(), _making(critic, critic.binding, metrics)]
    path = folder / "README.md"
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _front(binding: CriticBinding) -> str:
    front = "---\nlibrary_name: inferenceguard\ntags: [safety, critic, guarded-decoding]\n---\n"
    return f"{front}\n# Critic of {binding.policy_id}\n"


def _purpose(critic: LatentCritic, binding: CriticBinding) -> str:
    layer = "last, after the final norm" if binding.layer == -1 else binding.layer
    revision = f" at `{binding.policy_revision}`" if binding.policy_revision else ""
    reads = "the policy's last hidden state" + (
        " and the mean of those of the response" if critic.config.recalls else ""
    )
    lines = [
        f"Reads {reads} while it decodes,",
        "and foresees whether the answer will keep within its safety budget and how much reward it will earn if it",
        "does. It guides InferenceGuard's search (arXiv 2502.01208); whether an answer may leave is decided by the",
        "cost model alone.\n",
        "| belongs to | |",
        "|---|---|",
        f"| policy | `{binding.policy_id}`{revision} |",
        f"| hidden size, layer | {critic.config.hidden_size}, {layer} |",
        f"| tokenizer | `{binding.tokenizer_hash}` |",
    ]
    names = binding.cost_models or ("cost",) * critic.config.n_costs
    for name, cost in zip(names, critic.config.costs, strict=False):
        budgets = f"{cost.lowest:g} to {cost.highest:g}" if cost.lowest < cost.highest else f"{cost.lowest:g}"
        discount = f", discount {cost.discount:g}, {cost.reading}" if cost.accounting == "cumulative" else ""
        lines.append(f"| cost | `{name}`, {cost.accounting}, budget {budgets}{discount} |")
    lines.append(f"| reward | {binding.reward_model or 'none'} |")
    return "\n".join(lines) + "\n"


def _quality(metrics: dict[str, Any]) -> str:
    limits = ", ".join(f"{limit:g}" for limit in metrics["limits"])
    lines = [
        "## Quality\n",
        f"On {metrics['held_out_prompts']} prompts kept out of training, about the same topics, at the usual budget",
        f"({limits}), with nothing measured since the start. A block is {metrics['block_tokens']} tokens.\n",
        *_quality_table(metrics),
        f"\nThe value is off by {_number(metrics['value_error'])} reward (root mean square).\n",
    ]
    unseen = metrics.get("unseen_topics")
    if unseen is None:
        lines.append(
            "Not measured on prompts about topics that training had nothing of; expect to be misled more there."
        )
    else:
        lines += [
            f"On {unseen['held_out_prompts']} prompts about topics that no training prompt is about:\n",
            *_quality_table(unseen),
            f"\nThere the value is off by {_number(unseen['value_error'])}.",
        ]
    return "\n".join(lines) + "\n"


def _quality_table(metrics: dict[str, Any]) -> list[str]:
    return [
        "| read | responses | end safe | AUC of ends safe | expected calibration error | R² of value where safe |",
        "|---|---|---|---|---|---|",
        *(_quality_row(words, metrics["positions"][key]) for key, words in PLACES.items()),
        _quality_row("anywhere, at any budget and measuring point (rows)", metrics["any_budget"]),
    ]


def _quality_row(words: str, row: dict[str, Any]) -> str:
    figures = " | ".join(_number(row[key]) for key in ("auc", "calibration_error", "value_r2"))
    return f"| {words} | {row['count']} | {100 * row['safe_share']:.1f} % | {figures} |"


def _calibration(metrics: dict[str, Any]) -> str:
    lines = [
        "## Reliability at half of the response\n",
        "| foreseen safe | responses | mean foreseen | observed |",
        "|---|---|---|---|",
        *(
            f"| {row['from']:.1f} to {row['to']:.1f} | {row['count']} | {row['foreseen']:.3f} | {row['observed']:.3f} |"
            for row in metrics["positions"]["half"]["reliability"]
        ),
    ]
    return "\n".join(lines) + "\n"


def _limits() -> str:
    return (
        "## Limits\n\n"
        "Safe means safe with respect to the cost model, on prompts like those of its training. An unsure or wrong\n"
        "critic costs reward and abstentions, never a verified violation. It means nothing for another policy, and a\n"
        "mismatch is refused.\n"
    )


def _making(critic: LatentCritic, binding: CriticBinding, metrics: dict[str, Any]) -> str:
    parameters = sum(parameter.numel() for parameter in critic.parameters())
    lines = [
        "## Training\n",
        f"{metrics['responses']} responses of the frozen policy to {metrics['prompts']} prompts, "
        f"{metrics['rows']} tokens.",
        "Hidden states captured while decoding; Monte-Carlo targets at every prefix.",
        f"{metrics['epochs']} epochs, {metrics['seconds']:g} s, {parameters:,} parameters.",
    ]
    if binding.data_fingerprint:
        lines.append(f"Fingerprint of the rollouts: `{binding.data_fingerprint}`.")
    if binding.command:
        lines.append(f"\n```\n{binding.command}\n```")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _draw(metrics: dict[str, Any], folder: Path) -> bool:
    """Draws without pyplot, so that no display and no global state is involved; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        logger.info('the card has no pictures; they need pip install "inferenceguard[evaluation]"')
        return False
    _reliability(Figure(figsize=(5.2, 4.6), layout="constrained"), metrics).savefig(folder / "reliability.png", dpi=130)
    _along(Figure(figsize=(6.4, 4.0), layout="constrained"), metrics).savefig(folder / "along.png", dpi=130)
    return True


def _reliability(figure: "Figure", metrics: dict[str, Any]) -> "Figure":
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--")
    for key, words in PLACES.items():
        rows = metrics["positions"][key]["reliability"]
        total = sum(row["count"] for row in rows)
        foreseen, observed = [row["foreseen"] for row in rows], [row["observed"] for row in rows]
        axes.plot(foreseen, observed, color=COLOURS[key], linewidth=1.5, label=words)
        axes.scatter(
            foreseen, observed, s=[15 + 400 * row["count"] / total for row in rows], color=COLOURS[key], alpha=0.5
        )
    axes.set(
        xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), xlabel="foreseen probability of a safe end", ylabel="observed share"
    )
    axes.set_title("Reliability on held-out prompts; area grows with responses", fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    _plain(axes)
    return figure


def _along(figure: "Figure", metrics: dict[str, Any]) -> "Figure":
    axes = figure.add_subplot()
    for key, words, colour in (("auc", "AUC of ends safe", "#0072B2"), ("value_r2", "R² of the value", "#E69F00")):
        points = [(100 * row["share"], row[key]) for row in metrics["along"] if row[key] is not None]
        axes.plot(
            *zip(*points, strict=True) if points else ((), ()), color=colour, marker="o", markersize=4, label=words
        )
    lowest = min(
        (row[key] for row in metrics["along"] for key in ("auc", "value_r2") if row[key] is not None), default=0
    )
    axes.set(xlabel="share of the response that is written, %", ylim=(max(-1.0, min(0.0, lowest)), 1.02))
    axes.set_title("Quality along the response, held-out prompts", fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    _plain(axes)
    return figure


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
