"""From whatever a user has (a function, a folder, a hub id, a loaded model) to a judge."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
)

from critic_models.errors import ConfigurationError, ModelLoadError
from critic_models.hub import load_weights, local_folder, read_config, read_tensors
from critic_models.judges.callables import CallableJudge
from critic_models.judges.classifier import ClassifierJudge, Label
from critic_models.judges.guard_llm import GuardJudge
from critic_models.judges.named import is_function_name, named_function
from critic_models.judges.protocol import Judge, Kind
from critic_models.judges.remote import is_address, judge_at
from critic_models.judges.score import ScoreJudge
from critic_models.judges.templates import GuardTemplate
from critic_models.judges.vocabularies import read_tokenizer
from critic_models.score_models import ScoreModel

HEADS = TEXT_HEAD, PROBE = "InferenceGuardTextHead", "InferenceGuardProbe"
ALLOWED = (
    "a callable f(prompts, responses) -> list of floats, its name (module:function or file.py:function), a "
    "checkpoint's folder or hub id, a (model, tokenizer) pair, a text-classification pipeline, or an object with the "
    "Judge protocol"
)


def as_judge(thing: Any, *, name: str | None = None, kind: Kind, **options: Any) -> Judge:
    """Makes a judge of what a user passed as ``cost_model`` or ``reward_model``.

    Args:
        thing: A callable, a judge, a folder or hub id, a (model, tokenizer) pair, or a transformers pipeline.
        name: Shown in results.
        kind: Whether it scores cost or reward.
        **options: As ``load_judge``, where a model is behind it.

    Raises:
        ConfigurationError: It is none of these.
        ModelLoadError: Its checkpoint cannot be loaded.
    """
    if isinstance(thing, str | Path):
        return load_judge(thing, kind=kind, name=name, **options)
    if isinstance(thing, Judge):
        if name is None or name == thing.name:
            return thing
        raise ConfigurationError(f"judge {thing.name!r} cannot be renamed to {name!r}; give the name when making it")
    if isinstance(thing, tuple) and len(thing) == 2:
        return judge_of(*thing, kind=kind, name=name, **options)
    if isinstance(thing, nn.Module):
        raise ConfigurationError(f"{type(thing).__name__} alone cannot read text; give the pair (model, tokenizer)")
    if hasattr(thing, "model") and hasattr(thing, "tokenizer"):
        return judge_of(thing.model, thing.tokenizer, kind=kind, name=name, **options)
    if callable(thing) and not isinstance(thing, type):
        return CallableJudge(thing, name=name)
    raise ConfigurationError(f"{type(thing).__name__} is not a judge; give {ALLOWED}")


def load_judge(
    path_or_id: str | Path,
    *,
    kind: Kind,
    name: str | None = None,
    revision: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    unsafe_label: Label | Sequence[Label] | None = None,
    template: str | GuardTemplate | None = None,
    judge_options: dict[str, Any] | None = None,
    policy: tuple[Any, PreTrainedTokenizerBase] | None = None,
    **load_kwargs: Any,
) -> Judge:
    """Loads a judge's checkpoint; config.json's ``architectures`` say of which kind it is.

    Args:
        path_or_id: A Safe-RLHF score model, a sequence classifier, a reward model with one output, a guard LLM, or a
            head from train-judge; a function's name, ``module:function`` or ``file.py:function``; or the address of
            an endpoint, ``https://host/path`` or ``classify+http://host:8000/model?label=1`` (or ``tokens+``,
            ``verdict+``).
        kind: Whether it scores cost or reward.
        name: Shown in results; the checkpoint's name if None.
        revision: Branch, tag or commit on the hub.
        device: Where to put the model; leave it out with ``device_map``.
        dtype: Precision; the checkpoint's own if None.
        unsafe_label: Of a classifier, where ``id2label`` does not say it.
        template: Of a guard LLM: a family's name, a text, or a ``GuardTemplate``.
        judge_options: More of the judge's own arguments: ``batch_size``, ``max_tokens``, ``reads``, ``label``, ...
        policy: Whose hidden states a probe reads, with its tokenizer; other judges do not need it.
        **load_kwargs: Passed on to transformers: ``device_map``, ``quantization_config``, ...

    Raises:
        ModelLoadError: Nothing there, an unsafe format, or a checkpoint of no kind that judges.
        ConfigurationError: The checkpoint loads, but how to read it is ambiguous.
    """
    if is_address(path_or_id):
        said = {"name": name, "template": template}
        known = {key: value for key, value in said.items() if value is not None}
        return judge_at(str(path_or_id), **known, **(judge_options or {}))
    if isinstance(path_or_id, str) and is_function_name(path_or_id):
        found = named_function(path_or_id)
        if isinstance(found, str | Path):
            raise ConfigurationError(f"{path_or_id!r} is a text, not a function; give {ALLOWED}")
        return as_judge(found, kind=kind, name=None if isinstance(found, Judge) else name)
    folder = local_folder(path_or_id, revision=revision)
    architecture = _architecture(folder, source=str(path_or_id))
    options = {"name": name or str(path_or_id), **(judge_options or {})}
    if architecture in HEADS:
        return _head(architecture, folder, kind=kind, device=device, policy=policy, **options)
    if unsafe_label is not None:
        options["label"] = unsafe_label
    if template is not None:
        options["template"] = template
    placing = {"device": device, "dtype": dtype, **load_kwargs}
    tokenizer = read_tokenizer(folder, source=str(path_or_id))
    if architecture.endswith("ForScore"):
        model: Any = ScoreModel.from_pretrained(folder, **placing)
    else:
        auto = AutoModelForSequenceClassification if architecture.endswith("Classification") else AutoModelForCausalLM
        model = load_weights(auto.from_pretrained, folder, source=str(path_or_id), **placing)
    return judge_of(model, tokenizer, kind=kind, **options)


def is_probe(path_or_id: str | Path, *, revision: str | None = None) -> bool:
    """Whether a name leads to a probe, which is loaded onto a policy; nothing is loaded here.

    Raises:
        ModelLoadError: It leads nowhere.
    """
    if is_address(path_or_id) or (isinstance(path_or_id, str) and is_function_name(path_or_id)):
        return False
    raw = read_config(local_folder(path_or_id, revision=revision))
    return PROBE in (raw.get("architectures") or [])


def _head(architecture: str, folder: Path, *, policy: Any, device: Any, **options: Any) -> Judge:
    """A text head or a probe."""
    from critic_models.judges.heads import Probe, TextHead  # they are judges themselves, so they import this package

    if architecture == TEXT_HEAD:
        return TextHead.from_pretrained(folder, device=device, **options)
    return Probe.from_pretrained(folder, policy=policy, **options)


def judge_of(model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, kind: Kind, **options: Any) -> Judge:
    """The judge for a loaded model, by the model's class.

    Raises:
        ConfigurationError: A model or option that fits no judge.
    """
    architecture = type(model).__name__
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ConfigurationError(f"the pair's second part is {type(tokenizer).__name__}; give the model's tokenizer")
    if isinstance(model, ScoreModel):
        judge: Any = ScoreJudge
    elif architecture.endswith("ForSequenceClassification"):
        judge, options = ClassifierJudge, {"kind": kind, **options}
    elif architecture.endswith(("ForCausalLM", "LMHeadModel")) and kind == "cost":
        judge = GuardJudge
    elif architecture.endswith(("ForCausalLM", "LMHeadModel")):
        raise ConfigurationError(
            f"{architecture} is a language model; as a guard it can score cost, not reward. "
            "For a reward give a score model, a classifier with one output, or a callable"
        )
    else:
        raise ConfigurationError(f"{architecture} is no model that judges; give {ALLOWED}")
    try:
        return judge(model, tokenizer, **options)  # type: ignore[no-any-return]
    except TypeError as error:
        raise ConfigurationError(
            f"{judge.__name__} does not know one of the options {sorted(options)}: {error}"
        ) from error


def _architecture(folder: Path, *, source: str) -> str:
    """The checkpoint's architecture, "LlamaForScore" and the like.

    Raises:
        ModelLoadError: It is of no kind that judges.
    """
    named = read_config(folder).get("architectures") or []
    for architecture in map(str, named):
        if architecture in HEADS or architecture.endswith(
            ("ForScore", "ForSequenceClassification", "ForCausalLM", "LMHeadModel")
        ):
            return architecture
    if not named and read_tensors(folder, prefix="score_head."):
        return "LlamaForScore"
    raise ModelLoadError(
        f"{source}: its architectures are {named or 'not given'}, and a judge is a score model (...ForScore), a "
        "classifier (...ForSequenceClassification), a guard LLM (...ForCausalLM) or a head from train-judge. Name "
        "another checkpoint"
    )
