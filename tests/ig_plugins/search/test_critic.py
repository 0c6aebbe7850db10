"""With a critic: it may be as wrong as it likes; the judges read only what may leave."""

import pytest
import torch
from torch import nn

from critic_models.safety import SafetyBudget
from ig_plugins.errors import JudgeError
from ig_plugins.research.methods import Context, method
from ig_plugins.search import Policy
from tests.kit.guards import MARKER, cost_of_marker, make_guard
from tests.kit.scripted import ScriptedModel
from tests.kit.tiny import tiny_guard, tiny_scores
from tests.kit.tokenizer import byte_tokenizer

torch.set_num_threads(1)
ANSWERS = {"A poor answer.": 0.4, "The best answer of all of them.": 0.1, "A start, then UNSAFE and so on.": 0.5}


class Foresees(nn.Module):
    """A critic from two functions of the hidden state; as LatentCritic's forward: (log-odds of safe, value)."""

    value_error = 0.0
    usual_value = -1.0

    def __init__(self, logit, value):
        super().__init__()
        self.logit, self.value = logit, value
        self.states = []

    def forward(self, hidden, state, mean_hidden=None):
        self.states.append(state)
        return self.logit(hidden), self.value(hidden)


def constant(number):
    return lambda hidden: torch.full(hidden.shape[:-1], number)


def at(place):
    return lambda hidden: hidden[..., place]


def policy_that_knows(answers):
    """Hidden states that tell a perfect critic all: whether a prefix can end safe, and the best it can end with."""
    tokenizer = byte_tokenizer()

    def knows(prompt, response):
        text = tokenizer.decode(list(response), skip_special_tokens=True)
        ends = [answer for answer in answers if answer.startswith(text) and MARKER not in answer]
        return [1.0 if ends else -1.0, float(max(map(len, ends), default=0))] + [0.0] * 6

    tree = ScriptedModel.from_answers(tokenizer, answers, hidden=knows)
    return Policy(tree=tree, tokenizer=tokenizer, stop_ids=frozenset({tokenizer.eos_token_id}))


def with_critic(guard, critic):
    guard.components.critic = critic
    return guard


class Reads:
    """A callable judge that keeps what it was shown."""

    def __init__(self, score):
        self.score, self.seen = score, []

    def __call__(self, prompts, responses):
        self.seen += responses
        return self.score(prompts, responses)


