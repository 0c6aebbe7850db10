"""LangChain's caches and reconstructions: no guard answers with another's text, and none loses its judges."""

import asyncio
import copy
import functools
import pickle

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.runnables.configurable import ConfigurableFieldSingleOption
from transformers import LogitsProcessor

from critic_models.judges import CallableJudge
from ig_plugins.errors import MismatchError, ModelLoadError, OutsideCertificateError
from ig_plugins.guard import adapter_fields as guard_fields
from ig_plugins.guard.options import REFUSAL
from langchain_inferenceguard import ChatInferenceGuard, InferenceGuardLLM
from tests.ig_plugins.research.calibration.test_calls import certify
from tests.kit.guards import MARKER, make_guard, versioned
from tests.kit.tiny import save_tiny

CLASSES = [InferenceGuardLLM, ChatInferenceGuard]
UNSAFE = {f"This is {MARKER}": 1.0}


def text_of(answer):
    return getattr(answer, "content", answer)


def judge_of(score):
    def judge(prompts, responses):
        return [score] * len(responses)

    return judge


class Scorer:
    def __init__(self, score):
        self.score_of_all = score

    def __call__(self, prompts, responses):
        return [self.score_of_all] * len(responses)

    def judge(self, prompts, responses):
        return self(prompts, responses)


JUDGES = {
    "functions of one name": judge_of,
    "lambdas": lambda score: lambda prompts, responses: [score] * len(responses),
    "partials": lambda score: functools.partial(lambda s, prompts, responses: [s] * len(responses), score),
    "methods": lambda score: Scorer(score).judge,
    "objects": Scorer,
}


# ---- caches ----


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("kind", JUDGES)
def test_a_lax_judge_never_answers_for_a_strict_one_of_the_same_name(cls, kind):
    cache = InMemoryCache()
    lax, strict = (make_guard(UNSAFE, chat=True, cost=JUDGES[kind](score)) for score in (-1.0, 1.0))
    assert MARKER in text_of(cls.from_guard(lax, cache=cache).invoke("hi"))
    assert text_of(cls.from_guard(strict, cache=cache).invoke("hi")) == REFUSAL
    assert MARKER in text_of(cls.from_guard(lax, cache=cache).invoke("hi"))
    assert len(cache._cache) == 2, "one entry each"


@pytest.mark.parametrize("cls", CLASSES)
def test_the_same_with_await(cls):
    async def both():
        cache = InMemoryCache()
        lax, strict = (make_guard(UNSAFE, chat=True, cost=judge_of(score)) for score in (-1.0, 1.0))
        first = await cls.from_guard(lax, cache=cache).ainvoke("hi")
        return text_of(first), text_of(await cls.from_guard(strict, cache=cache).ainvoke("hi"))

    first, second = asyncio.run(both())
    assert MARKER in first
    assert second == REFUSAL


@pytest.mark.parametrize("cls", CLASSES)
def test_named_models_with_judges_of_one_name_share_nothing(cls, tmp_path):
    folders, cache = save_tiny(tmp_path), InMemoryCache()
    told = {
        "model": folders["policy"], "prompt_format": "beaver", "device": "cpu", "cache": cache, "max_tokens": 4,
        "seed": 1,
    }  # fmt: skip
    assert text_of(cls(**told, cost_model=judge_of(-1.0)).invoke("hi")) != REFUSAL
    assert text_of(cls(**told, cost_model=judge_of(1.0)).invoke("hi")) == REFUSAL


@pytest.mark.parametrize("cls", CLASSES)
def test_the_same_guard_hits_its_cache(cls):
    calls = []

    def counting(prompts, responses):
        calls.append(1)
        return [-1.0] * len(responses)

    guard = make_guard({"Fine.": 1.0}, chat=True, cost=counting)
    cache = InMemoryCache()
    first = cls.from_guard(guard, cache=cache).invoke("hi")
    done = len(calls)
    assert text_of(cls.from_guard(guard, cache=cache).invoke("hi")) == text_of(first)
    assert len(calls) == done


class Only(LogitsProcessor):
    """Forces a token, given by the instance alone: the class says nothing."""

    def __init__(self, token):
        self.token = token

    def __call__(self, ids, scores):
        forced = scores.new_full(scores.shape, -1e9)
        forced[:, self.token] = 0.0
        return forced

    def __repr__(self):
        return "Only()"


@pytest.mark.parametrize("cls", CLASSES)
def test_processors_of_one_class_share_nothing(cls):
    guard = make_guard({"a": 0.5, "b": 0.5}, chat=True, search={"max_new_tokens": 2})
    model = cls.from_guard(guard, cache=InMemoryCache())
    a, b = (guard.tokenizer.encode(text)[0] for text in "ab")
    assert text_of(model.invoke("hi", logits_processors=[Only(a)])) == "aa"
    assert text_of(model.invoke("hi", logits_processors=[Only(b)])) == "bb"
    assert text_of(model.bind(logits_processors=[Only(a)]).invoke("hi")) == "aa"


