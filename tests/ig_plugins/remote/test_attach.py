"""What a server can do is found out when it is attached, and what cannot serve a guard is refused there."""

import time

import pytest

from ig_plugins import ConfigurationError, InferenceGuard, MismatchError, ModelLoadError, UnsupportedModelError
from tests.ig_plugins.remote.conftest import QUESTION, TOKENIZER, cost
from tests.kit.fake_engine import PAGE, says, stalls, status

KINDS = ("vllm", "openai", "llamacpp")


@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_out_what_the_server_can_do(engine, guarded, kind):
    guard = guarded(engine(kind, most=12))
    server = guard.components.policy.tree.server
    assert server.context == guard.context == 4096
    assert server.page == (PAGE if kind == "vllm" else 0)
    assert server.most == (12 if kind == "llamacpp" else 1024)
    assert server.echoes_stop
    assert server.tokenizer_checked
    assert guard.components.policy.tree.vocab_size == len(guard.tokenizer)
    assert guard.components.policy.tree.seeds is (kind != "vllm")


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_of_texts_is_refused_with_the_reason(engine, guarded, kind):
    with pytest.raises(UnsupportedModelError, match=r"does not take and give token ids.*decoding and encoding again"):
        guarded(engine(kind, ids=False))


@pytest.mark.parametrize("kind", KINDS)
def test_one_choice_a_call_is_enough(engine, guarded, kind):
    server = engine(kind, most=1)
    guard = guarded(server)
    assert guard.components.policy.tree.server.most == 1
    assert guard.generate(QUESTION).text
    assert all(body.get("n", body.get("n_cmpl", 1)) == 1 for body in server.bodies[3:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_token_that_the_server_keeps_to_itself_is_put_back(engine, guarded, kind):
    server = engine(kind, echoes_stop=False)
    guard = guarded(server, max_tokens=96)
    assert not guard.components.policy.tree.server.echoes_stop
    results = [guard.generate(QUESTION) for _ in range(3)]
    ended = [result for result in results if result.finish_reason == "stop"]
    assert all(result.token_ids[-1] in guard.components.policy.stop_ids for result in ended)
    assert ended, "no answer came to its end"


def test_another_tokenizer_than_the_servers_is_refused(engine, guarded):
    with pytest.raises(MismatchError, match=r"mean something else.*give tokenizer="):
        guarded(engine("vllm"), tokenizer="smollm2-135m")


def test_ids_that_no_text_belongs_to_are_noticed_where_the_server_does_not_tokenise(engine, guarded):
    def choice(body):
        return {"index": 0, "finish_reason": "length", "token_ids": [10**6, 5], "prompt_token_ids": body["prompt"][0]}

    big = engine("openai", tokenizes=False, plan=lambda number, body: says({"choices": [choice(body)]}))
    with pytest.raises(UnsupportedModelError, match="has ids"):
        guarded(big)


def test_the_tokenizer_must_be_named_where_the_servers_cannot_be_read(engine, guarded):
    with pytest.raises(ConfigurationError, match=r"tokenizer= is needed.*'/nowhere/tiny', which cannot be read here"):
        guarded(engine("vllm"), tokenizer=None)
    with pytest.raises(ConfigurationError, match=r"tokenizer= is needed.*names none"):
        guarded(engine("llamacpp"), tokenizer=None)


def test_a_loaded_tokenizer_will_do(engine, guarded):
    server = engine()
    first = guarded(server)
    assert guarded(server, tokenizer=first.tokenizer).tokenizer is first.tokenizer


def test_guards_that_name_a_server_alike_share_its_connections(engine, guarded):
    server = engine()
    first = guarded(server)
    asked = len(server.bodies)
    assert guarded(server, candidates=4).components.policy is first.components.policy
    assert len(server.bodies) == asked


def test_a_model_that_is_not_served_is_named_with_those_that_are(engine):
    address = engine().address.replace("/tiny", "/tinny")
    with pytest.raises(ModelLoadError, match=r"it serves tiny\. Did you mean 'tiny'"):
        InferenceGuard.from_pretrained(address, cost_model=cost, tokenizer=TOKENIZER)


def test_another_kind_of_server_is_told_apart(engine):
    address = engine("llamacpp").address.replace("llamacpp", "vllm")
    with pytest.raises(ModelLoadError, match=r"no server of the kind 'vllm'.*404"):
        InferenceGuard.from_pretrained(address, cost_model=cost, tokenizer=TOKENIZER)


def test_a_server_that_is_not_there_or_does_not_answer_is_given_up_soon(engine, guarded):
    server = engine("openai", plan=lambda number, body: stalls)
    started = time.monotonic()
    with pytest.raises(ModelLoadError, match="did not reply within 1 s"):
        guarded(server, load_options={"request_seconds": 1.0})
    server.kill()
    with pytest.raises(ModelLoadError, match="cannot be reached"):
        guarded(server)
    assert time.monotonic() - started < 20


def test_a_refusal_is_quoted_while_only_our_own_sample_was_sent(engine, guarded):
    with pytest.raises(UnsupportedModelError, match=r"gave status 400 and .*SECRET PROMPT"):
        guarded(engine("openai", plan=lambda number, body: status(400)))


def test_the_key_comes_from_the_environment_and_is_in_no_message(engine, guarded, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-hidden")
    server = engine()
    guard = guarded(server, load_options={"key_env": "MY_KEY"})
    assert all(headers["authorization"] == "Bearer sk-hidden" for headers in server.headers)
    server.plan = lambda number, body: status(401)
    with pytest.raises(Exception, match="it wants a key; put it into MY_KEY") as refused:
        guard.generate(QUESTION)
    assert "sk-hidden" not in str(refused.value)
    assert "sk-hidden" not in repr(guard.identity())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"revision": "main"}, "revision is 'main', but the server decides"),
        ({"dtype": "bfloat16"}, "dtype is 'bfloat16', but the server decides"),
        ({"load_options": {"device_map": "auto"}}, "device_map.*they are seeds"),
        ({"cost_model": "bundled:smollm2-probe"}, "neither states nor logits"),
    ],
)
def test_what_a_server_decides_or_cannot_give_is_refused(engine, guarded, given, said):
    with pytest.raises(ConfigurationError, match=said):
        guarded(engine(), **given)


def test_a_tokenizer_beside_a_model_of_its_own_is_refused():
    with pytest.raises(ConfigurationError, match="tokenizer is for a model behind a server's address"):
        InferenceGuard.from_pretrained("tiny-beaver", tokenizer=TOKENIZER)
