"""The calls of docs/serving.md's table: real clients against a real server, each with what is expected of it.

A call returns when it got what an OpenAI server would give, and raises otherwise; a call that is refused says how. What
llama.cpp's own server makes of the same calls is measured by `clients_elsewhere`.

    python -m tests.ig_plugins.server.clients        prints the table
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
from pydantic import BaseModel

MODEL, TOOLS, BLOCKED = "tiny-alpaca", "tools", "blocked"
ASK = [{"role": "user", "content": "How do I clean the kettle?"}]
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
STRICT = {**ADD, "function": {**ADD["function"], "strict": True}}
REFUSAL = "I'm sorry, but I can't answer that safely."


class Point(BaseModel):
    """A point."""

    x: Literal[1, 2, 3]
    y: bool


@dataclass(frozen=True)
class Call:
    """One row.

    Attributes:
        client: Who asks.
        words: What is asked.
        run: Asks, given the server's address.
        refused: What the refusal says; None for a call that works.
        guard: It asks about the guard, so other servers are not asked.
    """

    client: str
    words: str
    run: Callable[[str], Any]
    refused: str | None = None
    guard: bool = False

    @property
    def outcome(self) -> str:
        return "works" if self.refused is None else f"refused: {self.refused}"


CALLS: list[Call] = []
ELSEWHERE = Path(__file__).with_name("clients_elsewhere.json")


def call(client, words, refused=None, *, guard=False):
    def add(run):
        CALLS.append(Call(client, words, run, refused, guard))
        return run

    return add


def sdk(url, **options):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, **options)


def chat(url, **more):
    return sdk(url).chat.completions.create(**{"model": MODEL, "messages": ASK, "max_tokens": 16, "seed": 1, **more})


def said(answer):
    """The first choice's text, which must be there with the figures that clients look for."""
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content.strip()
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert answer.model_extra.get("inference_guard", {}).get("blocked", False) is False
    return choice.message.content


def joined(stream, *, index=0):
    """A stream's text; its first chunk has the role and its last choice a reason."""
    chunks = [chunk for chunk in stream if chunk.choices and chunk.choices[0].index == index]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason in ("stop", "length", "content_filter", "tool_calls")
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


# --- the OpenAI package -------------------------------------------------------------------------------------------

SDK = "openai"


@call(SDK, "chat.completions.create")
def _(url):
    assert said(chat(url))


@call(SDK, "… as AsyncOpenAI")
def _(url):
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return await client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=16)

    assert said(asyncio.run(ask()))


@call(SDK, "stream=True: the role in the first chunk")
def _(url):
    assert joined(chat(url, stream=True, seed=1)) == said(chat(url, seed=1))