@pytest.mark.parametrize("cls", CLASSES)
def test_weights_that_changed_in_memory_are_not_answered_from_the_cache(cls, tmp_path):
    import torch

    folders = save_tiny(tmp_path)
    model = cls(
        model=folders["policy"], cost_model=judge_of(-1.0), prompt_format="beaver", device="cpu", max_tokens=6, seed=1,
        cache=InMemoryCache(),
    )  # fmt: skip
    model.invoke("hi")
    assert len(model.cache._cache) == 1
    with torch.no_grad():
        model.guard.components.policy.tree.body.model.lm_head.weight.mul_(0.5)
    model.invoke("hi")
    assert len(model.cache._cache) == 2


# ---- reconstructions ----


def strict_guard():
    return make_guard(UNSAFE, chat=True, cost=judge_of(1.0))


def rebuilt(model):
    """Every way in which LangChain and pydantic make a model again from what it says of itself."""
    told = {name: getattr(model, name) for name in type(model).model_fields}
    temperature = ConfigurableField(id="t")
    alternatives = model.configurable_alternatives(ConfigurableField(id="which"), other=RunnableLambda(str))
    option = ConfigurableFieldSingleOption(id="o", options={"low": 0.5}, default="low")
    return {
        "configurable_fields": model.configurable_fields(temperature=temperature).with_config(configurable={"t": 0.5}),
        "configurable_fields, in the call": RunnableLambda(
            lambda text: model.configurable_fields(temperature=temperature).invoke(
                text, config={"configurable": {"t": 0.5}}
            )
        ),
        "configurable options": model.configurable_fields(temperature=option),
        "configurable_alternatives": alternatives.with_config(configurable={"which": "default"}),
        "fields of alternatives": model.configurable_fields(temperature=temperature)
        .configurable_alternatives(ConfigurableField(id="which"), other=RunnableLambda(str))
        .with_config(configurable={"which": "default", "t": 0.5}),
        "the class from its fields": type(model)(**told),
        "the class from __dict__": type(model)(**model.__dict__),
        "model_copy": model.model_copy(update={"temperature": 0.5}),
        "deep copy": model.model_copy(deep=True),
        "copy": copy.copy(model),
        "deepcopy": copy.deepcopy(model),
        "pickle": pickle.loads(pickle.dumps(model)),
        "model_construct": type(model).model_construct(**told),
        "validation of a dump": type(model).model_validate(
            {name: value for name, value in model.model_dump().items() if name in type(model).model_fields}
        ),
        "bind": model.bind(temperature=0.5),
        "with_retry": model.with_retry(),
        "with_config": model.with_config(tags=["a"]),
        "with_fallbacks": model.with_fallbacks([model]),
    }


WAYS = list(rebuilt(InferenceGuardLLM(model="tiny-beaver")))


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("way", WAYS)
def test_no_reconstruction_loses_the_judges_of_a_wrapped_guard(cls, way):
    guard = strict_guard()  # held here: a pickle holds no guard
    assert text_of(rebuilt(cls.from_guard(guard))[way].invoke("hi")) == REFUSAL


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("way", WAYS)
def test_nor_the_budget(cls, way):
    lax = make_guard(UNSAFE, chat=True, cost=judge_of(5.0)).with_options(budget=9.0)
    strict = lax.with_options(budget=4.0)
    assert MARKER in text_of(rebuilt(cls.from_guard(lax))[way].invoke("hi"))
    assert text_of(rebuilt(cls.from_guard(strict))[way].invoke("hi")) == REFUSAL


@pytest.mark.parametrize("cls", CLASSES)
def test_a_wrapped_guard_has_its_own_models(cls):
    model = cls.from_guard(strict_guard())
    lax = judge_of(-1.0)
    fields = {
        "model": "tiny-beaver", "cost_model": lax, "reward_model": lax, "critic": False, "prompt_format": "plain",
        "revision": "x", "device": "cpu", "dtype": "float32", "load_options": {"a": 1}, "certificate": "c.json",
        "tokenizer": "x",
        "outside_certificate": "mark",
    }  # fmt: skip
    assert set(fields) == set(guard_fields.LOADING)
    for name, value in fields.items():
        with pytest.raises(MismatchError, match=f"{name} was given"):
            cls.from_guard(strict_guard(), **{name: value})
        with pytest.raises(MismatchError, match=f"{name} was given"):
            model.configurable_fields(**{name: ConfigurableField(id="x")}).invoke("hi", {"configurable": {"x": value}})
        with pytest.raises(MismatchError, match=f"{name} was given"):
            model.model_copy(update={name: value}).invoke("hi")
    with pytest.raises(MismatchError, match="model was given"):
        model.invoke("hi", model="tiny-beaver")
    assert text_of(model.invoke("hi", model=model.model)) == REFUSAL


