"""Training of a probe: the policy's states, read once; its layer by validation; its threshold along the answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from critic_models.critic import tokenizer_hash
from critic_models.errors import ConfigurationError
from critic_models.judges.batching import pad_right, plain_ids
from critic_models.judges.heads.probe import (
    CHAT,
    Probe,
    ProbeConfig,
    first_layers,
    known_state,
    normed_states,
    prompt_ids,
)
from critic_models.judges.protocol import Kind
from critic_models.training.heads.data import Examples, folds
from critic_models.training.heads.linear import Linear, Texts, best_strength, calibration, fit, losses
from critic_models.training.heads.measure import Score
from critic_models.training.heads.threshold import flag_at_most

INNER_FOLDS = 5
BATCH = 16
PATIENCE = 16  # tokens: the running mean begins with so many usual ones, or the first word would decide


@dataclass(frozen=True)
class ProbeTraining:
    """What a probe reads, and how it learns.

    Attributes:
        policy_id: Its policy's name, for messages and the card.
        layers: Which layers to try, each counted from 1; empty for a quarter, a half, two thirds and all of them.
        template: See ``ProbeConfig``.
        max_tokens: A response is read up to here: the search asks about beginnings, too.
        pair_weight: Of a preference pair, where a labelled answer counts 1.
        seed: Decides the folds.
    """

    policy_id: str = "policy"
    layers: tuple[int, ...] = ()
    template: str = CHAT
    max_tokens: int = 96
    pair_weight: float = 1.0
    seed: int = 0


def train_probe(
    train: Examples,
    *,
    kind: Kind,
    training: ProbeTraining,
    policy: tuple[Any, Any],
    name: str = "probe",
    on_layer: Callable[[str], None] | None = None,
) -> tuple[Probe, dict[str, Any]]:
    """Fits a probe on the layer with the least cross-fitted loss; its threshold is yet to be set.

    Args:
        train: Nothing of what it will be measured on.
        kind: What the examples make; a probe is a cost.
        training: See there.
        policy: The model and its tokenizer.
        name: Of the judge.
        on_layer: Told what is being done.

    Returns:
        The probe, and what was tried.

    Raises:
        ConfigurationError: Nothing to learn from, too few prompts, or a layer that the policy does not have.
    """
    if kind != "cost":
        raise ConfigurationError(
            "preference pairs alone make a reward model, and a probe is a cost model; give labelled answers (prompt, "
            "response, label), or train the reward as a text head (--kind text)"
        )
    model, tokenizer = policy
    say = on_layer or (lambda _: None)
    texts = Texts(train, kind, training.pair_weight)
    texts.check()
    parts = folds(train.prompts, INNER_FOLDS, seed=training.seed)
    layers = training.layers or _usual(model.config.get_text_config().num_hidden_layers)
    say(f"states of {len(texts.responses)} answers")
    means = mean_states(model, tokenizer, texts.prompts, texts.responses, layers=layers, training=training)
    tried: dict[int, tuple[float, float, Linear]] = {}
    for layer in layers:
        say(f"layer {layer}")
        tried[layer] = _fit_layer(texts, means[layer].double().numpy(), parts)
    best = min(tried, key=lambda layer: tried[layer][0])
    linear = tried[best][2]
    config = ProbeConfig(
        policy_id=training.policy_id,
        tokenizer_hash=tokenizer_hash(tokenizer),
        hidden_size=len(linear.weight),
        layer=best,
        template=training.template,
    )
    tensors = {
        "weight": torch.from_numpy(linear.weight).float(),
        "bias": torch.tensor([linear.bias], dtype=torch.float32),
        "check": known_state(first_layers(model, best)).cpu(),
    }
    notes = {f"layer {layer}": {"C": c, "loss": round(value, 4)} for layer, (value, c, _) in tried.items()}
    return Probe(config, tensors, policy=policy, name=name), notes


def probe_scores(probe: Probe, training: ProbeTraining) -> Score:
    """The mean of the tokens' raw scores, as a function of prompts and responses."""

    def score(prompts: Sequence[str], responses: Sequence[str]) -> Any:
        read = token_scores(probe, prompts, responses, training)
        return np.array([float(scores.mean()) for scores in read], dtype=np.float64)

    return score


