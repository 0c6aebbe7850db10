"""The latent critic: from the policy's hidden state to "will end safe" and "how much reward" (paper, section 4)."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import softplus

from critic_models.critic.config import CriticBinding, CriticConfig, check_binding
from critic_models.errors import ConfigurationError, ModelLoadError
from critic_models.hub import local_folder, read_config, read_tensors
from critic_models.validation import explain

FORMAT = 1
WEIGHTS = "model.safetensors"


class LatentCritic(nn.Module):
    """Two heads on the policy's last hidden state after the final norm, the state that the LM head reads.

    A critic that recalls reads beside it the mean of these states over the response so far.

    The safety head gives, for every hidden state, a curve over the safety state z that never falls: more unspent budget
    is never less safe. It is the distribution of what the rest of the response will need, so that one critic serves
    every budget. The value head is the reward to be expected of an answer that ends safe, whatever z: the frozen policy
    does not know its budget.

    Args:
        config: Sizes and costs.
        binding: What it was trained for; None until it is known.
    """

    hidden_mean: Tensor
    hidden_scale: Tensor
    value_mean: Tensor
    value_scale: Tensor
    held_out_error: Tensor
    scales: Tensor

    def __init__(self, config: CriticConfig, binding: CriticBinding | None = None) -> None:
        super().__init__()
        self.config, self.binding = config, binding
        inputs = config.hidden_size * (2 if config.recalls else 1)
        self.register_buffer("hidden_mean", torch.zeros(inputs))
        self.register_buffer("hidden_scale", torch.ones(inputs))
        self.register_buffer("value_mean", torch.zeros(()))
        self.register_buffer("value_scale", torch.ones(()))
        self.register_buffer("held_out_error", torch.zeros(()))
        widest = max(len(cost.scales) for cost in config.costs)
        padded = [list(cost.scales) + [cost.scales[-1]] * (widest - len(cost.scales)) for cost in config.costs]
        self.register_buffer("scales", torch.tensor(padded), persistent=False)  # (C, scales); config.json holds them
        self.enter = nn.Linear(inputs, config.width)
        self.blocks = nn.ModuleList(_Block(config.width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.safety = nn.Linear(config.width, 1 + 3 * config.n_costs * config.units)
        self.value = nn.Linear(config.width, 1)
        self._spread_units()

    def forward(self, hidden: Tensor, state: Tensor, mean_hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Predicts the end of trajectories.

        Args:
            hidden: Hidden states, shape (..., H).
            state: The last measured safety state z of each cost, shape (..., C); may be +inf.
            mean_hidden: Mean hidden states over the responses so far, shape (..., H), read by a critic that
                recalls; the hidden states themselves where there is none yet.

        Returns:
            Log-odds that the trajectory ends safe, and the expected discounted reward γ^T·r; both float32, shape (...).

        Raises:
            ConfigurationError: The critic recalls, and was not told what.
        """
        device = self.hidden_mean.device
        trunk = self.enter((self.inputs(hidden, mean_hidden).to(device) - self.hidden_mean) / self.hidden_scale)
        for block in self.blocks:
            trunk = block(trunk)
        trunk = self.norm(trunk)
        logit = self._safety(self.safety(trunk), state.to(device, torch.float32))
        return logit, self.value(trunk).squeeze(-1) * self.value_scale + self.value_mean

    def inputs(self, hidden: Tensor, mean_hidden: Tensor | None = None) -> Tensor:
        """What the network reads, before it is normalised: float32, shape (..., H) or, if it recalls, (..., 2 H).

        Raises:
            ConfigurationError: The critic recalls, and was not told what.
        """
        if not self.config.recalls:
            return hidden.float()
        if mean_hidden is None:
            raise ConfigurationError(
                "this critic reads the mean hidden state of the response too; give it as `mean_hidden`"
            )
        return torch.cat([hidden.float(), mean_hidden.to(hidden.device, torch.float32)], dim=-1)

    def _safety(self, shape: Tensor, state: Tensor) -> Tensor:
        """A sum of C x units rising steps along the squashed states, each placed by the hidden state.

        Args:
            shape: Offset, then height, steepness and place of every step, shape (..., 1 + 3 C units).
            state: Shape (..., C).

        Returns:
            Log-odds, shape (...).
        """
        offset, steps = shape[..., 0], shape[..., 1:].reshape(*shape.shape[:-1], self.config.n_costs, -1, 3)
        height, steepness, place = steps.unbind(dim=-1)  # each (..., C, units)
        rise = torch.tanh(softplus(steepness) * (self.squash(state).unsqueeze(-1) - place))
        return offset + (softplus(height) * rise).sum(dim=(-2, -1))

    def squash(self, state: Tensor) -> Tensor:
        """Safety states (..., C), infinite ones too, as rising numbers in [-1, 1] with detail at every scale."""
        return torch.tanh(state.unsqueeze(-1) / self.scales).mean(dim=-1)

    @property
    def usual_value(self) -> float:
        """The mean value of the texts that it was trained on."""
        return float(self.value_mean)

    @property
    def value_error(self) -> float:
        """Root mean square error of the value on held-out prompts, in units of reward."""
        return float(self.held_out_error)

    @torch.no_grad()
    def _spread_units(self) -> None:
        """Starts with the steps spread over the whole range of the squashed state, the same for every hidden state."""
        self.safety.weight.mul_(0.1)
        steps = self.safety.bias[1:].view(self.config.n_costs, self.config.units, 3)
        steps[..., 0] = 0.0
        steps[..., 1] = 4.0
        steps[..., 2] = torch.linspace(-0.2, 1.0, self.config.units)

    def check(self, **guard: Any) -> None:
        """Refuses to serve a guard it was not trained for; arguments as ``latent.config.check_binding``.

        Raises:
            MismatchError: Names both sides.
            ConfigurationError: The critic was never bound to a policy.
        """
        if self.binding is None:
            raise ConfigurationError("this critic is bound to no policy; set critic.binding = CriticBinding(...) first")
        check_binding(self.config, self.binding, **guard)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors.

        Raises:
            ConfigurationError: The critic was never bound to a policy.
        """
        if self.binding is None:
            raise ConfigurationError("this critic is bound to no policy; set critic.binding = CriticBinding(...) first")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "format": FORMAT,
            "critic": self.config.model_dump(mode="json"),
            "binding": self.binding.model_dump(mode="json"),
        }
        (folder / "config.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | Path, *, revision: str | None = None, device: torch.device | str | None = None
    ) -> "LatentCritic":
        """Loads a critic from a folder or the hub.

        Args:
            path_or_id: Folder or hub id.
            revision: Branch, tag or commit on the hub.
            device: Where to put it; the CPU if None.

        Raises:
            ModelLoadError: What is wrong with the checkpoint, and what to do next.
        """
        folder = local_folder(path_or_id, revision=revision)
        config, binding = _read(folder, source=str(path_or_id))
        critic = cls(config, binding)
        stored = read_tensors(folder)
        _refuse_differences(critic.state_dict(), stored, source=str(path_or_id))
        critic.load_state_dict(stored)
        return critic.to(device or "cpu").eval()

    def push_to_hub(
        self,
        repo_id: str,
        *,
        folder: str | Path | None = None,
        private: bool | None = None,
        revision: str | None = None,
    ) -> str:
        """Uploads the checkpoint to the Hugging Face hub.

        Args:
            repo_id: Such as ``me/my-policy-critic``; made if it does not exist.
            folder: Where it was saved, with its model card; None uploads the bare checkpoint.
            private: Whether a new repository is private.
            revision: Branch to push to.

        Returns:
            The commit's address.
        """
        api = HfApi()
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as fresh:
            self.save_pretrained(folder or fresh)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder or fresh, revision=revision, commit_message="Upload critic"
            )
        return str(commit.commit_url)


class _Block(nn.Module):
    """x + MLP(norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(nn.functional.gelu(self.inner(self.norm(x))))  # type: ignore[no-any-return]


def _read(folder: Path, *, source: str) -> tuple[CriticConfig, CriticBinding]:
    raw = read_config(folder)
    if raw.get("format") != FORMAT or set(raw) != {"format", "critic", "binding"}:
        raise ModelLoadError(
            f"{source}: config.json is not that of a critic in format {FORMAT} (its keys: {', '.join(sorted(raw))}). "
            "Give a folder that `inferenceguard train-critic` made, or update inferenceguard"
        )
    try:
        return CriticConfig.model_validate(raw["critic"]), CriticBinding.model_validate(raw["binding"])
    except ValidationError as error:
        raise ModelLoadError(
            f"{source}: config.json is not a critic's ({explain(error)}). Save or train it again"
        ) from error


def _refuse_differences(wanted: dict[str, Tensor], stored: dict[str, Tensor], *, source: str) -> None:
    """Refuses any tensor that is missing, unknown, misshapen, or not finite."""
    again = "Save or train the critic again"
    if set(wanted) != set(stored):
        missing, unknown = sorted(set(wanted) - set(stored)), sorted(set(stored) - set(wanted))
        raise ModelLoadError(f"{source}: weights lack {missing} and hold unknown {unknown}. {again}")
    for name, tensor in wanted.items():
        if stored[name].shape != tensor.shape:
            raise ModelLoadError(
                f"{source}: {name} is {tuple(stored[name].shape)}, the config asks for {tuple(tensor.shape)}. {again}"
            )
        if not bool(torch.isfinite(stored[name]).all()):
            raise ModelLoadError(f"{source}: {name} holds NaN or infinity. {again}")
