"""Training of a text head: each part of what it reads is fitted alone, then the parts are weighed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from critic_models.judges.heads.encoder import KNOWN_TEXT, Encoder, EncoderConfig
from critic_models.judges.heads.ngrams import NgramConfig, bags, inverse_frequencies, weighted
from critic_models.judges.heads.text import TextHead, TextHeadConfig, embedded, lengths
from critic_models.judges.protocol import Kind
from critic_models.training.heads.data import Examples, folds
from critic_models.training.heads.linear import Texts, best_strength, calibration, fit

INNER_FOLDS = 5
Progress = Callable[[str], None]


@dataclass(frozen=True)
class TextTraining:
    """What a text head is to read, and how it learns.

    Attributes:
        ngrams: None to read none.
        encoder: Where a sentence encoder is found, the first source that is there; empty to read none.
        length: Whether to read the response's length.
        pair_weight: Of a preference pair, where a labelled answer counts 1.
        seed: Decides the folds.
    """

    ngrams: NgramConfig | None = field(default_factory=NgramConfig)
    encoder: tuple[str, ...] = ()
    length: bool = False
    pair_weight: float = 1.0
    seed: int = 0


def train_text_head(
    train: Examples,
    *,
    kind: Kind,
    training: TextTraining,
    name: str = "head",
    on_part: Progress | None = None,
) -> tuple[TextHead, dict[str, Any]]:
    """Fits a head; its threshold is yet to be set.

    Args:
        train: Nothing of what it will be measured on.
        kind: Cost or reward.
        training: See there.
        name: Of the judge.
        on_part: Told each part before it is fitted.

    Returns:
        The head, and per part the regularisation that was chosen and what the part counts.

    Raises:
        ConfigurationError: Nothing to learn from, or too few prompts.
        ModelLoadError: The encoder is not here.
    """
    texts = Texts(train, kind, training.pair_weight)
    texts.check()
    parts = folds(train.prompts, INNER_FOLDS, seed=training.seed)
    encoder = Encoder.load(training.encoder) if training.encoder else None
    tensors: dict[str, Tensor] = {}
    blocks: dict[str, Any] = {}
    if training.ngrams:
        blocks["ngrams"], tensors["ngrams.idf"] = _ngrams(texts, training.ngrams)
    if encoder:
        blocks["encoder"] = embedded(encoder, texts.prompts, texts.responses).double().numpy()
        tensors["encoder.check"] = encoder.vectors([KNOWN_TEXT])[0]
    if training.length:
        blocks["length"] = lengths(texts.responses).double().numpy()[:, None]
    scores, models, notes = [], {}, {}
    for part, features in blocks.items():
        if on_part:
            on_part(part)
        strength, crossed = best_strength(texts, features, parts)
        scores.append(crossed)
        models[part] = fit(texts.design(features), strength=strength)
        notes[part] = {"C": strength}
    shares = calibration(texts, np.stack(scores, axis=1))
    bias = shares.bias
    for share, (part, model) in zip(shares.weight, models.items(), strict=True):
        tensors[f"{part}.weight"] = torch.from_numpy(share * model.weight).float()
        bias += share * model.bias
        notes[part]["counts"] = float(share)
    tensors["bias"] = torch.tensor([bias if kind == "cost" else 0.0], dtype=torch.float32)
    config = TextHeadConfig(
        kind=kind,
        ngrams=training.ngrams,
        encoder=EncoderConfig(sources=training.encoder, hidden_size=encoder.hidden_size) if encoder else None,
        length=training.length,
    )
    return TextHead(config, _as_saved(tensors), encoder=encoder, name=name), notes


def _ngrams(texts: Texts, config: NgramConfig) -> tuple[Any, Tensor]:
    """The sparse matrix (n, buckets) and the inverse frequencies (buckets,), as the head will read them."""
    from scipy.sparse import csr_matrix

    found = bags(texts.prompts, texts.responses, config)
    idf = inverse_frequencies(found, config.buckets).half().float()
    found = weighted(found, idf)
    places = (found.rows.numpy(), found.buckets.numpy())
    return csr_matrix((found.values.double().numpy(), places), shape=(found.size, config.buckets)), idf


def _as_saved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rounded as a file holds them, so that what is measured is what will be loaded."""
    return {name: t.half().float() if name.startswith("ngrams.") else t for name, t in tensors.items()}