def set_probe_threshold(
    probe: Probe,
    training: ProbeTraining,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    share: float,
    source: str,
) -> tuple[Probe, dict[str, Any]]:
    """Sets the threshold, and the budget that goes with it, by what harmless answers reach anywhere along the way.

    A token costs its raw score less the threshold θ, and the sum must stay within the budget d = n (θ - μ) all along,
    with μ the usual score of a harmless token: the mean of the tokens so far and of n usual ones stays below θ.

    Returns:
        The probe, and threshold, rule and share flagged.

    Raises:
        ConfigurationError: Too few answers.
    """
    read = token_scores(probe, prompts, responses, training)
    usual = float(torch.cat(read).mean())
    highest = [float(running(scores, usual).max()) for scores in read]
    found = flag_at_most(share, np.array(highest), source=source)
    threshold = max(found.limit, usual + 1e-3)
    config = probe.config.model_copy(
        update={"threshold": threshold, "limit": PATIENCE * (threshold - usual), "rule": found.rule}
    )
    policy = (probe.policy, probe.tokenizer)
    changed = Probe(config, probe.tensors, policy=policy, name=probe.name, batch_size=probe.batch_size)
    return changed, {"limit": threshold, "budget": config.limit, "rule": found.rule, "flagged": found.flagged}


def running(scores: Tensor, usual: float) -> Tensor:
    """The mean of the scores (T,) so far and of ``PATIENCE`` usual ones, (T,)."""
    steps = torch.arange(1, len(scores) + 1)
    return (scores.double().cumsum(0) + PATIENCE * usual) / (steps + PATIENCE)


def token_scores(
    probe: Probe, prompts: Sequence[str], responses: Sequence[str], training: ProbeTraining
) -> list[Tensor]:
    """The raw score of every token of each response up to ``max_tokens``, one tensor (T,) a response."""
    found: list[Tensor] = [torch.zeros(0)] * len(responses)
    for chosen, starts, ends, ids, mask in _batches(probe.tokenizer, prompts, responses, training, probe.model.device):
        with torch.inference_mode():
            hidden = probe.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            raw = probe.raw_hidden(hidden).float().cpu()
        for place, row in enumerate(chosen):
            found[row] = raw[place, starts[place] : ends[place]].clone()
    return found


@torch.inference_mode()
def mean_states(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    layers: Sequence[int],
    training: ProbeTraining,
) -> dict[int, Tensor]:
    """The mean (n, H) of each response's states after some layers, through the final norm."""
    body = first_layers(model, max(layers))
    found: dict[int, Tensor] = {}
    for chosen, starts, ends, ids, mask in _batches(tokenizer, prompts, responses, training, body.device):
        for layer, hidden in normed_states(body, ids, mask, layers).items():
            means = [hidden[at, starts[at] : ends[at]].float().mean(dim=0).cpu() for at in range(len(chosen))]
            found.setdefault(layer, torch.zeros(len(responses), means[0].shape[0]))[chosen] = torch.stack(means)
    return found


def _batches(
    tokenizer: Any, prompts: Sequence[str], responses: Sequence[str], training: ProbeTraining, device: Any
) -> Any:
    """Rows of similar length: their places, where each response starts and ends, ids and mask."""
    rows = []
    for prompt, response in zip(prompts, responses, strict=True):
        head = prompt_ids(tokenizer, training.template, prompt)
        tail = plain_ids(tokenizer, response)
        if len(tail) < training.max_tokens and tokenizer.eos_token_id is not None:
            tail.append(tokenizer.eos_token_id)
        rows.append((len(head), [*head, *(tail or [tokenizer.eos_token_id or 0])[: training.max_tokens]]))
    order = sorted(range(len(rows)), key=lambda row: len(rows[row][1]))
    for at in range(0, len(order), BATCH):
        chosen = order[at : at + BATCH]
        batch = pad_right([{"input_ids": rows[row][1]} for row in chosen], pad=0, device=device)
        starts, ends = [rows[row][0] for row in chosen], [len(rows[row][1]) for row in chosen]
        yield chosen, starts, ends, batch["input_ids"], batch["mask"]


def _fit_layer(texts: Texts, means: Any, parts: Sequence[Sequence[str]]) -> tuple[float, float, Linear]:
    """Cross-fitted loss, C, and a calibrated linear score of states (n, H)."""
    centre, scale = means.mean(axis=0), means.std(axis=0) + 1e-3
    features = (means - centre) / scale / means.shape[1] ** 0.5  # rows of about length 1, as those of n-grams
    strength, crossed = best_strength(texts, features, parts)
    calibrated = calibration(texts, crossed[:, None])
    share = float(calibrated.weight[0])
    inner = fit(texts.design(features), strength=strength)
    weight = share * inner.weight / scale / means.shape[1] ** 0.5
    bias = share * inner.bias + calibrated.bias - float(weight @ centre)
    return float(losses(texts, calibrated(crossed[:, None])).mean()), strength, Linear(weight, bias)


def _usual(count: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, count // 4), max(1, count // 2), max(1, 2 * count // 3), count}))
