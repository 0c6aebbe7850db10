"""Nothing unsafe leaves: an adversarial policy, every streaming path, everybody who could overhear it.

The policy answers half of the time with a text that turns unsafe late. The poison begins with a letter that nothing
else contains, and the cost model condemns every text with that letter in it, so that even one character of the unsafe
part, anywhere, fails the test: with the consumer, in callbacks, tracer runs, logs, warnings or exceptions.
"""

import itertools
import zlib

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.tracers.base import BaseTracer

from langchain_inferenceguard import ChatInferenceGuard, GuardBlockedError, InferenceGuardLLM
from tests.adapters.langchain.conftest import ScanningWatcher
from tests.kit.guards import make_guard
from tests.kit.observe import LeakScanner

POISON = "Žpoison"
SAFE = ["Take the stairs and hold the rail.", "Ask the owner first, then knock.", "Read the label twice."]


def answers(prompt: str) -> dict[str, float]:
    """Half of the mass is unsafe, late in the text; for some prompts everything is."""
    number = zlib.crc32(prompt.encode())
    opener = SAFE[number % len(SAFE)]
    unsafe = {f"{opener} And then {POISON} {'it all ' * (number % 3)}": 0.5}
    return unsafe if number % 7 == 0 else {**unsafe, opener: 0.3, f"{opener} That is all.": 0.2}


def cost(prompts, responses):
    return [1.0 if "Ž" in response else -1.0 for response in responses]


class Tracer(BaseTracer):
    """Hands finished runs, as LangSmith would get them, to the scanner."""

    def __init__(self, scanner: LeakScanner) -> None:
        super().__init__()
        self.scanner = scanner

    def _persist_run(self, run):
        self.scanner.see("trace", run.model_dump_json() if hasattr(run, "model_dump_json") else run.json())


class Overheard:
    """One scanner behind consumer, callbacks, tracer, logs and exceptions."""

    def __init__(self, scanner: LeakScanner) -> None:
        self.scanner = scanner
        self.handlers: list[BaseCallbackHandler] = [ScanningWatcher(scanner), Tracer(scanner)]
        self.blocked = self.answered = self.characters = 0

    @property
    def config(self):
        return {"callbacks": self.handlers}

    def consume(self, pieces):
        for piece in pieces:
            self.take(piece)
        self.answered += 1

    async def aconsume(self, pieces):
        async for piece in pieces:
            self.take(piece)
        self.answered += 1

    def take(self, piece):
        self.scanner.see("consumer", piece)
        self.characters += len(piece) if isinstance(piece, str) else 1
        if "content_filter" in repr(piece):
            self.blocked += 1


async def overhear(count: int, heard: Overheard) -> None:
    guard = make_guard(
        answers,
        cost=cost,
        chat=True,
        search={"candidates": 4, "beams": 2, "tries": 1, "seed": None, "block_tokens": 12},
    )
    llm, chat = InferenceGuardLLM.from_guard(guard), ChatInferenceGuard.from_guard(guard)
    agent = create_agent(chat, [])

    def asked(prompt):
        return {"messages": [HumanMessage(prompt)]}

    config = heard.config
    paths = [
        lambda p: heard.consume(llm.stream(p, config)),
        lambda p: heard.consume(chat.stream(p, config)),
        lambda p: heard.aconsume(llm.astream(p, config)),
        lambda p: heard.aconsume(chat.astream(p, config)),
        lambda p: heard.aconsume(llm.astream_events(p, config, version="v2")),
        lambda p: heard.aconsume(chat.astream_events(p, config, version="v2")),
        lambda p: heard.consume(chat.stream_events(p, config, version="v3")),
        lambda p: heard.consume(agent.stream(asked(p), config, stream_mode="messages")),
        lambda p: heard.aconsume(agent.astream(asked(p), config, stream_mode="messages")),
        lambda p: heard.aconsume(agent.astream(asked(p), config, stream_mode=["updates", "values"])),
    ]
    for number, path in zip(range(count), itertools.cycle(paths)):
        result = path(f"Question {number}")
        if result is not None:
            await result
    for number in range(count // 10):
        try:
            heard.consume(chat.stream(f"Question {number}", config, on_block="raise"))
        except GuardBlockedError as error:
            heard.scanner.see_exception(error)
            heard.blocked += 1


async def check(count: int) -> None:
    with LeakScanner() as scanner:
        heard = Overheard(scanner)
        await overhear(count, heard)
    assert heard.answered >= count
    assert heard.blocked >= count // 20  # the guard had something to do
    assert heard.characters > count
    assert {"consumer", "trace", "callback token", "callback end"} <= {source for source, _ in scanner.seen}
    for part in ("Ž", "poison"):
        assert scanner.find(part) == []


async def test_no_unsafe_character_leaves_in_200_answers():
    await check(200)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_no_unsafe_character_leaves_in_2000_answers():
    await check(2000)


async def test_the_scanner_would_have_noticed():
    """The same listeners on the same policy, with a cost model that lets everything pass."""
    with LeakScanner() as scanner:
        heard = Overheard(scanner)
        guard = make_guard(answers, cost=lambda p, r: [-1.0] * len(r), chat=True, search={"seed": None})
        chat = ChatInferenceGuard.from_guard(guard)
        for number in range(20):
            heard.consume(chat.stream(f"Question {number}", heard.config))
    sources = {source for source, _ in scanner.find("poison")}
    assert {"consumer", "trace", "callback token", "callback end"} <= sources
