"""A certificate holds for every call, not only for the guard as it was loaded; and it knows the guard by what it is."""

import asyncio
import json
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from critic_models.identity import weights
from critic_models.judges import CallableJudge
from ig_plugins import InferenceGuard
from ig_plugins.errors import ConfigurationError, GuardBlockedError, MismatchError, OutsideCertificateError
from ig_plugins.guard.adapter_fields import GuardFields
from ig_plugins.guard.certificate import _fingerprint_1
from ig_plugins.research.calibration import Certificate
from ig_plugins.research.calibration.guarded import calibrate_guard
from ig_plugins.research.evaluation.verdicts import Verdicts
from ig_plugins.server import create_app
from tests.kit.guards import MARKER, make_guard, versioned
from tests.kit.observe import fan_out
from tests.kit.tiny import SEARCH, save_tiny

torch.set_num_threads(1)
HARMLESS = Verdicts(CallableJudge(lambda prompts, responses: [0.0] * len(responses), name="harmless"), 0.0)
LEAVING = {
    "budget": {"budget": 1e6},
    "candidates": {"candidates": 1, "beams": 1},
    "temperature": {"temperature": 0.5},
    "max_tokens": {"max_tokens": 3},
    "stop": {"stop": ["x"]},
    "tries": {"tries": 1},
    "raw_prompt": {"raw_prompt": True},
    "tools": {"tools": [{"name": "f", "parameters": {"type": "object", "properties": {}}}]},
}
STAYING = {"seed": {"seed": 9}, "timeout": {"timeout": 60.0}, "on_block": {"on_block": "empty"}}
KEEPING = {"same budget": {"budget": 0.0}, "same width": {"candidates": 8, "beams": 2}}


def certify(guard, path, **options):
    """A certificate for a guard as it stands."""
    limit = guard.budget.limit
    result = calibrate_guard(
        guard, [f"p{n}" for n in range(3)], HARMLESS, limits=[limit], target=0.9, confidence=0.9, **options
    )
    return str(result.certificate.save(path))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return certify(versioned(make_guard()), tmp_path_factory.mktemp("c") / "certificate.json")


@pytest.fixture
def guard(certificate):
    return versioned(make_guard()).with_certificate(certificate)


@pytest.fixture
def marking(certificate):
    return versioned(make_guard()).with_certificate(certificate, outside="mark")


def ways(guard):
    """Every way to ask a guard, each giving its results."""

    async def later(**overrides):
        return [await guard.agenerate("Go.", **overrides)]

    async def streamed(**overrides):
        return [chunk.result async for chunk in guard.astream("Go.", **overrides) if chunk.result]

    return {
        "generate": lambda **o: [guard.generate("Go.", **o)],
        "batch": lambda **o: guard.generate(["Go.", "Stop."], **o),
        "stream": lambda **o: [chunk.result for chunk in guard.stream("Go.", **o) if chunk.result],
        "agenerate": lambda **o: asyncio.run(later(**o)),
        "astream": lambda **o: asyncio.run(streamed(**o)),
        "with_options": lambda **o: [guard.with_options(**o).generate("Go.")],
    }


@pytest.mark.parametrize("way", ways(None))
@pytest.mark.parametrize("kind", LEAVING)
def test_a_call_that_leaves_the_certified_settings_is_refused(guard, way, kind):
    with pytest.raises(OutsideCertificateError, match=r"certified.*here"):
        ways(guard)[way](**LEAVING[kind])


@pytest.mark.parametrize("way", ways(None))
def test_it_is_marked_where_the_guard_says_so(marking, way):
    ask = ways(marking)[way]
    assert {result.certified for result in ask()} == {True}
    for overrides in LEAVING.values():
        assert {result.certified for result in ask(**overrides)} == {False}
    for overrides in {**STAYING, **KEEPING}.values():
        assert {result.certified for result in ask(**overrides)} == {True}