@call(SDK, "stream_options.include_usage: usage in a last chunk without choices, and only there")
def _(url):
    chunks = list(chat(url, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert all(chunk.usage is None for chunk in chat(url, stream=True))


@call(SDK, "chat.completions.stream: the helper that adds chunks up")
def _(url):
    with sdk(url).chat.completions.stream(model=MODEL, messages=ASK, max_tokens=200, seed=1) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content


@call(SDK, "with_raw_response: the report's figures as headers", guard=True)
def _(url):
    raw = sdk(url).chat.completions.with_raw_response.create(model=MODEL, messages=ASK, max_tokens=16, seed=3)
    assert raw.headers["x-inference-guard-blocked"] == "false"
    assert raw.headers["x-inference-guard-seed"] == "3"
    assert float(raw.headers["x-inference-guard-cost"]) == raw.parse().model_extra["inference_guard"]["cost"]
    assert raw.request_id if hasattr(raw, "request_id") else raw.headers["x-request-id"]


@call(SDK, "with_streaming_response")
def _(url):
    create = sdk(url).chat.completions.with_streaming_response.create
    with create(model=MODEL, messages=ASK, max_tokens=16) as answer:
        assert said(answer.parse())


@call(SDK, "max_completion_tokens")
def _(url):
    answer = chat(url, max_tokens=openai.NOT_GIVEN, max_completion_tokens=5)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (5, "length")


@call(SDK, "max_completion_tokens beside another max_tokens", "max_tokens and max_completion_tokens differ")
def _(url):
    chat(url, max_tokens=4, max_completion_tokens=5)


@call(SDK, "n=3: three searches in one batch, seeds in a row")
def _(url):
    answer = chat(url, n=3, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    alone = [chat(url, seed=seed) for seed in (5, 6, 7)]
    assert [choice.message.content for choice in answer.choices] == [said(each) for each in alone]
    assert answer.usage.completion_tokens == sum(each.usage.completion_tokens for each in alone)


@call(SDK, "n=2, stream=True")
def _(url):
    chunks = list(chat(url, n=2, seed=5, stream=True))
    whole = chat(url, n=2, seed=5)
    for index in (0, 1):
        assert joined(iter(chunks), index=index) == whole.choices[index].message.content


@call(SDK, "n=100", "n x prompts is 100, and this server allows at most 8 (its limit answers)")
def _(url):
    chat(url, n=100)


@call(SDK, "temperature, top_p, seed, stop")
def _(url):
    one, two = (said(chat(url, temperature=0.9, top_p=0.9, seed=4, stop=["."])) for _ in range(2))
    assert one == two
    assert "." not in one


@call(SDK, "the guard's options through extra_body", guard=True)
def _(url):
    answer = chat(url, extra_body={"candidates": 4, "beams": 2, "budget": 5.0})
    assert {block["candidates"] for block in answer.model_extra["inference_guard"]["blocks"]} == {4}


@call(SDK, "a misspelt option", "candidats: this service does not know this field, and ignores none")
def _(url):
    chat(url, extra_body={"candidats": 4})


@call(SDK, "a budget looser than the operator's", "budget is 1000000.0; give at most 10.0", guard=True)
def _(url):
    chat(url, extra_body={"budget": 1e6})


@call(SDK, "presence_penalty=0, frequency_penalty=0, logit_bias={}")
def _(url):
    said(chat(url, presence_penalty=0, frequency_penalty=0.0, logit_bias={}))


@call(SDK, "presence_penalty=0.5", "presence_penalty may only be 0 or null here: say repetition_penalty")
def _(url):
    chat(url, presence_penalty=0.5)


@call(SDK, "frequency_penalty=0.5", "frequency_penalty may only be 0 or null here: say repetition_penalty")
def _(url):
    chat(url, frequency_penalty=0.5)


@call(SDK, "logit_bias={'50256': -100}", "logit_bias may only be {} or null here")
def _(url):
    chat(url, logit_bias={"50256": -100})


@call(SDK, "logprobs=False: null in the answer")
def _(url):
    assert chat(url, logprobs=False).choices[0].logprobs is None


@call(SDK, "logprobs=True, top_logprobs=2", "logprobs may only be false or null here: an answer is chosen among")
def _(url):
    chat(url, logprobs=True, top_logprobs=2)


@call(SDK, "store, metadata, user, service_tier, safety_identifier, prompt_cache_key, prediction")
def _(url):
    said(
        chat(
            url,
            store=True,
            metadata={"a": "b"},
            user="me",
            service_tier="auto",
            safety_identifier="me",
            prompt_cache_key="k",
            prediction={"type": "content", "content": "Take"},
        )
    )


@call(SDK, "modalities=['text'], reasoning_effort='none'")
def _(url):
    said(chat(url, modalities=["text"], reasoning_effort="none"))


@call(SDK, "reasoning_effort='high'", 'reasoning_effort may only be "none" or null here')
def _(url):
    chat(url, reasoning_effort="high")


@call(SDK, "modalities=['text', 'audio']", 'modalities may only be ["text"] or null here')
def _(url):
    chat(url, modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"})


@call(SDK, "web_search_options", "web_search_options may only be null here: this service does not search")
def _(url):
    chat(url, web_search_options={})


@call(SDK, "functions, function_call (before tools)", "functions may only be [] or null here: say tools")
def _(url):
    chat(url, functions=[ADD["function"]], function_call={"name": "add"})


@call(SDK, "response_format={'type': 'text'}")
def _(url):
    said(chat(url, response_format={"type": "text"}))


@call(SDK, "response_format of type json_schema, strict: the text fits it")
def _(url):
    schema = {"name": "point", "strict": True, "schema": Point.model_json_schema()}
    for stream in (False, True):
        answer = chat(url, max_tokens=64, stream=stream, response_format={"type": "json_schema", "json_schema": schema})
        Point.model_validate_json(joined(answer) if stream else answer.choices[0].message.content, strict=True)


@call(SDK, "chat.completions.parse(response_format=Model)")
def _(url):
    answer = sdk(url).chat.completions.parse(model=MODEL, messages=ASK, max_tokens=64, response_format=Point)
    assert isinstance(answer.choices[0].message.parsed, Point)


@call(SDK, "response_format={'type': 'xml'}", "response_format.type may only be text, json_object or json_schema")
def _(url):
    chat(url, response_format={"type": "xml"})


@call(SDK, "role developer")
def _(url):
    rule = {"content": "Be short."}
    answers = [chat(url, seed=1, messages=[{"role": role, **rule}, *ASK]) for role in ("developer", "system")]
    assert said(answers[0]) == said(answers[1])


@call(SDK, "content as parts of type text")
def _(url):
    parts = [{"role": "user", "content": [{"type": "text", "text": ASK[0]["content"]}]}]
    assert said(chat(url, seed=1, messages=parts)) == said(chat(url, seed=1))


@call(
    SDK, "content with an image", "message 0 has content of type 'image_url', and InferenceGuard guards models of text"
)
def _(url):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    chat(url, messages=[{"role": "user", "content": [image]}])


@call(SDK, "an answer's own message sent back as history")
def _(url):
    first = chat(url).choices[0].message
    said(chat(url, messages=[*ASK, first, {"role": "user", "content": "And the cup?"}]))
    said(chat(url, messages=[*ASK, first.model_dump(), {"role": "user", "content": "And the cup?"}]))


@call(SDK, "the server's own refusal sent back as history")
def _(url):
    refused = chat(url, model=BLOCKED).choices[0].message
    for told in (refused, {"role": "assistant", "content": None, "refusal": REFUSAL}):
        said(chat(url, messages=[*ASK, told, {"role": "user", "content": "And the cup?"}]))


@call(SDK, "a blocked answer: finish_reason content_filter, the words in refusal", guard=True)
def _(url):
    choice = chat(url, model=BLOCKED).choices[0]
    assert (choice.finish_reason, choice.message.refusal) == ("content_filter", REFUSAL)


@call(SDK, "a blocked stream: the words in a delta's refusal", guard=True)
def _(url):
    chunks = list(chat(url, model=BLOCKED, stream=True))
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    assert chunks[-1].choices[0].delta.refusal == REFUSAL


@call(SDK, "a blocked answer under parse: ContentFilterFinishReasonError", guard=True)
def _(url):
    try:
        sdk(url).chat.completions.parse(model=BLOCKED, messages=ASK)
    except openai.ContentFilterFinishReasonError:
        return
    raise AssertionError("the client did not see that it was blocked")


@call(SDK, "tools, tool_choice='auto'")
def _(url):
    choice = chat(url, model=TOOLS, tools=[ADD], tool_choice="auto", max_tokens=200).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls[0].function.name == "add"
    assert "a" in json.loads(choice.message.tool_calls[0].function.arguments)


@call(SDK, "tool_choice='required', and a function by name, strict=True")
def _(url):
    for choice in ("required", {"type": "function", "function": {"name": "add"}}):
        answer = chat(url, model=TOOLS, tools=[STRICT], tool_choice=choice, max_tokens=200)
        assert answer.choices[0].message.tool_calls[0].function.name == "add"


@call(SDK, "tool_choice='none'")
def _(url):
    answer = chat(url, model=TOOLS, tools=[ADD], tool_choice="none", max_tokens=200)
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content


@call(SDK, "tools, stream=True: a call in one whole piece")
def _(url):
    chunks = list(chat(url, model=TOOLS, tools=[ADD], stream=True, max_tokens=200))
    (made,) = [chunk.choices[0].delta.tool_calls for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert (made[0].index, made[0].function.name) == (0, "add")
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@call(SDK, "parallel_tool_calls=False: the first call alone")
def _(url):
    answers = [
        chat(url, model="two calls", tools=[ADD], parallel_tool_calls=parallel, max_tokens=300)
        for parallel in (True, False)
    ]
    assert [len(answer.choices[0].message.tool_calls) for answer in answers] == [2, 1]


@call(SDK, "a tool's result sent back")
def _(url):
    made = chat(url, model=TOOLS, tools=[ADD], max_tokens=200).choices[0].message
    result = {"role": "tool", "tool_call_id": made.tool_calls[0].id, "content": "7"}
    answer = chat(url, model=TOOLS, tools=[ADD], messages=[*ASK, made, result], max_tokens=200)
    assert "7" in answer.choices[0].message.content


@call(SDK, "chat.completions.parse with tools (pydantic_function_tool)")
def _(url):
    class Add(BaseModel):
        a: int

    tool = openai.pydantic_function_tool(Add, name="add")
    answer = sdk(url).chat.completions.parse(model=TOOLS, messages=ASK, tools=[tool], max_tokens=200)
    assert isinstance(answer.choices[0].message.tool_calls[0].function.parsed_arguments, Add)


@call(SDK, "a model that is not served: NotFoundError", "the model 'gpt-5' is not served here")
def _(url):
    chat(url, model="gpt-5")


@call(SDK, "a model's alias")
def _(url):
    said(chat(url, model="gpt-4o-mini"))


@call(SDK, "models.list, models.retrieve")
def _(url):
    first = next(iter(sdk(url).models.list()))
    assert sdk(url).models.retrieve(first.id) == first


@call(SDK, "completions.create")
def _(url):
    answer = sdk(url).completions.create(model=MODEL, prompt="The kettle", max_tokens=8, echo=False, suffix=None)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    assert answer.usage.completion_tokens == 8


@call(SDK, "completions.create with a list of prompts, n=2, stream=True")
def _(url):
    create = sdk(url).completions.create
    asked = {"model": MODEL, "prompt": ["The kettle", "The cup"], "n": 2, "max_tokens": 8, "seed": 1}
    whole = create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    texts = dict.fromkeys(range(4), "")
    for chunk in create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {choice.index: choice.text for choice in whole.choices}


@call(SDK, "completions.create, echo=True", "echo may only be false or null here: the prompt is not judged")
def _(url):
    sdk(url).completions.create(model=MODEL, prompt="The kettle", echo=True)


@call(SDK, "completions.create, best_of=4", "best_of may only be 1 or null here: say candidates")
def _(url):
    sdk(url).completions.create(model=MODEL, prompt="The kettle", best_of=4)


@call(SDK, "completions.create, suffix", 'suffix may only be "" or null here')
def _(url):
    sdk(url).completions.create(model=MODEL, prompt="The kettle", suffix="end")


@call(SDK, "completions.create with token ids", "prompt.str: Input should be a valid string")
def _(url):
    sdk(url).completions.create(model=MODEL, prompt=[1, 2, 3])


@call(SDK, "responses.create: a text, or instructions and messages")
def _(url):
    answer = sdk(url).responses.create(model=MODEL, input=ASK[0]["content"], max_output_tokens=16, temperature=0.9)
    assert answer.output_text
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.incomplete_details.reason == "max_output_tokens"
    parts = [{"role": "user", "content": [{"type": "input_text", "text": ASK[0]["content"]}]}]
    told = sdk(url).responses.create(
        model=MODEL, instructions="Be short.", input=parts, max_output_tokens=16, extra_body={"seed": 1}
    )
    said_ = {"role": "system", "content": "Be short."}
    assert told.output_text == said(chat(url, messages=[said_, *ASK], seed=1))


@call(SDK, "responses.create: output sent back as input")
def _(url):
    first = sdk(url).responses.create(model=MODEL, input=ASK, max_output_tokens=16)
    more = [*ASK, *(item.model_dump() for item in first.output), {"role": "user", "content": "And the cup?"}]
    assert sdk(url).responses.create(model=MODEL, input=more, max_output_tokens=16).output_text


@call(SDK, "responses.create: a blocked answer as a part of type refusal", guard=True)
def _(url):
    answer = sdk(url).responses.create(model=BLOCKED, input="How?")
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "content_filter")
    assert answer.output[0].content[0].refusal == REFUSAL


@call(SDK, "responses.create, stream=True", "stream may only be false or null here: ask /v1/chat/completions")
def _(url):
    list(sdk(url).responses.create(model=MODEL, input="How?", stream=True))


@call(SDK, "responses.create with tools", "tools may only be [] or null here: ask /v1/chat/completions")
def _(url):
    sdk(url).responses.create(model=MODEL, input="How?", tools=[{"type": "web_search"}])


@call(SDK, "responses.create, previous_response_id", "previous_response_id may only be null here: nothing is stored")
def _(url):
    sdk(url).responses.create(model=MODEL, input="How?", previous_response_id="resp_1")


@call(SDK, "embeddings.create", "Not Found")
def _(url):
    sdk(url).embeddings.create(model=MODEL, input="x")


@call(SDK, "a timeout of the client: decoding stops")
def _(url):
    try:
        sdk(url, timeout=0.3).chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=1000, extra_body={"candidates": 64}
        )
    except openai.APITimeoutError:
        with httpx.Client(base_url=url, timeout=60) as client:
            for _ in range(600):
                if not _decodes(client):
                    return
        raise AssertionError("it still decodes") from None


def _decodes(client):
    """Whether an answer is under way: ours says so at /ready, llama.cpp at /slots."""
    ready = client.get("/ready")
    if ready.status_code == 404:
        return any(slot["is_processing"] for slot in client.get("/slots").json())
    return ready.json()["running"] > 0


# --- LangChain ----------------------------------------------------------------------------------------------------

LANGCHAIN = "ChatOpenAI"


def langchain(url, **more):
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        **{"base_url": f"{url}/v1", "api_key": "none", "model": MODEL, "max_retries": 0, "max_tokens": 16, **more}
    )


@call(LANGCHAIN, "invoke, with usage and finish reason")
def _(url):
    answer = langchain(url).invoke("How do I clean the kettle?")
    assert answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] in ("stop", "length")


@call(LANGCHAIN, "stream, usage counted once")
def _(url):
    model = langchain(url, stream_usage=True, seed=1)
    chunks = list(model.stream("How do I clean the kettle?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    told = model.invoke("How do I clean the kettle?")
    assert whole.content == told.content
    assert whole.usage_metadata["total_tokens"] == told.usage_metadata["total_tokens"]


@call(LANGCHAIN, "ainvoke, batch")
def _(url):
    import asyncio

    model = langchain(url)
    assert asyncio.run(model.ainvoke("How do I clean the kettle?")).content
    assert all(each.content for each in model.batch(["How do I clean the kettle?", "And the cup?"]))


@call(LANGCHAIN, "bind_tools, and the tool's message sent back")
def _(url):
    from langchain_core.messages import HumanMessage, ToolMessage

    model = langchain(url, model=TOOLS, max_tokens=200).bind_tools([ADD])
    asked = HumanMessage("add")
    made = model.invoke([asked])
    assert made.tool_calls[0]["name"] == "add"
    told = model.invoke([asked, made, ToolMessage("7", tool_call_id=made.tool_calls[0]["id"])])
    assert "7" in told.content


@call(LANGCHAIN, "with_structured_output(method='function_calling')")
def _(url):
    model = langchain(url, model=TOOLS, max_tokens=200)
    assert isinstance(model.with_structured_output(Point, method="function_calling").invoke("a point"), Point)


@call(LANGCHAIN, "with_structured_output(method='json_schema')")
def _(url):
    model = langchain(url, max_tokens=64)
    assert isinstance(model.with_structured_output(Point, method="json_schema").invoke("a point"), Point)


@call(LANGCHAIN, "a blocked answer", guard=True)
def _(url):
    answer = langchain(url, model=BLOCKED).invoke("How?")
    assert answer.response_metadata["finish_reason"] == "content_filter"
    assert answer.additional_kwargs["refusal"] == REFUSAL


@call(LANGCHAIN, "extra_body with the guard's options", guard=True)
def _(url):
    assert langchain(url, extra_body={"candidates": 4, "beams": 2}).invoke("How?").content


@call(LANGCHAIN, "use_responses_api=True")
def _(url):
    assert langchain(url, use_responses_api=True).invoke("How do I clean the kettle?").text


@call("OpenAI (LangChain)", "invoke")
def _(url):
    from langchain_openai import OpenAI

    model = OpenAI(base_url=f"{url}/v1", api_key="none", model=MODEL, max_retries=0, max_tokens=8)
    assert model.invoke("The kettle")
    assert "".join(model.stream("The kettle"))


# --- LlamaIndex ---------------------------------------------------------------------------------------------------

LLAMA = "OpenAILike"


def llama_index(url, **more):
    from llama_index.llms.openai_like import OpenAILike

    return OpenAILike(
        **{"api_base": f"{url}/v1", "api_key": "none", "model": MODEL, "is_chat_model": True, "max_tokens": 16,
           "max_retries": 0, "context_window": 4096, **more}
    )  # fmt: skip


@call(LLAMA, "complete, chat")
def _(url):
    from llama_index.core.llms import ChatMessage

    assert llama_index(url).complete("How do I clean the kettle?").text
    assert llama_index(url).chat([ChatMessage("How do I clean the kettle?")]).message.content


@call(LLAMA, "stream_chat")
def _(url):
    from llama_index.core.llms import ChatMessage

    *_, last = llama_index(url).stream_chat([ChatMessage("How do I clean the kettle?")])
    assert last.message.content


@call(LLAMA, "is_chat_model=False: complete, stream_complete")
def _(url):
    model = llama_index(url, is_chat_model=False)
    assert model.complete("The kettle").text
    *_, last = model.stream_complete("The kettle")
    assert last.text


@call(LLAMA, "chat_with_tools")
def _(url):
    from llama_index.core.tools import FunctionTool

    def add(a: int) -> int:
        """Adds."""
        return a

    model = llama_index(url, model=TOOLS, is_function_calling_model=True, max_tokens=200)
    answer = model.chat_with_tools([FunctionTool.from_defaults(add)], "add")
    assert model.get_tool_calls_from_response(answer)[0].tool_name == "add"


# --- without a client ---------------------------------------------------------------------------------------------

CURL = "curl"


def curl(url, path, body=None, *more):
    given = ["-d", json.dumps(body), "-H", "content-type: application/json"] if body is not None else []
    done = subprocess.run(
        ["curl", "-sS", "-m", "60", *given, *more, f"{url}{path}"], capture_output=True, text=True, check=True
    )
    return done.stdout


@call(CURL, "POST /v1/chat/completions without a model")
def _(url):
    answer = json.loads(curl(url, "/v1/chat/completions", {"messages": ASK, "max_tokens": 8}))
    assert answer["choices"][0]["message"]["content"]


@call(CURL, "-N with stream: lines of data, [DONE] at the end")
def _(url):
    told = curl(url, "/v1/chat/completions", {"messages": ASK, "max_tokens": 8, "stream": True}, "-N")
    assert told.endswith("data: [DONE]\n\n")


@call(CURL, "POST /tokenize with prompt (vLLM), content (llama.cpp), messages")
def _(url):
    text, same = (json.loads(curl(url, "/tokenize", {key: "The kettle"})) for key in ("prompt", "content"))
    assert text == same
    assert text["count"] == len(text["tokens"]) > 0
    told = json.loads(curl(url, "/tokenize", {"messages": ASK}))
    answer = json.loads(curl(url, "/v1/chat/completions", {"messages": ASK, "max_tokens": 8}))
    assert told["count"] == answer["usage"]["prompt_tokens"]


@call(CURL, "a body that is no JSON", "the body is no JSON")
def _(url):
    _raised(curl(url, "/v1/chat/completions", None, "-d", "{"))


@call(CURL, "POST /v1/nothing", "Not Found")
def _(url):
    _raised(curl(url, "/v1/nothing", {}))


@call(CURL, "GET /v1/chat/completions", "Method Not Allowed")
def _(url):
    _raised(curl(url, "/v1/chat/completions"))


def _raised(body):
    error = json.loads(body)["error"]
    assert set(error) - {"param"} == {"type", "message", "code"}
    raise RuntimeError(error["message"])


def table():
    """The table of docs/serving.md."""
    elsewhere = json.loads(ELSEWHERE.read_text(encoding="utf-8"))
    rows = ["| client | call | here | llama.cpp |", "|---|---|---|---|"]
    for each in CALLS:
        cells = (each.client, each.words, each.outcome, elsewhere[f"{each.client}: {each.words}"])
        rows.append(f"| {' | '.join(map(_plain, cells))} |")
    return "\n".join(rows)


def _plain(text):
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
