"""Safe-RLHF score models: a decoder body and a linear head that scores every token (arXiv 2310.12773)."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from critic_models.errors import ModelLoadError
from critic_models.hub import load_weights, local_folder, read_config, read_tensors
from critic_models.score_models.normalizer import Normalizer
from critic_models.score_models.settings import ScoreSettings


class ScoreModel(PreTrainedModel):  # type: ignore[misc]  # transformers is untyped here
    """A score for every token: one forward gives the whole cost or reward curve.

    The layout on disk is that of Safe-RLHF's ``LlamaForScore``: the body under ``model.``, ``score_head.weight``
    (1, H), ``score_head.bias`` (1,), and the buffers ``normalizer.{mean,var,count}``. The head reads the post-norm
    hidden state in float32 whatever the body's precision. Any decoder family of transformers can be the body; the
    config's ``model_type`` says which.

    Attributes:
        model: The body, under the name that the layout gives it; ``body`` is the same.
        score_head: nn.Linear(H, 1), float32.
        normalizer: Raw scores pass through unless the config says ``do_normalize``.
        settings: The score part of the config.
    """

    config_class = PreTrainedConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules = {"score_head", "normalizer"}  # quantisers skip these
    _keep_in_fp32_modules_strict = {"score_head", "normalizer"}  # and these stay when bfloat16 is asked for

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.settings = ScoreSettings.read(config.to_dict(), source=config.name_or_path or "score model")
        self.model = AutoModel.from_config(_unpinned(config))
        self.score_head = nn.Linear(config.hidden_size, 1, bias=self.settings.score_bias)
        self.normalizer = Normalizer(self.settings)
        self.post_init()

    @classmethod
    def build(cls, body: PreTrainedConfig, **settings: Any) -> "ScoreModel":
        """A new score model with random weights.

        Args:
            body: Configuration of the body, such as a ``LlamaConfig``.
            **settings: Fields of ``ScoreSettings``, such as ``score_type="cost"``.
        """
        body = type(body).from_dict({**body.to_dict(), **ScoreSettings(**settings).model_dump()})
        return cls(body)

    @property
    def body(self) -> PreTrainedModel:
        """The transformer without a head; its ``last_hidden_state`` (B, T, H) is post-norm."""
        return self.model

    def score_hidden(self, hidden: Tensor) -> Tensor:
        """Scores of post-norm hidden states.

        Args:
            hidden: Shape (..., H), any floating precision.

        Returns:
            float32, shape (...). Not checked for NaN.
        """
        scores = self.score_head(hidden.to(torch.float32)).squeeze(-1)
        return self.normalizer(scores)  # type: ignore[no-any-return]

    def score_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Scores of every token in one full forward.

        Args:
            ids: Token ids, shape (B, T), right-padded.
            mask: 1 at tokens and 0 at padding, shape (B, T).

        Returns:
            float32, shape (B, T); what stands at padding means nothing.
        """
        hidden = self.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return self.score_hidden(hidden)

    def end_scores(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Scores at the last unmasked token, shape (B,). Arguments as ``score_tokens``."""
        scores = self.score_tokens(ids, mask)
        last = (mask.to(torch.long) * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(dim=1)
        return scores.gather(1, last.to(scores.device).unsqueeze(1)).squeeze(1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The same as ``score_tokens``; without a mask every token counts."""
        return self.score_tokens(input_ids, torch.ones_like(input_ids) if attention_mask is None else attention_mask)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        revision: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        **load_kwargs: Any,
    ) -> "ScoreModel":
        """Loads a checkpoint in the Safe-RLHF layout, in one safetensors file or in shards.

        Args:
            path_or_id: A local folder or a hub id.
            revision: Branch, tag or commit on the hub.
            device: Where to put the model; leave it out with ``device_map``.
            dtype: Precision of the body; the checkpoint's own if None. The head stays in float32.
            **load_kwargs: Passed on to transformers: ``device_map``, ``quantization_config``, ...

        Raises:
            ModelLoadError: What is wrong with the checkpoint, and what to do next.
        """
        folder = local_folder(path_or_id, revision=revision)
        raw = read_config(folder)
        settings = ScoreSettings.read(raw, source=str(path_or_id))
        stored = read_tensors(folder, prefix="normalizer.")
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:
            raise ModelLoadError(
                f"{path_or_id}: transformers cannot load this config ({type(error).__name__}: {error}). "
                "Check config.json's model_type"
            ) from error
        load_kwargs |= {"config": config, "device": device, "dtype": dtype}
        model = load_weights(super().from_pretrained, folder, source=str(path_or_id), strict=True, **load_kwargs)
        _fill_normalizer(model.normalizer, stored, settings, source=str(path_or_id))
        return model  # type: ignore[no-any-return]

    def save_pretrained(self, save_directory: str | Path, *, max_shard_size: str = "5GB", **_: Any) -> None:
        """Writes the checkpoint in the Safe-RLHF layout: config.json and safetensors in shards."""
        super().save_pretrained(save_directory, max_shard_size=max_shard_size)
        family = type(self.model).__name__.removesuffix("Model")
        self.config.architectures = [f"{family}ForScore"]  # transformers wrote this class's own name
        self.config.save_pretrained(save_directory)


def _unpinned(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy in which the body may choose its attention: this wrapper has none, and would pin it to the slow one."""
    config = copy.deepcopy(config)
    if config._attn_implementation == "eager":
        config._attn_implementation = None
    return config


def _fill_normalizer(
    normalizer: Normalizer, stored: dict[str, Tensor], settings: ScoreSettings, *, source: str
) -> None:
    """Puts the stored statistics in place, whatever their rank; the config's own stand in where none are stored."""
    fallback = {"mean": settings.mean, "var": settings.var, "count": 0}
    for name, value in fallback.items():
        buffer: Tensor = getattr(normalizer, name)
        tensor = stored.get(f"normalizer.{name}")
        if tensor is None:
            if settings.normalizes and value is None and not (name == "mean" and settings.score_type == "cost"):
                raise ModelLoadError(
                    f"{source}: do_normalize is true, but neither the weights nor config.json hold the "
                    f"normaliser's {name}. Set do_normalize to false for raw scores, or restore the statistics"
                )
            value = (1.0 if name == "var" else 0.0) if value is None else value
            tensor = torch.tensor([value])
        if tensor.numel() != 1:
            raise ModelLoadError(
                f"{source}: normalizer.{name} has shape {tuple(tensor.shape)}; score_dim 1 allows one value only"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ModelLoadError(
                f"{source}: normalizer.{name} is NaN or infinite. Train or download the checkpoint again"
            )
        buffer.copy_(tensor.reshape(1))
