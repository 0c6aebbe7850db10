"""Changes to calibration, the LangChain middleware and the HTTP service."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, only

CALIBRATION, CALIBRATED = "ig_plugins/research/calibration/", "tests/ig_plugins/research/calibration/"
BOUNDS, SEQUENCE = (CALIBRATED + "test_bounds.py",), CALIBRATED + "test_certificate.py"
ADAPTER, LANGCHAIN = "adapters/langchain_inferenceguard/", "tests/adapters/langchain/"
MIDDLEWARE, HISTORY = LANGCHAIN + "test_middleware.py", LANGCHAIN + "test_middleware_history.py"
SERVER, SERVED = "ig_plugins/server/", "tests/ig_plugins/server/"
GATE, ENTRY = SERVED + "test_gate.py", SERVED + "test_entry.py"

MUTANTS: tuple[Mutant, ...] = (
    # Calibration.
    Mutant("the observed rate is the bound", CALIBRATION + "calibrate.py",
        "bound = upper_bound(tally.unsafe, tally.prompts, 1 - confidence)", "bound = tally.unsafe / tally.prompts",
        only(SEQUENCE, "as_rare_as_promised")),
    Mutant("settings are tested past the first that fails", CALIBRATION + "calibrate.py",
        "        if bound > target:\n            break\n", "", only(SEQUENCE, "least_strict", "as_rare_as_promised")),
    Mutant("an upper bound is the lower one's", CALIBRATION + "bounds.py",
        "_beta().ppf(1 - risk, hits + 1, trials - hits)", "_beta().ppf(1 - risk, hits, trials - hits + 1)", BOUNDS),
    Mutant("confidence is risk", CALIBRATION + "calibrate.py", "tally.prompts, 1 - confidence)", "tally.prompts, confidence)",
        only(SEQUENCE, "as_rare_as_promised"), True),
    Mutant("budgets are tested in the order given", CALIBRATION + "guarded.py",
        "ordered = sorted(rows)", "ordered = list(rows)", only(CALIBRATED + "test_guarded.py", "least_strict")),
    Mutant("refusals are judged", CALIBRATION + "guarded.py",
        "for prompt, answer in answered if not answer.blocked]", "for prompt, answer in answered]",
        only(CALIBRATED + "test_guarded.py", "refusals_are_counted")),
    Mutant("answers of another run are counted", CALIBRATION + "answers.py",
        "elif head.decode(errors=\"replace\") != ours:", "elif False:", (CALIBRATED + "test_answers.py",)),
    Mutant("a guard that nobody knows is calibrated for hours", CALIBRATION + "calibrate.py",
        "        check_known(identity(overrides))\n", "        pass\n", only(CALIBRATED + "test_guarded.py", "before_anything")),
    # The LangChain middleware.
    Mutant("a score equal to the limit is stopped", ADAPTER + "_screen.py",
        "self.score > self.limit", "self.score >= self.limit", only(MIDDLEWARE, "limit_and_message")),
    Mutant("what passed one prompt passes every prompt", ADAPTER + "_screen.py",
        "for part in parts)\n        return hmac", "for part in (parts[0], parts[-1]))\n        return hmac", only(HISTORY, "other_question")),
    Mutant("parts of a digest run into each other", ADAPTER + "_screen.py",
        'len(part).to_bytes(8, "big") + part', "part", only(HISTORY, "run_into")),
    Mutant("texts are judged one by one only", ADAPTER + "_screen.py",
        "        if len(asked) > 1:\n", "        if False:\n", only(HISTORY, "only_together")),
    Mutant("the best of some texts counts", ADAPTER + "_screen.py", "worst = max((score", "worst = min((score", only(HISTORY, "every_part")),
    Mutant("a block that no judge reads passes", ADAPTER + "middleware.py",
        "        if checked and unread:\n", "        if False:\n", only(HISTORY, "media")),
    Mutant("messages of other middleware reach the model unjudged", ADAPTER + "middleware.py",
        "        messages, flagged = self._swept(request.messages)\n", "        messages, flagged = list(request.messages), []\n",
        only(HISTORY, "other_middleware")),
    Mutant("a call is not judged again before its tool runs", ADAPTER + "middleware.py",
        "        if not verdict.blocked:\n            return None\n        self._raise_if_asked(verdict)\n        return stopped_tool",
        "        if True:\n            return None\n        self._raise_if_asked(verdict)\n        return stopped_tool",
        only(HISTORY, "changed_after")),
    Mutant("a flagged answer's calls are made", ADAPTER + "middleware.py",
        "        if called.blocked:\n", "        if False:\n", only(HISTORY, "flagged_call")),
    Mutant("a tool's result reaches the model first", ADAPTER + "middleware.py",
        "                self._raise_if_asked(verdict)\n            return clean\n", "                self._raise_if_asked(verdict)\n            return message\n",
        only(HISTORY, "leave_the_state")),
    Mutant("other models stream while they are judged", ADAPTER + "middleware.py",
        '"disable_streaming": True}', "}", only(MIDDLEWARE, "while_held")),
    Mutant("a structured answer is not judged", ADAPTER + "middleware.py",
        "if (structured := response.structured_response) is not None:", "if (structured := response.structured_response) is None:",
        only(HISTORY, "as_its_reader")),
    # The service.
    Mutant("the gate lets one more in than it says", SERVER + "gate.py",
        "if len(self._inside) >= self._running + self._queued:", "if len(self._inside) > self._running + self._queued:",
        only(GATE, "so_many_run"), True),
    Mutant("heavy requests take every place", SERVER + "gate.py",
        "(visit.heavy and heavies < 1)", "False", only(GATE, "heavy_requests")),
    Mutant("a large request is overtaken for ever", SERVER + "gate.py",
        "                if visit.bytes > free and time.monotonic() - visit.since > PATIENCE:\n                    return\n", "",
        only(GATE, "overtaken")),
    Mutant("memory is not shared", SERVER + "gate.py", "if visit.bytes > free or (", "if (", only(GATE, "memory_is_shared")),
    Mutant("those whom a closing server gives up are admitted", SERVER + "gate.py",
        "        if not visit.admitted:\n", "        if False:\n", only(GATE, "gate_that_closes")),
    Mutant("any word before the key will do", SERVER + "entry.py",
        'return scheme.lower() == "bearer" and any(matches)', "return any(matches)", only(ENTRY, "key_is_needed")),
    Mutant("a server with keys asks for none", SERVER + "entry.py",
        'return scheme.lower() == "bearer" and any(matches)', 'return scheme.lower() == "bearer"', only(ENTRY, "key_is_needed"), True),
    Mutant("a client writes into the log", SERVER + "entry.py",
        "wanted if ID.fullmatch(wanted) else uuid.uuid4().hex", "wanted or uuid.uuid4().hex", only(ENTRY, "id_that_the_client")),
    Mutant("a client's timeout may be longer than the operator's", SERVER + "limits.py",
        "min(self.timeout, wanted)", "wanted", only(SERVED + "test_limits.py", "operators_time")),
    Mutant("a wide block passes the ceiling", SERVER + "limits.py",
        '        self._refuse("lane_tokens", answers * lane_tokens(options), max(self.lane_tokens, lane_tokens(defaults)))\n', "",
        only(SERVED + "test_limits.py", "ceiling")),
    Mutant("a long prompt passes the ceiling", SERVER + "limits.py",
        "if self.prompt_tokens is not None:", "if False:", only(ENTRY, "encoded_once")),
)  # fmt: skip
