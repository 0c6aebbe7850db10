"""A linear head on what a text says: hashed n-grams, a sentence encoder's vectors, its length. One folder, no code."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors.torch import save_file
from torch import Tensor

from critic_models.errors import ModelLoadError
from critic_models.hub import local_folder, read_config, read_tensors
from critic_models.judges.heads.encoder import Encoder, EncoderConfig, pair_features
from critic_models.judges.heads.ngrams import NgramConfig, bags, product, weighted
from critic_models.judges.protocol import Kind, check_pairs, check_scores, judge_errors
from critic_models.safety.budget import Accounting
from critic_models.validation import explain


class TextHeadConfig(BaseModel):
    """What config.json of a text head says.

    Attributes:
        architectures: Tells the folder from other judges' folders.
        version: Of the format; a change that old readers would misread raises it.
        kind: A cost head scores the probability of unsafe, a reward head a number without a scale.
        ngrams: What it reads of hashed n-grams; None for none.
        encoder: What it reads vectors with; None for none.
        length: Whether it reads the response's length.
        threshold: A cost above it is unsafe.
        rule: How the threshold was set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    architectures: tuple[Literal["InferenceGuardTextHead"]] = ("InferenceGuardTextHead",)
    version: Literal[1] = 1
    kind: Kind
    ngrams: NgramConfig | None = None
    encoder: EncoderConfig | None = None
    length: bool = False
    threshold: float = Field(default=0.5)
    rule: str = "probability one half"

    @model_validator(mode="after")
    def _reads_something(self) -> "TextHeadConfig":
        if not (self.ngrams or self.encoder or self.length):
            raise ValueError("neither n-grams nor an encoder nor the length: there is nothing to read")
        return self

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that go with it."""
        shapes: dict[str, tuple[int, ...]] = {"bias": (1,)}
        if self.ngrams:
            shapes |= {"ngrams.weight": (self.ngrams.buckets,), "ngrams.idf": (self.ngrams.buckets,)}
        if self.encoder:
            shapes |= {"encoder.weight": (4 * self.encoder.hidden_size,), "encoder.check": (self.encoder.hidden_size,)}
        if self.length:
            shapes["length.weight"] = (1,)
        return shapes


class TextHead:
    """A judge that reads prompt and response. As a cost: the probability that the answer is unsafe.

    Args:
        config: What it reads.
        tensors: As ``config.shapes()``, any floating precision.
        encoder: Where the config asks for one.
        name: Shown in results.

    Raises:
        ModelLoadError: Tensors that do not fit the config, or are not finite.
        MismatchError: Another encoder than the head's own.
    """

    default_accounting: Accounting = "worst"
    default_discount = 1.0

    def __init__(
        self, config: TextHeadConfig, tensors: dict[str, Tensor], *, encoder: Encoder | None = None, name: str = "head"
    ) -> None:
        self.config, self.name, self.encoder = config, name, encoder
        self.tensors = checked(tensors, config.shapes(), source=name)
        self.default_limit = config.threshold if config.kind == "cost" else 0.0
        if config.encoder:
            if encoder is None:
                raise ModelLoadError(f"{name} reads with an encoder; give it, or load the head with load_judge")
            encoder.check(self.tensors["encoder.check"], source=name)

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], *, finished: Sequence[bool] | None = None
    ) -> list[float]:
        """See ``Judge.score``; finished or not, a response is scored as it stands."""
        check_pairs(prompts, responses, judge=self.name)
        if not responses:
            return []
        with judge_errors(self.name):
            raw = self.raw(prompts, responses)
        scores = raw.sigmoid() if self.config.kind == "cost" else raw
        return check_scores(scores, count=len(responses), judge=self.name)

    @torch.inference_mode()
    def raw(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        """The linear score before any sigmoid: float32, shape (B,)."""
        total = self.tensors["bias"].expand(len(responses)).clone()
        if self.config.ngrams:
            found = weighted(bags(prompts, responses, self.config.ngrams), self.tensors["ngrams.idf"])
            total += product(found, self.tensors["ngrams.weight"])
        if self.config.encoder and self.encoder:
            total += embedded(self.encoder, prompts, responses) @ self.tensors["encoder.weight"]
        if self.config.length:
            total += lengths(responses) * self.tensors["length.weight"]
        return total

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and head.safetensors; n-gram tables in float16, which changes scores by about 0.001."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(
            json.dumps(self.config.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8"
        )
        halved = {n: t.half() if n.startswith("ngrams.") else t.clone() for n, t in self.tensors.items()}
        save_file(halved, folder / "head.safetensors", metadata={"format": "pt"})

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        kind: Kind | None = None,
        name: str | None = None,
        revision: str | None = None,
        device: torch.device | str | None = None,
    ) -> "TextHead":
        """Loads a head and its encoder.

        Args:
            path_or_id: A local folder or a hub id.
            kind: What it is to score; refused where the head scores the other.
            name: Shown in results; the path if None.
            revision: Branch, tag or commit on the hub.
            device: Where the encoder runs.

        Raises:
            ModelLoadError: Not a text head of a known version, broken weights, or its encoder is not here.
            MismatchError: The encoder that is here is another one.
        """
        folder = local_folder(path_or_id, revision=revision)
        config = read_head(TextHeadConfig, folder, source=str(path_or_id))
        check_kind(config.kind, kind, source=str(path_or_id))
        encoder = Encoder.load(config.encoder.sources, device=device) if config.encoder else None
        return cls(config, read_tensors(folder), encoder=encoder, name=name or str(path_or_id))


def embedded(encoder: Encoder, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
    """Features (B, 4 H) of pairs; texts that repeat, as a search's prompt does, are read once."""
    texts = list(dict.fromkeys([*prompts, *responses]))
    place = {text: index for index, text in enumerate(texts)}
    vectors = encoder.vectors(texts)
    return pair_features(vectors[[place[text] for text in prompts]], vectors[[place[text] for text in responses]])


def lengths(responses: Sequence[str]) -> Tensor:
    """log(1 + words) of each response, shape (B,)."""
    return torch.tensor([float(len(text.split())) for text in responses]).log1p()


def read_head(schema: Any, folder: Path, *, source: str) -> Any:
    """A head's config.json.

    Raises:
        ModelLoadError: It says something that this version does not know.
    """
    raw = read_config(folder)
    try:
        return schema(**raw)
    except ValidationError as error:
        raise ModelLoadError(
            f"{source}: config.json describes no head that this version reads ({explain(error)}). Train it again with "
            "inferenceguard train-judge, or load it with the version that wrote it"
        ) from error


def check_kind(found: Kind, wanted: Kind | None, *, source: str) -> None:
    """Refuses a reward head as a cost and the other way round: its sign would be wrong.

    Raises:
        ModelLoadError: They differ.
    """
    if wanted is not None and found != wanted:
        raise ModelLoadError(f"{source} is a {found} head; it cannot score {wanted}. Name it as the {found} model")


def checked(tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], *, source: str) -> dict[str, Tensor]:
    """The tensors in float32, each there, of its shape and finite.

    Raises:
        ModelLoadError: Names the first that is not.
    """
    for name, shape in shapes.items():
        if name not in tensors:
            raise ModelLoadError(f"{source} lacks the tensor {name}. Download or train the head again")
        if tuple(tensors[name].shape) != shape:
            raise ModelLoadError(f"{source}: {name} is {tuple(tensors[name].shape)}, its config asks for {shape}")
        if not bool(torch.isfinite(tensors[name]).all()):
            raise ModelLoadError(f"{source}: {name} holds NaN or infinity. Download or train the head again")
    return {name: tensors[name].detach().float() for name in shapes}