@pytest.mark.parametrize("cls", CLASSES)
def test_fields_that_stand_for_a_guard_of_another_process_make_no_model(cls, monkeypatch):
    model = cls.from_guard(strict_guard())
    told = {name: getattr(model, name) for name in cls.model_fields}
    monkeypatch.setattr(guard_fields, "_wrapped", {})
    with pytest.raises(ModelLoadError, match="from_guard"):
        cls(**told)
    with pytest.raises(ModelLoadError, match="from_guard"):
        model.configurable_fields(temperature=ConfigurableField(id="t")).invoke("hi", {"configurable": {"t": 0.5}})


@pytest.mark.parametrize("cls", CLASSES)
def test_a_judge_that_is_changed_after_loading_is_the_one_that_judges(cls, tmp_path):
    folders = save_tiny(tmp_path)
    model = cls(
        model=folders["policy"], cost_model=judge_of(-1.0), prompt_format="beaver", device="cpu", max_tokens=4, seed=1
    )  # fmt: skip
    assert text_of(model.invoke("hi")) != REFUSAL
    strict = model.model_copy(update={"cost_model": judge_of(1.0)})
    assert text_of(strict.invoke("hi")) == REFUSAL
    assert text_of(model.invoke("hi")) != REFUSAL, "the copy's judge is the copy's alone"
    listed = model.model_copy(update={"cost_model": [judge_of(-1.0), judge_of(1.0)]})
    assert text_of(listed.invoke("hi")) == REFUSAL
    model.cost_model = judge_of(1.0)
    assert text_of(model.invoke("hi")) == REFUSAL
    configurable = model.configurable_fields(cost_model=ConfigurableField(id="c"))
    assert text_of(configurable.invoke("hi", {"configurable": {"c": judge_of(-1.0)}})) != REFUSAL
    assert text_of(configurable.invoke("hi")) == REFUSAL


# ---- certificates ----


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return certify(versioned(make_guard(chat=True)), tmp_path_factory.mktemp("c") / "certificate.json")


@pytest.mark.parametrize("cls", CLASSES)
def test_a_call_outside_the_certificate_is_refused_however_it_comes(cls, certificate):
    model = cls.from_guard(versioned(make_guard(chat=True)).with_certificate(certificate))
    assert text_of(model.invoke("hi", seed=3))
    configurable = model.configurable_fields(temperature=ConfigurableField(id="t"))
    for ask in (
        lambda: model.invoke("hi", budget=1e6),
        lambda: model.bind(candidates=1, beams=1).invoke("hi"),
        lambda: list(model.stream("hi", temperature=0.5)),
        lambda: asyncio.run(model.ainvoke("hi", stop=["x"])),
        lambda: configurable.invoke("hi", {"configurable": {"t": 0.5}}),
        lambda: model.batch(["hi", "ho"], budget=1e6),
        lambda: cls.from_guard(model.guard, temperature=0.5).invoke("hi"),
        lambda: cls.from_guard(model.guard, cache=InMemoryCache()).invoke("hi", temperature=0.5),
    ):
        with pytest.raises(OutsideCertificateError):
            ask()


def test_it_is_marked_in_the_messages_report(certificate):
    chat = ChatInferenceGuard.from_guard(versioned(make_guard(chat=True)).with_certificate(certificate, outside="mark"))
    assert chat.invoke("hi").response_metadata["inference_guard"]["certified"] is True
    assert chat.invoke("hi", temperature=0.5).response_metadata["inference_guard"]["certified"] is False


@pytest.mark.parametrize("cls", CLASSES)
def test_the_field_of_the_same_name(cls, tmp_path):
    from ig_plugins import InferenceGuard

    folders = save_tiny(tmp_path)
    judge = CallableJudge(judge_of(-1.0), version="always safe")
    told = {"cost_model": judge, "prompt_format": "beaver", "device": "cpu"}
    path = certify(InferenceGuard.from_pretrained(folders["policy"], **told), tmp_path / "c.json")
    refusing = cls(model=folders["policy"], **told, certificate=path)
    assert text_of(refusing.invoke("hi", seed=1))
    with pytest.raises(OutsideCertificateError):
        refusing.invoke("hi", max_tokens=3)
    marking = refusing.model_copy(update={"outside_certificate": "mark"})
    assert text_of(marking.invoke("hi", max_tokens=9, seed=1))
