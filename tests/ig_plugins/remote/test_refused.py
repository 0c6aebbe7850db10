"""What is lost where a server samples is refused where it is asked for, and left out where nobody asks."""

import pytest

from ig_plugins import ConfigurationError, SearchConfig
from ig_plugins.guard.identity import unknown
from ig_plugins.research.methods import Context, method
from tests.ig_plugins.remote.conftest import QUESTION

ASKED = {
    "stratified": (True, "a server draws by itself; leave stratified out"),
    "retry_penalty": (1.0, "which no server takes; leave it out"),
    "seed": (5, "the same seed does not give the same answer.*leave seed out"),
    "logits_processors": ([lambda ids, scores: scores], "code that runs where logits are"),
}


@pytest.fixture
def guard(engine, guarded):
    return guarded(engine())


@pytest.mark.parametrize("name", ASKED)
def test_it_is_refused_at_every_call_and_as_a_default(guard, engine, guarded, name):
    value, said = ASKED[name]
    for call in (guard.generate, guard.request, lambda *p, **o: next(guard.stream(*p, **o))):
        with pytest.raises(ConfigurationError, match=said):
            call(QUESTION, **{name: value})
    with pytest.raises(ConfigurationError, match=said):
        guard.with_options(**{name: value})
    with pytest.raises(ConfigurationError, match=said):
        guarded(engine(), **{name: value})
    assert guard.generate(QUESTION).text


def test_search_settings_that_nobody_named_are_those_that_a_server_can_do(engine, guarded):
    search = SearchConfig(candidates=4, beams=2, max_new_tokens=8)
    guard = guarded(engine(), search=search, candidates=None, beams=None, max_tokens=None)
    assert guard.search.candidates == 4
    assert (guard.search.stratified, guard.search.retry_penalty) == (False, 0.0)
    with pytest.raises(ConfigurationError, match="leave stratified out"):
        guarded(engine(), search=SearchConfig(stratified=True))


def test_a_failed_block_is_tried_again_without_penalties(engine, guarded):
    server, asked = engine(), []

    def cost(prompts, responses):
        asked.append(len(responses))
        return [1.0 if len(asked) < 3 else -1.0 for _ in responses]

    result = guarded(server, cost_model=cost).generate(QUESTION)
    assert not result.blocked
    assert len(asked) > 3


def test_settings_that_would_mean_another_distribution_there_are_refused(engine, guarded):
    with pytest.raises(ConfigurationError, match="set min_p=0 or top_p=1"):
        guarded(engine("vllm"), min_p=0.1, top_p=0.9)
    assert guarded(engine("llamacpp"), min_p=0.1, top_p=0.9).generate(QUESTION).text


def test_methods_that_read_states_or_logits_are_refused_and_the_others_run(guard):
    bench = Context(guard.with_options(max_tokens=8), training_prompts=("one", "two"))
    for name in ("base", "bon-augmented", "inferenceguard"):
        (answer,) = method(name).build(bench).answer([QUESTION], seeds=[3])
        assert answer.text
    with pytest.raises(ConfigurationError, match="neither states nor logits"):
        method("args-reward").build(bench).answer([QUESTION], seeds=[3])


def test_no_critic_can_be_trained_on_it(guard, tmp_path):
    from ig_plugins.research.rollouts import RolloutConfig, collect

    with pytest.raises(ConfigurationError, match="neither states nor logits"):
        collect(guard, ["one"], tmp_path, config=RolloutConfig(responses=1, batch=1))


def test_weights_are_unknown_unless_the_operator_says_what_is_served(engine, guarded):
    server = engine()
    assert any("weights behind vllm+http" in each for each in unknown(guarded(server).identity()))
    told = guarded(server, load_options={"version": "tiny-2026-11"})
    assert not any("weights behind" in each for each in unknown(told.identity()))
    assert told.identity()["policy"]["model"] == {"server": "vllm", "model": "tiny", "version": "tiny-2026-11"}


@pytest.mark.parametrize("kind", ["openai", "llamacpp"])
def test_grammars_are_refused_where_the_server_is_not_known_to_follow_ours(engine, guarded, kind):
    guard = guarded(engine(kind))
    with pytest.raises(ConfigurationError, match="regex masks tokens where logits are, and this server takes no gramm"):
        guard.generate(QUESTION, regex="[a-z]+")
    assert guard.generate(QUESTION).text
