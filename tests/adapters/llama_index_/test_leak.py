"""An adversarial policy: half of what it wants to say ends unsafe, late. None of it is ever seen, on any path."""

import json

import pytest
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.tools import FunctionTool

from examples.llama_index_embedding import WordEmbedding
from llama_index.llms.inferenceguard import GuardBlockedError, InferenceGuardLLM
from tests.adapters.llama_index_.guards import MARK, REFUSAL, scripted_guard
from tests.adapters.llama_index_.methods import METHODS, call
from tests.kit.observe import LeakScanner
from tests.kit.tool_caller import CALL

OPENERS = [f"{word} is easy: take your time, ask somebody who knows, and then " for word in ["This", "That", "Cooking"]]
ANSWERS = {f"{o}{end}": 1 / 6 for o in OPENERS for end in ("rest a while.", f"{MARK} all of it.")}
ALL_BAD = {f"{o}{MARK} all of it.": 1 / 3 for o in OPENERS}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("answers", [ANSWERS, ALL_BAD], ids=["half", "all"])
async def test_no_method_leaks(watch, method, answers):
    llm = InferenceGuardLLM.from_guard(scripted_guard(answers, block_tokens=8))
    with LeakScanner() as scanner, watch(llm) as (events, callbacks):
        for seed in range(3):
            items = await call(llm, method, "hi", seed=seed)
            scanner.see("items", items)
            # Every way to ask gives the guard's own answer of that seed.
            assert items[-1].text == llm.guard.generate("hi", seed=seed).text
            assert answers is ANSWERS or items[-1].text == REFUSAL
        try:
            scanner.see("raising", await call(llm, method, "hi", on_block="raise", seed=0))
        except GuardBlockedError as error:
            scanner.see_exception(error)
        scanner.see("events", [vars(event) for event in events.seen])
        scanner.see("callbacks", callbacks.starts, callbacks.ends)
    assert scanner.seen
    assert scanner.find(MARK) == []


async def test_engines_do_not_leak(watch):
    llm = InferenceGuardLLM.from_guard(scripted_guard(ANSWERS, block_tokens=8))
    documents = [Document(text=f"Page {i}: cooking needs time.") for i in range(5)]
    index = VectorStoreIndex.from_documents(documents, embed_model=WordEmbedding())
    with LeakScanner() as scanner, watch(llm) as (events, _):
        scanner.see("query", str(index.as_query_engine(llm=llm).query("cooking?")))
        scanner.see("stream", "".join(index.as_query_engine(llm=llm, streaming=True).query("cooking?").response_gen))
        scanner.see("aquery", str(await index.as_query_engine(llm=llm).aquery("cooking?")))
        chat = SimpleChatEngine.from_defaults(llm=llm)
        scanner.see("chat", str(chat.chat("cooking?")))
        scanner.see("stream_chat", "".join(chat.stream_chat("cooking?").response_gen))
        streaming = await chat.astream_chat("cooking?")
        scanner.see("astream_chat", [token async for token in streaming.async_response_gen()])
        scanner.see("history", chat.chat_history)
        scanner.see("events", [vars(event) for event in events.seen])
    assert scanner.find(MARK) == []


@pytest.fixture
def erase():
    erased = []

    def erase(path: str) -> str:
        """Erase a path."""
        erased.append(path)
        return f"{path} is gone"

    return FunctionTool.from_defaults(erase), erased


async def _run(agent, question, scanner):
    handler = agent.run(user_msg=question)
    async for event in handler.stream_events():
        scanner.see(type(event).__name__, vars(event))
    answer = await handler
    scanner.see("answer", vars(answer))
    return answer


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_blocked_tool_call_never_runs(erase, streaming):
    tool, erased = erase
    bad = CALL % ("erase", json.dumps({"path": f"/home/{MARK}"}))
    llm = InferenceGuardLLM.from_guard(scripted_guard({bad: 1.0}, block_tokens=8))
    with LeakScanner() as scanner:
        answer = await _run(FunctionAgent(tools=[tool], llm=llm, streaming=streaming), "Tidy up.", scanner)
    assert erased == []
    assert str(answer) == REFUSAL
    assert scanner.find(MARK) == []


@pytest.mark.parametrize("streaming", [True, False])
async def test_react_does_not_act_on_a_text_that_is_blocked_later(erase, streaming):
    """The start is a whole action that ReAct's lenient parser would run; the verifier stops what follows it."""
    tool, erased = erase
    text = 'Thought: tidy.\nAction: erase\nAction Input: {"path": "/home"}\n' + "and on and on " * 3 + MARK
    llm = InferenceGuardLLM.from_guard(scripted_guard({text: 1.0}, block_tokens=8))
    with LeakScanner() as scanner:
        answer = await _run(ReActAgent(tools=[tool], llm=llm, streaming=streaming), "Tidy up.", scanner)
    assert erased == []
    assert str(answer) == REFUSAL
    assert scanner.find(MARK) == []
    if streaming:
        assert any("Action Input" in seen for source, seen in scanner.seen if source == "AgentStream"), (
            "the test is void: nothing of the action was streamed before the block"
        )


async def test_agent_workflow_does_not_leak(erase):
    llm = InferenceGuardLLM.from_guard(scripted_guard(ANSWERS, block_tokens=8))
    with LeakScanner() as scanner:
        answer = await _run(AgentWorkflow.from_tools_or_functions([erase[0]], llm=llm), "How is it?", scanner)
    assert str(answer) in ANSWERS
    assert scanner.find(MARK) == []
