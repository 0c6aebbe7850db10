"""Small changes to the code that break a promise, and the tests that ought to notice each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        name: What is broken.
        path: The file, from the repository's root.
        old: Text that stands there once.
        new: What it becomes.
        tests: pytest arguments: the tests that ought to fail.
        quick: Also run by CI.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]
    quick: bool = False


SEARCH, TESTS = "ig_plugins/search/", "tests/ig_plugins/search/"
VERIFIER, VERIFIED = SEARCH + "verifier.py", (TESTS + "test_verifier.py",)
TEXT, SELECTION, LANES = SEARCH + "text.py", SEARCH + "selection.py", SEARCH + "lanes.py"
BLOCKS, FAIR = SEARCH + "block_search.py", SEARCH + "fair_draw.py"
BASE, DIRECT, CRITIC = (f"{SEARCH}scoring/{name}.py" for name in ("base", "direct", "critic"))
SESSION = SEARCH + "scoring/judge_session.py"
LEAVES, FUZZ = (TESTS + "test_exactly_what_leaves.py",), (TESTS + "test_fuzz.py",)
SAFETY, SAFE = "critic_models/safety/state.py", ("tests/critic_models/safety",)


def only(name: str, *parts: str) -> tuple[str, ...]:
    """Some tests of a file, by a word of their names."""
    return (name, "-k", " or ".join(parts))


MUTANTS: tuple[Mutant, ...] = (
    # The release rule.
    Mutant("any-time read as terminal, trails", VERIFIER,
        'return safe.all(dim=-1) if budget.reading == "any_time" else safe[..., -1]', "return safe[..., -1]", VERIFIED, True),
    Mutant("any-time read as terminal, lanes", VERIFIER,
        'if budget.reading == "any_time":\n        return (safe | ~read).all(dim=-1)',
        "if False:\n        return (safe | ~read).all(dim=-1)", VERIFIED, True),
    Mutant("terminal read as any-time", VERIFIER,
        'return safe.all(dim=-1) if budget.reading == "any_time" else safe[..., -1]', "return safe.all(dim=-1)", VERIFIED),
    Mutant("a trail forgets where it starts", VERIFIER,
        "states=torch.cat([self.states, states]),", "states=states if len(states) else self.states,", VERIFIED, True),
    Mutant("whole texts' scores are added up", VERIFIER,
        'if not whole or budget.accounting == "worst":', "if True:", VERIFIED),
    Mutant("states that are not finite pass", VERIFIER,
        "if not torch.isfinite(states).all():", "if False:", VERIFIED),
    Mutant("a border's score is not put before a finished answer's", VERIFIER,
        "if not self.whole:\n            return self", "if True:\n            return self",
        only(TESTS + "test_exactly_what_leaves.py", "border_that_was_judged_later")),
    Mutant("one cost model is enough", VERIFIER,
        "return all(bool(may_leave(self.tracks[c].states", "return any(bool(may_leave(self.tracks[c].states",
        VERIFIED),
    Mutant("z = 0 is safe where cost accumulates", SAFETY,
        'return state > 0 if budget.accounting == "cumulative" else state >= 0', "return state >= 0", SAFE, True),
    Mutant("the worst score must stay below the limit", SAFETY,
        'return state > 0 if budget.accounting == "cumulative" else state >= 0', "return state > 0", SAFE),
    Mutant("the discount is turned round", SAFETY,
        "state = (state - cost) / budget.discount", "state = (state - cost) * budget.discount", SAFE),
    Mutant("the worst score is the last", SAFETY,
        "return slack.cummin(dim=-1).values[..., 1:]", "return slack[..., 1:]", SAFE),
    Mutant("costs are added", SAFETY, "state = (state - cost) / budget.discount", "state = (state + cost) / budget.discount", SAFE),
    # What is judged is what leaves.
    Mutant("a stream shows the beginning of a stop string", TEXT,
        "end = min(settled(text, request.stop), request.held_from(text))", "end = min(len(text), request.held_from(text))",
        only(TESTS + "test_fuzz.py", "not_judged"),),
    Mutant("a stream shows the beginning of a call", TEXT,
        "end = min(settled(text, request.stop), request.held_from(text))", "end = settled(text, request.stop)", FUZZ),
    Mutant("a run of bytes is shown in part", TEXT, "        return run\n", "        return len(ids)\n",
        only(TESTS + "test_exactly_what_leaves.py", "bytes_that_stay")),
    Mutant("half a character is shown", TEXT,
        "while end > 0 and text[end - 1] == REPLACEMENT:", "while False:", only(TESTS + "test_exactly_what_leaves.py", "half_a_character")),
    Mutant("scores in single precision", SESSION,
        "values = torch.zeros(*parents.shape, 1, dtype=torch.float64)", "values = torch.zeros(*parents.shape, 1)",
        only(TESTS + "test_exactly_what_leaves.py", "double_precision"), True),
    Mutant("what a stop string left is not verified", BASE,
        "    found = [session.score_whole([cut])[0] for session in costs]\n    return Trail.start(cut.request.budgets).extended(found)",
        "    return Trail.start(cut.request.budgets)", only(TESTS + "test_nothing_unsafe.py", "adversarial")),
    Mutant("parts of an answer always pass", BASE, "    if reply is None:\n", "    if True:\n",
        only(TESTS + "test_exactly_what_leaves.py", "words_before", "arguments"), True),
    Mutant("only the first part of an answer is judged", BASE,
        "texts = [text for text in reply.handed_out()", "texts = [text for text in reply.handed_out()[:1]",
        only(TESTS + "test_exactly_what_leaves.py", "arguments", "words_before")),
    Mutant("a border inside a block is not judged, direct", DIRECT,
        "if border is not None and not _measured(row, border)", "if False",
        only(TESTS + "test_exactly_what_leaves.py", "stop_string")),
    Mutant("a border of the same length counts as judged", DIRECT,
        "return len(step) == border.tokens and step.judged == row.request.prefill_text + border.text",
        "return True", only(TESTS + "test_exactly_what_leaves.py", "stop_string")),
    Mutant("unsafe lanes go on, direct", DIRECT,
        "            safe[key] = trails[key].may_leave()\n", "            safe[key] = True\n",
        only(TESTS + "test_exactly_what_leaves.py", "left_alone_is_unsafe")),
    Mutant("lanes start with the whole budget, direct", DIRECT,
        "advance(before, costs, budget)], dim=-1)", "advance(torch.full_like(before, budget.limit), costs, budget)], dim=-1)",
        only(TESTS + "test_verifier.py", "lanes_that_start")),
    Mutant("a finalist is never taken back, critic", CRITIC,
        "            elif longest:\n                judge.rollback()\n", "            elif longest:\n                pass\n",
        only(TESTS + "test_exactly_what_leaves.py", "no_trace")),
    Mutant("a request is not rewound when it is tried again", "ig_plugins/runtime/batch.py",
        "            request.rewind()\n", "", only("tests/ig_plugins/runtime/test_worker.py", "tried_again_only")),
    Mutant("whole texts cost from nothing at every step", VERIFIER,
        "costs = costs_of(found.scores, self.score, budget, whole=found.whole)",
        "costs = costs_of(found.scores, torch.zeros((), dtype=torch.float64), budget, whole=found.whole)", VERIFIED),
    Mutant("a finalist is not verified, critic", CRITIC,
        "if trail.may_leave() and parts_pass(self._costs, lanes, key):", "if True:",
        only(TESTS + "test_exactly_what_leaves.py", "finalist_is_verified"), True),
    Mutant("a border is released whatever the judges say", BLOCKS,
        "if border is not None and not border.trail.may_leave():", "if False:",
        only(TESTS + "test_critic.py", "shares_leaves"), True),
    Mutant("answers outlive a refused border", BLOCKS,
        "row.finished = [answer for answer in row.finished if not answer.step.passes(border.step)]", "pass",
        only(TESTS + "test_exactly_what_leaves.py", "outlive"), True),
    Mutant("answers that left what was shown stay", LANES,
        "for each in self.finished if each.step.passes(border.step))", "for each in self.finished)",
        only(TESTS + "test_exactly_what_leaves.py", "an_answer_that_left")),
    Mutant("text leaves after the deadline", BLOCKS,
        "            if row.request.interruption():\n                continue\n", "", only(TESTS + "test_exactly_what_leaves.py", "after_its_request")),
    Mutant("an answer is given after the deadline", BLOCKS,
        "        if error := row.request.interruption():\n            return Outcome(row, error=error)\n", "",
        only(TESTS + "test_exactly_what_leaves.py", "after_its_request")),
    Mutant("a search begins anew after text has left", LANES,
        "return self.restarts + 1 < self.request.search.tries and not self.request.begun",
        "return self.restarts + 1 < self.request.search.tries",
        only(TESTS + "test_nothing_unsafe.py", "blocked_stream")),
    Mutant("costs may be NaN on the tree", SESSION,
        "        if not torch.isfinite(scores).all():\n            raise JudgeError(", "        if False:\n            raise JudgeError(",
        only(TESTS + "test_exactly_what_leaves.py", "says_nothing")),
    Mutant("judges may return NaN", "critic_models/judges/protocol.py",
        "if not abs(score) <= LARGEST:", "if abs(score) > LARGEST:",
        ("tests/critic_models/judges/test_callables.py",), True),
    Mutant("judges may return too few scores", "critic_models/judges/protocol.py",
        "if len(values) != count:", "if False:", ("tests/critic_models/judges/test_callables.py",)),
    Mutant("a prefill costs nothing", BASE,
        "        start.extended(mine) if request.prefill_ids else start\n", "        start\n",
        ("tests/ig_plugins/search/test_ledger.py", "-k", "prefill")),
    Mutant("judges keep a finalist that they only looked at, critic", CRITIC,
        "            elif longest:\n                judge.rollback()\n", "            elif longest:\n                judge.advance(torch.zeros(len(passages), 1, dtype=torch.long))\n",
        only(TESTS + "test_exactly_what_leaves.py", "no_trace")),
    # The search does what it says.
    Mutant("the f1 rule is f1 > 0.5", CRITIC,
        "safe, score = lanes.open & (logit > _enough(lanes)), value.clone()", "safe, score = lanes.open & (logit > 0), value.clone()",
        only(TESTS + "test_critic.py", "one_of_many")),
    Mutant("the hedged choice is the other half", SELECTION,
        "sorted(pool, key=lambda answer: answer.slack, reverse=True)", "sorted(pool, key=lambda answer: answer.slack)",
        only(TESTS + "test_block_search.py", "hedged_choice_is"), True),
    Mutant("max_lag is one block more", SELECTION, "ancestor = path[-1 - lag]", "ancestor = path[-2 - lag]",
        only(TESTS + "test_exactly_what_leaves.py", "early_answer")),
    Mutant("early answers hold back a stream", SELECTION,
        "    row.finished = [answer for answer in row.finished if answer.step.passes(ancestor)]\n", "",
        only(TESTS + "test_exactly_what_leaves.py", "early_answer")),
    Mutant("shares are forgotten", FAIR,
        "weights[key] = weights.get(key, 0.0) + row.beams[beam].weight / lanes_of[beam]", "weights[key] = 1.0",
        only(TESTS + "test_fair_draw.py", "all_is_safe")),
    Mutant("particles are drawn from the front", FAIR, "mark = uniform * threshold", "mark = 0.0",
        only(TESTS + "test_fair_draw.py", "expectation")),
    Mutant("an answer is the first of the particles", FAIR,
        "mark = row.request.uniform() * sum(step.weight for step in steps)", "mark = 0.0",
        only(TESTS + "test_fair_draw.py", "all_is_safe")),
    Mutant("retries are not penalised", SELECTION,
        "penalty[position, token] = row.request.search.retry_penalty", "penalty[position, token] = 0.0",
        only(TESTS + "test_block_search.py", "penalty_and_counts")),
    Mutant("the same draws are made again after a retry", SEARCH + "request.py",
        "        self._generator = torch.Generator().manual_seed(self.seed)\n        self.failure = None\n",
        "        if not hasattr(self, '_generator'):\n            self._generator = torch.Generator().manual_seed(self.seed)\n        self.failure = None\n",
        only(TESTS + "test_block_search.py", "uniforms")),
    # Guard, runtime, certificates, chat.
    Mutant("a blocked answer is not marked", "ig_plugins/guard/request_handle.py",
        "            blocked=True,\n", "            blocked=False,\n", ("tests/ig_plugins/guard/test_blocked.py",)),
    Mutant("a stream that goes on otherwise is handed out", "ig_plugins/guard/request_handle.py",
        "if not text.startswith(self._sent):", "if False:", only(TESTS + "test_exactly_what_leaves.py", "goes_on_otherwise")),
    Mutant("a batch tries again after text has left", "ig_plugins/runtime/batch.py",
        "if (retry or request in self._late) and not request.begun:", "if retry or request in self._late:",
        only("tests/ig_plugins/runtime/test_worker.py", "tried_again_only")),
    Mutant("a judge may ask its own guard", "ig_plugins/runtime/judging.py",
        "if any(judge is each for each in waiting):", "if False:",
        only("tests/ig_plugins/runtime/test_hanging_judges.py", "reward_model_that_asks")),
    Mutant("a certificate holds for any guard", "ig_plugins/guard/promise.py",
        "            self.certificate.check(identity(parts, options, fresh=fresh))\n", "            pass\n",
        only("tests/ig_plugins/research/calibration/test_calls.py", "generate")),
    Mutant("a tool that was not offered may be called", "ig_plugins/chat/replies.py",
        "    if tool is None:\n        raise NotACallError(", "    if False:\n        raise NotACallError(",
        ("tests/ig_plugins/chat/test_replies.py",)),
    Mutant("a key may be given twice", "ig_plugins/chat/strict_json.py",
        "if len({key for key, _ in items}) < len(items):", "if False:", ("tests/ig_plugins/chat/test_replies.py",), True),
    Mutant("arguments need not fit their schema", "ig_plugins/chat/replies.py",
        'if problem := schema_problem(call["arguments"], tool["parameters"]):', "if problem := None:",
        ("tests/ig_plugins/chat/test_replies.py",)),
    Mutant("judges see arguments with their escapes", "ig_plugins/chat/rendering.py",
        "value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)", "json.dumps(value)",
        ("tests/ig_plugins/chat/test_special.py", "-k", "words_of_a_call")),
)  # fmt: skip