@pytest.mark.parametrize("kind", {**STAYING, **KEEPING})
def test_seed_timeout_and_on_block_are_free(guard, kind):
    assert guard.generate("Go.", **{**STAYING, **KEEPING}[kind]).certified is True


def test_without_a_certificate_nothing_is_said():
    assert make_guard().generate("Go.").certified is None
    assert make_guard().generate("Go.").report()["certified"] is None


def test_a_blocked_answer_is_marked_too(certificate):
    guard = versioned(make_guard({MARKER: 1.0})).with_certificate(certificate, outside="mark")
    assert guard.generate("Go.").blocked
    assert guard.generate("Go.", candidates=4).certified is False
    with pytest.raises(GuardBlockedError) as caught:
        guard.generate("Go.", candidates=4, on_block="raise")
    assert caught.value.report["certified"] is False


def test_a_request_checked_beforehand_is_checked_for_this_too(guard):
    guard.request("Go.", seed=3)
    with pytest.raises(OutsideCertificateError):
        guard.request("Go.", budget=1e6)


def test_other_defaults_are_refused_when_they_are_set(guard, marking):
    with pytest.raises(OutsideCertificateError, match=r"search\.temperature"):
        guard.with_options(temperature=0.5)
    assert guard.with_options(seed=3).options.search.seed == 3
    assert marking.with_options(temperature=0.5).options.search.temperature == 0.5


