"""LlamaIndex's ingestion cache and reconstructions: no guard answers with another's text, and none loses its judges."""

import copy
import pickle

import pytest
from llama_index.core.extractors import TitleExtractor
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index.core.workflow import JsonPickleSerializer, JsonSerializer

from critic_models.judges import CallableJudge
from ig_plugins.errors import MismatchError, ModelLoadError, OutsideCertificateError
from ig_plugins.guard import adapter_fields as guard_fields
from ig_plugins.guard.options import REFUSAL
from llama_index.llms.inferenceguard import InferenceGuardLLM, RequestError
from tests.adapters.langchain.test_identity import JUDGES, UNSAFE, judge_of, strict_guard
from tests.ig_plugins.research.calibration.test_calls import certify
from tests.kit.guards import MARKER, cost_of_marker, make_guard, versioned
from tests.kit.tiny import save_tiny


def titles(llm, cache):
    """The title that an ingestion pipeline finds for a page."""
    extractor = TitleExtractor(llm=llm, nodes=1, num_workers=1)
    pipeline = IngestionPipeline(transformations=[extractor], cache=cache, documents=None)
    (node,) = pipeline.run(nodes=[TextNode(text="A page.", id_="page")], show_progress=False)
    return node.metadata["document_title"]


@pytest.mark.parametrize("kind", JUDGES)
def test_a_lax_judge_never_answers_for_a_strict_one_of_the_same_name(kind):
    cache = IngestionCache()
    lax, strict = (make_guard(UNSAFE, chat=True, cost=JUDGES[kind](score)) for score in (-1.0, 1.0))
    assert MARKER in titles(InferenceGuardLLM.from_guard(lax), cache)
    assert titles(InferenceGuardLLM.from_guard(strict), cache) == REFUSAL
    assert MARKER in titles(InferenceGuardLLM.from_guard(lax), cache)
    assert len(cache.cache.get_all(collection=cache.collection)) == 2


def test_named_models_with_judges_of_one_name_share_nothing(tmp_path):
    folders, cache = save_tiny(tmp_path), IngestionCache()
    told = {"model": folders["policy"], "prompt_format": "beaver", "device": "cpu", "max_tokens": 4, "seed": 1}
    assert titles(InferenceGuardLLM(**told, cost_model=judge_of(-1.0)), cache) != REFUSAL
    assert titles(InferenceGuardLLM(**told, cost_model=judge_of(1.0)), cache) == REFUSAL


def test_prompt_functions_are_part_of_the_key():
    cache, guard = IngestionCache(), make_guard(lambda prompt: {prompt[-1]: 1.0}, chat=True)
    made = [
        InferenceGuardLLM.from_guard(guard, messages_to_prompt=one, completion_to_prompt=one)
        for one in (lambda text: "x", lambda text: "y")
    ]
    assert [titles(llm, cache) for llm in made] == ["x", "y"]


def test_the_same_guard_hits_its_cache_and_another_process_never_can(tmp_path):
    calls = []

    def counting(prompts, responses):
        calls.append(1)
        return [-1.0] * len(responses)

    guard, cache = make_guard({"Fine.": 1.0}, chat=True, cost=counting), IngestionCache()
    titles(InferenceGuardLLM.from_guard(guard), cache)
    done = len(calls)
    titles(InferenceGuardLLM.from_guard(guard), cache)
    assert len(calls) == done
    cache.persist(str(tmp_path / "cache"))
    again = make_guard({"Fine.": 1.0}, chat=True, cost=counting)  # as another process makes it: all is new
    titles(InferenceGuardLLM.from_guard(again), IngestionCache.from_persist_path(str(tmp_path / "cache")))
    assert len(calls) > done


def test_a_persisted_cache_serves_a_named_model_again_as_long_as_it_is_what_it_was(tmp_path):
    folders = save_tiny(tmp_path / "models")
    told = {
        "model": folders["policy"], "cost_model": folders["cost"], "budget": 500.0, "prompt_format": "beaver",
        "device": "cpu", "max_tokens": 4, "seed": 1,
    }  # fmt: skip
    cache = IngestionCache()
    llm = InferenceGuardLLM(**told)
    titles(llm, cache)
    cache.persist(str(tmp_path / "cache"))
    later = IngestionCache.from_persist_path(str(tmp_path / "cache"))
    titles(InferenceGuardLLM(**told), later)
    entries = later.cache.get_all(collection=later.collection)
    assert len(entries) == 1
    llm.guard.tokenizer.chat_template = "{{ messages[0].content }}"
    titles(llm, later)
    assert len(later.cache.get_all(collection=later.collection)) == 2