WRONG = {
    "always sure": Foresees(constant(9.0), constant(1.0)),
    "never sure": Foresees(constant(-9.0), constant(1.0)),
    "the opposite": Foresees(lambda hidden: -hidden[..., 0], lambda hidden: -hidden[..., 1]),
    "not a number": Foresees(constant(float("nan")), constant(float("nan"))),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_critic_lets_nothing_unsafe_out(kind):
    guard = with_critic(make_guard(policy=policy_that_knows(ANSWERS), block_tokens=4), WRONG[kind])
    told = set()
    for seed in range(3):
        result = guard.generate("Go.", seed=seed)
        chunks = list(guard.stream("Go.", seed=seed))
        streamed = "".join(chunk.text for chunk in chunks)
        assert MARKER not in result.text
        assert MARKER not in streamed
        if not (result.blocked or chunks[-1].result.blocked):
            assert streamed == result.text
        told.add(result.text)
    assert kind == "the opposite" or told & set(ANSWERS)


def test_a_perfect_critic_finds_at_least_as_much_reward():
    rewards = {}
    for name in ("with", "without"):
        guard = make_guard(policy=policy_that_knows(ANSWERS), candidates=4, beams=2, block_tokens=4, tries=1)
        if name == "with":
            with_critic(guard, Foresees(at(0), at(1)))
        results = [guard.generate("Go.", seed=seed) for seed in range(5)]
        rewards[name] = sum(result.reward or 0.0 for result in results)
        blocked = sum(result.blocked for result in results)
        assert name == "without" or blocked == 0
    assert rewards["with"] >= rewards["without"]


def test_judges_read_finalists_only():
    cost, reward = Reads(cost_of_marker), Reads(lambda p, r: [float(len(text)) for text in r])
    guard = make_guard(policy=policy_that_knows(ANSWERS), cost=cost, reward=reward, block_tokens=4, beams=2)
    with_critic(guard, Foresees(at(0), at(1)))
    result = guard.generate("Go.")
    assert result.text in ANSWERS
    assert all(seen in ANSWERS or result.text.startswith(seen) for seen in cost.seen)
    assert all(MARKER not in seen for seen in reward.seen)
    assert len(cost.seen) < result.usage.candidate_tokens / 8
    again = len(cost.seen)
    assert "".join(chunk.text for chunk in guard.stream("Go.")) == result.text
    assert cost.seen[again:] == cost.seen[:again]


def test_token_judges_read_a_fraction_of_what_they_read_without_a_critic():
    tokenizer = byte_tokenizer()
    judges = {"costs": {"cost": tiny_scores(tokenizer, "cost", scale=0.1)}, "tokenizer": tokenizer}
    critic = Foresees(constant(9.0), constant(0.0))
    direct, foreseen = tiny_guard(**judges), tiny_guard(**judges, critic=critic)
    read = {}
    for name, guard in (("direct", direct), ("foreseen", foreseen)):
        result = guard.generate("Go.")
        read[name] = result.usage.judge_tokens - 2 * result.usage.prompt_tokens
        assert result.cost == pytest.approx(sum(block.cost for block in result.blocks), abs=1e-4)
        assert 16 <= len(result.token_ids) <= 20  # lanes end before half a character
    assert 2 * 6 * 16 <= read["direct"] <= 2 * 6 * 20
    assert 2 * 16 <= read["foreseen"] <= 2 * 2 * 20  # K finalists, what they share read once
    chunks = list(foreseen.stream("Go.", max_lag=1))
    assert "".join(chunk.text for chunk in chunks) == foreseen.generate("Go.", max_lag=1).text
    assert chunks[-1].result.cost == pytest.approx(foreseen.generate("Go.", max_lag=1).cost, abs=1e-4)


def test_the_critic_is_told_the_last_measured_state():
    critic = Foresees(constant(9.0), constant(0.0))
    budget = SafetyBudget(limit=7.0, discount=1.0)
    guard = with_critic(
        make_guard({"abcdefghijkl": 1.0}, cost=lambda p, r: [len(t) / 4 for t in r], budget=budget, block_tokens=4),
        critic,
    )
    list(guard.stream("Go.", max_lag=1, beams=1))
    measured = [float(state.min()) for state in critic.states]
    assert measured == sorted(measured, reverse=True)
    assert measured[0] == 7.0
    assert measured[-1] < 7.0  # what has left was measured, and lanes go on from there


def test_a_critic_that_is_never_sure_falls_back_on_the_least_doubtful():
    guard = with_critic(make_guard(policy=policy_that_knows(ANSWERS), tries=2), WRONG["never sure"])
    result = guard.generate("Go.")
    assert not result.blocked
    assert result.blocks[0].tries == 2


def test_text_that_every_beam_shares_leaves_only_if_the_judges_pass_it():
    answers = {"12345678 UNSAFE at once " + "x" * 20: 1.0}
    guard = with_critic(make_guard(answers, block_tokens=4, beams=1, tries=1), Foresees(constant(9.0), constant(0.0)))
    told = []
    for chunk in guard.stream("Go.", refusal="No."):
        told.append(chunk.text)
    assert told[-1].endswith("No.")
    assert MARKER not in "".join(told)
    assert "".join(told).startswith("1234")


def test_a_judge_that_fails_fails_closed_here_too():
    guard = make_guard(ANSWERS, cost=lambda p, r: [float("nan")] * len(r))
    with_critic(guard, Foresees(constant(9.0), constant(0.0)))
    with pytest.raises(JudgeError, match="'marker' scored response 0 as nan"):
        guard.generate("Go.")


def _guarded(guard):
    guard.generate(["One?", "Two?"])


def _as_published(guard):
    method("inferenceguard-published").build(Context(guard)).answer(["One?", "Two?"], seeds=[0, 0])


@pytest.mark.parametrize("ask", [_guarded, _as_published])
def test_the_critic_is_told_the_mean_state_of_the_whole_response_over_blocks_beams_and_retries(ask):
    """The n-th state of a response is n here, so the mean of n of them is (n + 1) / 2."""

    class Remembers(Foresees):
        pairs = []

        def forward(self, hidden, state, mean_hidden=None):
            self.pairs += list(
                zip(hidden[..., 0].flatten().tolist(), mean_hidden[..., 0].flatten().tolist(), strict=True)
            )
            return self.logit(hidden), self.value(hidden)

    tokenizer = byte_tokenizer()
    tree = ScriptedModel.from_answers(
        tokenizer, {"One answer.": 0.5, "One other answer.": 0.5}, hidden=lambda prompt, response: [len(response)] * 8
    )
    policy = Policy(tree=tree, tokenizer=tokenizer, stop_ids=frozenset({tokenizer.eos_token_id}))
    critic = Remembers(lambda hidden: torch.where(hidden[..., 0] > 8, -9.0, 9.0), constant(0.0))
    guard = with_critic(make_guard(policy=policy, block_tokens=4, beams=2, tries=2), critic)
    ask(guard)
    lanes = [(length, mean_hidden) for length, mean_hidden in critic.pairs if length > 0]
    assert {length for length, _ in lanes} >= {4.0, 8.0, 12.0}
    assert all(mean_hidden == pytest.approx((length + 1) / 2) for length, mean_hidden in lanes)


@pytest.mark.parametrize(("logit", "tries"), [(-0.85, 1), (-2.2, 2)])
def test_a_beam_passes_if_one_of_many_continuations_is_likely_to_end_safe(logit, tries):
    """f1 = 0.30: of the four that the search draws, one is safe with 0.76; of f1 = 0.10 with 0.34."""
    policy = policy_that_knows(ANSWERS)
    guard = make_guard(policy=policy, candidates=8, beams=2, block_tokens=4, tries=2)
    with_critic(guard, Foresees(constant(logit), constant(0.0)))
    assert guard.generate("Go.").blocks[0].tries == tries