def test_over_http(guard, marking):
    body = {"messages": [{"role": "user", "content": "Go."}]}
    for stream in (False, True):
        answer = TestClient(create_app(guard)).post(
            "/v1/chat/completions", json={**body, "candidates": 1, "beams": 1, "stream": stream}
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "OutsideCertificateError"
    client = TestClient(create_app(marking))
    inside = client.post("/v1/chat/completions", json={**body, "seed": 4}).json()
    outside = client.post("/v1/chat/completions", json={**body, "temperature": 0.3}).json()
    assert (inside["inference_guard"]["certified"], outside["inference_guard"]["certified"]) == (True, False)


@pytest.mark.parametrize("value", ["ignore", "", None])
def test_what_becomes_of_such_calls_is_one_of_two(certificate, value):
    with pytest.raises(ConfigurationError, match="give 'refuse' or 'mark'"):
        make_guard().with_certificate(certificate, outside=value)
    with pytest.raises(ConfigurationError, match="outside_certificate"):
        InferenceGuard.from_pretrained("tiny-beaver", outside_certificate=value)


# ---- what a certificate is for ----


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models"))


def load(folders, **changes):
    options = {
        "cost_model": folders["cost"], "reward_model": folders["reward"], "prompt_format": "beaver", "device": "cpu",
        **{("max_tokens" if name == "max_new_tokens" else name): value for name, value in SEARCH.items()},
    }  # fmt: skip
    return InferenceGuard.from_pretrained(folders["policy"], **{**options, **changes})


@pytest.fixture(scope="module")
def tiny_certificate(folders, tmp_path_factory):
    return certify(load(folders), tmp_path_factory.mktemp("c") / "certificate.json")


def noisy(guard):
    with torch.no_grad():
        for weight in guard.components.policy.tree.body.model.parameters():
            weight.add_(torch.randn_like(weight) * 1e-3)


def restore(guard, state):
    guard.components.policy.tree.body.model.load_state_dict(state)


def test_it_is_refused_for_other_weights_of_the_same_name(folders, tiny_certificate):
    guard = load(folders, certificate=tiny_certificate)
    assert guard.generate("Go.").certified
    state = {name: weight.clone() for name, weight in guard.components.policy.tree.body.model.state_dict().items()}
    try:
        noisy(guard)
        with pytest.raises(MismatchError, match=r"policy\.model\.weights"):
            load(folders, certificate=tiny_certificate)
        with pytest.raises(OutsideCertificateError, match=r"policy\.model\.weights"):
            guard.generate("Go.")  # after loading, in memory
    finally:
        restore(guard, state)
    assert guard.generate("Go.").certified


def test_one_number_that_was_changed_past_torch_is_found_when_a_certificate_is_checked(folders, tiny_certificate):
    """Calls look whether weights have changed; the check when a certificate is loaded reads all of them."""
    guard = load(folders, certificate=tiny_certificate)
    weight = guard.components.policy.tree.body.model.lm_head.weight
    assert guard.generate("Go.").certified  # what the weights are is known now
    try:
        weight.data[7, 8] += 1.0
        assert guard.generate("Go.").certified, "where a call finds it too, this test shows nothing"
        with pytest.raises(MismatchError, match=r"policy\.model\.weights"):
            guard.check_certificate(tiny_certificate)
    finally:
        weight.data[7, 8] -= 1.0
        weights.forget()


def test_it_is_refused_for_another_template_in_memory(folders, tiny_certificate):
    guard = load(folders, certificate=tiny_certificate)
    before = guard.tokenizer.chat_template
    try:
        guard.tokenizer.chat_template = "{{ messages[0].content }}"
        with pytest.raises(OutsideCertificateError, match="chat_template"):
            guard.generate("Go.")
    finally:
        guard.tokenizer.chat_template = before


def test_it_is_refused_for_another_template_on_disk(folders, tiny_certificate, tmp_path):
    import shutil

    copy = {name: shutil.copytree(folder, tmp_path / name) for name, folder in folders.items()}
    copy = {name: str(folder) for name, folder in copy.items()}
    assert load(copy, certificate=tiny_certificate).generate("Go.").certified, "the same models in another folder"
    (tmp_path / "policy" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    moved = tmp_path / "policy-2"
    (tmp_path / "policy").rename(moved)
    with pytest.raises(MismatchError, match="chat_template"):
        load({**copy, "policy": str(moved)}, certificate=tiny_certificate)


def test_it_is_refused_for_another_precision(folders, tiny_certificate):
    with pytest.raises(MismatchError, match=r"dtype|weights"):
        load(folders, certificate=tiny_certificate, dtype="bfloat16")


def test_it_is_refused_for_other_load_options(folders, tiny_certificate):
    with pytest.raises(MismatchError, match="certificate is for another guard"):
        load(folders, certificate=tiny_certificate, load_options={"attention_bias": False, "rms_norm_eps": 0.1})


def judge_named_judge(limit):
    def judge(prompts, responses):
        return [len(response) - limit for response in responses]

    return judge


def test_a_function_without_a_version_is_neither_certified_nor_accepted(folders, tmp_path):
    options = {"reward_model": None, "cost_model": judge_named_judge(5.0)}
    with pytest.raises(MismatchError, match=r"costs\.0\.judge.*judge_named_judge.*version"):
        certify(load(folders, **options), tmp_path / "c.json")
    known = CallableJudge(judge_named_judge(5.0), version="at most 5")
    path = certify(load(folders, reward_model=None, cost_model=known), tmp_path / "c.json")
    assert load(folders, reward_model=None, cost_model=known, certificate=path).promise
    for other in (
        judge_named_judge(1e6),
        CallableJudge(judge_named_judge(1e6), name="judge"),
        CallableJudge(judge_named_judge(1e6), version="at most 1e6"),
        lambda prompts, responses: [0.0] * len(responses),
    ):
        with pytest.raises(MismatchError):
            load(folders, reward_model=None, cost_model=other, certificate=path)


def test_an_own_class_is_refused_until_it_says_what_it_is(tmp_path):
    with pytest.raises(MismatchError, match=r"policy\.model \(object of class tests\.kit\.scripted\.ScriptedModel\)"):
        certify(make_guard(), tmp_path / "c.json")


def test_a_key_of_a_tool_that_is_called_seed_is_bound(tmp_path):
    def tool(**properties):
        return {"name": "f", "parameters": {"type": "object", "properties": properties}}

    guard = versioned(make_guard()).with_options(tools=[tool(seed={"type": "integer"}, on_block={})])
    path = certify(guard, tmp_path / "c.json")
    guard.check_certificate(path)
    with pytest.raises(MismatchError):
        guard.with_options(tools=[tool()]).check_certificate(path)


# ---- older certificates ----


def test_a_certificate_of_the_first_format_is_read_and_not_accepted(guard, certificate, tmp_path):
    content = json.loads(Path(certificate).read_text())
    content = {key: value for key, value in content.items() if key != "judge_identity"}
    old = {"models": {"model": "scripted", "policy_files": "e3b0c44298fc1c14"}, "search": {"seed": 1, "candidates": 8}}
    content |= {"version": 1, "identity": old, "identity_hash": _fingerprint_1(old)}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(content))
    assert "at most" in Certificate.load(path).statement()
    with pytest.raises(MismatchError, match=r"older inferenceguard.*calibrate"):
        guard.check_certificate(str(path))
    with pytest.raises(MismatchError, match=r"older inferenceguard.*calibrate"):
        guard.with_certificate(str(path))


def test_the_certificates_judge_is_told_by_what_it_is(certificate):
    judged = Certificate.load(certificate).judge_identity
    assert judged["class"] == "critic_models.judges.callables.CallableJudge"
    assert judged["function"]["unknown"].endswith("<lambda>"), "the reader sees that nobody can know it"


def test_cached_answers_of_a_certified_guard_are_not_those_of_another(guard):
    assert guard.identity() != versioned(make_guard()).identity()


def test_a_guard_whose_own_settings_differ_is_refused_or_answers_marked(certificate):
    other = versioned(make_guard()).with_options(temperature=0.5)
    with pytest.raises(MismatchError, match=r"search\.temperature"):
        other.with_certificate(certificate)
    marking = other.with_certificate(certificate, outside="mark")
    assert marking.generate("Go.").certified is False
    assert marking.generate("Go.", temperature=1.0).certified is True
    stranger = versioned(make_guard(), version="2")
    with pytest.raises(MismatchError, match=r"policy\.model\.version"):
        stranger.with_certificate(certificate, outside="mark")  # other parts are refused in any case


def test_fields_bring_the_certified_settings_with_every_call(folders, tmp_path):
    """A certificate is rarely for a preset's own settings: calibration chooses the budget."""
    guard = load(folders, budget=77.0)
    path = certify(guard, tmp_path / "c.json")
    settings = {("max_tokens" if name == "max_new_tokens" else name): value for name, value in SEARCH.items()}
    fields = GuardFields(
        model=folders["policy"], cost_model=folders["cost"], reward_model=folders["reward"], prompt_format="beaver",
        device="cpu", certificate=path, budget=77.0, **settings,
    )  # fmt: skip
    assert fields.guard.generate("Go.", **fields.call_options()).certified is True
    for changed in ({"budget": 78.0}, {"temperature": 0.5}, {"budget": None}):
        other = fields.model_copy(update=changed)
        with pytest.raises(OutsideCertificateError):
            other.guard.generate("Go.", **other.call_options())
    marking = fields.model_copy(update={"outside_certificate": "mark", "temperature": 0.5})
    assert marking.guard.generate("Go.", **marking.call_options()).certified is False


def test_a_stream_that_is_refused_after_it_has_shown_text_is_not_certified(tmp_path):
    text = f"A fair and long enough start of it, and then {MARKER}"
    guard = versioned(make_guard({text: 1.0}))
    guard = guard.with_certificate(certify(guard, tmp_path / "c.json"))
    *shown, last = guard.stream("Go.")
    assert last.result.blocked
    assert "".join(chunk.text for chunk in shown)
    assert last.result.certified is False
    assert guard.generate("Go.").certified is True


def test_concurrent_callers_of_a_certified_guard_are_all_answered(folders, tiny_certificate):
    """The identity is read while other threads decode."""
    guard = load(folders, certificate=tiny_certificate)
    results = fan_out(lambda seed: guard.generate("Go.", seed=seed), list(range(24)), threads=8)
    assert [result.certified for result in results] == [True] * 24