def rebuilt(llm):
    """Every way in which LlamaIndex and pydantic make a model again."""
    told = {name: getattr(llm, name) for name in type(llm).model_fields}
    return {
        "from_dict of a dump": InferenceGuardLLM.from_dict(llm.model_dump()),
        "from_dict of dict()": InferenceGuardLLM.from_dict(llm.dict(), temperature=0.5),
        "the class from its fields": InferenceGuardLLM(**told),
        "the class from __dict__": InferenceGuardLLM(**llm.__dict__),
        "copy": copy.copy(llm),
        "deepcopy": copy.deepcopy(llm),
        "model_copy": llm.model_copy(update={"temperature": 0.5}),
        "deep copy": llm.model_copy(deep=True),
        "pickle": pickle.loads(pickle.dumps(llm)),
        "model_construct": InferenceGuardLLM.model_construct(**told),
        "as_structured_llm": llm.as_structured_llm(InferenceGuardLLM).llm,
        "a workflow's pickle": JsonPickleSerializer().deserialize(JsonPickleSerializer().serialize(llm)),
    }


WAYS = list(rebuilt(InferenceGuardLLM(model="tiny-beaver")))


@pytest.mark.parametrize("way", WAYS)
def test_no_reconstruction_loses_judges_or_budget(way):
    lax = make_guard(UNSAFE, chat=True, cost=judge_of(5.0)).with_options(budget=9.0)
    strict, tight = strict_guard(), lax.with_options(budget=4.0)
    for guard, unsafe in ((lax, True), (strict, False), (tight, False)):
        text = rebuilt(InferenceGuardLLM.from_guard(guard))[way].complete("hi").text
        assert (MARKER in text) == unsafe
        assert (text == REFUSAL) != unsafe


def test_what_cannot_carry_the_guard_is_refused(monkeypatch):
    llm = InferenceGuardLLM.from_guard(strict_guard())
    dump = llm.model_dump()
    for store in (llm.to_dict, llm.to_json):
        with pytest.raises(ValueError, match="from_guard"):
            store()
    with pytest.raises(ValueError, match="Failed to serialize"):
        JsonSerializer().serialize(llm)
    monkeypatch.setattr(guard_fields, "_wrapped", {})
    with pytest.raises(ModelLoadError, match="from_guard"):
        InferenceGuardLLM.from_dict(dump)


def test_a_wrapped_guard_has_its_own_models():
    guard = strict_guard()
    for name, value in {"cost_model": cost_of_marker, "model": "tiny-beaver", "certificate": "c.json"}.items():
        with pytest.raises(MismatchError, match=f"{name} was given"):
            InferenceGuardLLM.from_guard(guard, **{name: value})
        changed = InferenceGuardLLM.from_guard(guard)
        setattr(changed, name, value)
        with pytest.raises(MismatchError, match=f"{name} was given"):
            changed.complete("hi")


def test_storing_a_named_model_loads_nothing_and_says_nothing_of_this_machine():
    llm = InferenceGuardLLM(model="tiny-beaver", temperature=0.5)
    assert "identity" not in llm.to_dict()
    assert not llm.is_loaded
    assert InferenceGuardLLM.from_dict(llm.to_dict()).to_dict() == llm.to_dict()


def test_calls_outside_the_certificate(tmp_path):
    guard = versioned(make_guard(chat=True))
    path = certify(guard, tmp_path / "c.json")
    llm = InferenceGuardLLM.from_guard(guard.with_certificate(path))
    assert llm.complete("hi", seed=5).raw["inference_guard"]["certified"] is True
    for ask in (
        lambda: llm.complete("hi", budget=1e6),
        lambda: list(llm.stream_complete("hi", temperature=0.5)),
        lambda: InferenceGuardLLM.from_guard(llm.guard, candidates=1, beams=1).complete("hi"),
    ):
        with pytest.raises(RequestError, match="certificate") as caught:
            ask()
        assert isinstance(caught.value.__cause__, OutsideCertificateError)
    marking = InferenceGuardLLM.from_guard(guard.with_certificate(path, outside="mark"), temperature=0.5)
    assert marking.complete("hi").raw["inference_guard"]["certified"] is False


def test_a_judge_that_is_changed_after_loading_is_the_one_that_judges(tmp_path):
    folders = save_tiny(tmp_path)
    llm = InferenceGuardLLM(
        model=folders["policy"], cost_model=CallableJudge(judge_of(-1.0)), prompt_format="beaver", device="cpu",
        max_tokens=4, seed=1,
    )  # fmt: skip
    assert llm.complete("hi").text != REFUSAL
    llm.cost_model = judge_of(1.0)
    assert llm.complete("hi").text == REFUSAL
