"""`InferenceGuardMiddleware`: the project's judges around an agent that runs on somebody else's model."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from typing import Annotated, Any, Literal

from critic_models.judges import Judge
from ig_plugins.errors import ConfigurationError, GuardBlockedError
from ig_plugins.guard.judges import load_cost_model
from ig_plugins.runtime.judging import JUDGE_SECONDS
from langchain_inferenceguard._commands import each_message
from langchain_inferenceguard._last_look import CallStoppedError, watched
from langchain_inferenceguard._parts import MEDIA, Parts, call_text, parts_of, strings, words_in_names
from langchain_inferenceguard._quiet import keep_models_quiet, models_unseen
from langchain_inferenceguard._screen import (
    STOPPED,
    Screen,
    Stage,
    Verdict,
    asked,
    is_stopped,
    messages_of,
    refusal,
    report_of,
    reworded,
    stopped_tool,
    unanswered,
    without_calls,
)
from langchain_inferenceguard.chat_models import ChatInferenceGuard

try:
    from langchain.agents.middleware import (
        AgentMiddleware,
        AgentState,
        ExtendedModelResponse,
        ModelRequest,
        ModelResponse,
        ToolCallRequest,
        hook_config,
    )
    from langchain.agents.middleware.types import PrivateStateAttr
except ImportError as error:
    raise ImportError(
        'InferenceGuardMiddleware needs langchain; install it with: pip install "inferenceguard[agents]"'
    ) from error

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables.config import run_in_executor
from langgraph.errors import GraphBubbleUp, GraphInterrupt, ParentCommand
from langgraph.runtime import Runtime
from langgraph.types import Command, Interrupt
from typing_extensions import NotRequired

ExitBehavior = Literal["end", "error", "replace"]


class State(AgentState[Any]):
    """The agent's state, and the report of what is to be raised once flagged messages have left it."""

    inference_guard_stop: NotRequired[Annotated[dict[str, Any] | None, PrivateStateAttr]]


ModelAnswer = ModelResponse[Any] | ExtendedModelResponse[Any]
ToolAnswer = ToolMessage | Command[Any]
Flagged = tuple[BaseMessage, Verdict]

VIOLATION_MESSAGE = "This was stopped by a safety check."


class InferenceGuardMiddleware(AgentMiddleware[State, Any, Any]):
    """Judges what goes into and comes out of an agent whose model this project does not decode for.

    With `ChatInferenceGuard` as the agent's model you do not need this for the answers: they are guarded while they
    are decoded, token streams included. For a hosted model, this is the second best thing: every text is scored by a
    cost model after it exists and before it is passed on.

    List it first, so that what other middleware adds passes through it as well.

    What it checks:

    - `check_input`: every message that is neither the model's nor a tool's, before the model reads it.
    - `check_output`: what the model says and thinks (and a structured answer), before it enters the agent's state. It
      replaces the message inside the model node, so no checkpoint and no `stream_mode="updates"` holds the flagged one.
    - `check_tool_calls`: name and arguments, in the same place, and again right before the tool would run.
    - `check_tool_results`: what a tool returned, sent to another agent or asks a human, before anybody reads it.

    The whole history is checked before each call of the model, and once more at the end of a run: what this object did
    not pass itself, such as assistant turns that a client sends along or a checkpoint of another process, is judged
    like new. A flagged message is replaced in the state, under its id, so that no later turn answers it.

    What it cannot do:

    - **Hold back tokens that the model streams to somebody else.** With `hold_stream=True` (the default) it runs other
      models without streaming and hides them from LangGraph's streams and from `astream_events`, so their answer
      arrives there in one piece, checked; models that a tool calls are hidden, too. But a callback or tracer still gets
      the finished, unchecked answer (`on_llm_end`), and with `hold_stream=False` every token of it. What is not hidden:
      a model that other middleware calls in hooks of its own, such as a summary before the model's turn, and another
      model that other middleware puts in the place of a `ChatInferenceGuard`.
    - Read what is not text. A message with an image, audio, a file, sealed thoughts or a block of a kind that it does
      not know is stopped; `allow_media=True` lets the known kinds of media pass unjudged.
    - Find the safe answer. It can only stop an unsafe one; guarded decoding searches for a better one.

    It fails closed: when the judge fails, the error propagates and the text does not.

    Args:
        cost_model: A judge, a callable `f(prompts, responses) -> list[float]`, a preset (its cost model), or the name
            or path of a score model, sequence classifier or guard LLM. Higher is worse. The user's text is judged as a
            response to nothing, everything else as a response to what the user asked last.
        limit: The highest score that passes; the judge's own default (0 for callables and score models, 0.5 for
            probabilities) if None.
        check_input: Judge user messages.
        check_output: Judge the model's answers.
        check_tool_results: Judge tool results.
        check_tool_calls: Judge tool calls.
        exit_behavior: `end` stops the agent with the violation message, `error` raises `GuardBlockedError`, `replace`
            puts the violation message where the text was and goes on.
        violation_message: May use `{stage}`, `{judge}`, `{score}` and `{limit}`.
        hold_stream: Do not let other models stream; see above.
        allow_media: Let images, audio, video, files and sealed thoughts pass, though nobody judges them.
        judge_timeout: Seconds that the judge may take over one text; then a `JudgeTimeoutError`, and no text passes.

    Raises:
        ConfigurationError: An `exit_behavior` or placeholder that does not exist, or a limit that is no number.

    Example:
        ```python
        from langchain.agents import create_agent
        from langchain_inferenceguard import InferenceGuardMiddleware

        agent = create_agent(model, tools, middleware=[InferenceGuardMiddleware("tiny-beaver", exit_behavior="end")])
        ```
    """

    state_schema = State

    def __init__(
        self,
        cost_model: str | Judge | Callable[[list[str], list[str]], list[float]],
        *,
        limit: float | None = None,
        check_input: bool = True,
        check_output: bool = True,
        check_tool_results: bool = True,
        check_tool_calls: bool = True,
        exit_behavior: ExitBehavior = "end",
        violation_message: str = VIOLATION_MESSAGE,
        hold_stream: bool = True,
        allow_media: bool = False,
        judge_timeout: float = JUDGE_SECONDS,
    ) -> None:
        super().__init__()
        if exit_behavior not in ("end", "error", "replace"):
            raise ConfigurationError(f"exit_behavior is {exit_behavior!r}; choose 'end', 'error' or 'replace'")
        judge = load_cost_model(cost_model)
        self.screen = Screen(judge, limit, judge_timeout=judge_timeout)
        self.check_input = check_input
        self.check_output = check_output
        self.check_tool_results = check_tool_results
        self.check_tool_calls = check_tool_calls
        self.exit_behavior = exit_behavior
        self.violation_message = violation_message
        self.hold_stream = hold_stream
        self.allow_media = allow_media
        self._words(Verdict("input", judge.name, 0.0, self.screen.limit))  # a wrong placeholder shows now, not later

    # ---- what the model is about to read ----

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Judges every message that has not passed; also ends the run when a tool call or result was stopped."""
        messages, flagged = self._swept(state["messages"])
        changed = [message for message, _ in flagged]
        if flagged and self.exit_behavior == "error":
            # Raised by the next node: a node that raises leaves the state as it is, with the flagged message in it.
            return {"messages": changed, "inference_guard_stop": flagged[0][1].report()}
        if flagged and self.exit_behavior == "end":
            verdict = flagged[0][1]
            return {"messages": [*changed, refusal(self._words(verdict), verdict.report())], "jump_to": "end"}
        update: dict[str, Any] = {"messages": changed} if changed else {}
        if state.get("inference_guard_stop"):
            update["inference_guard_stop"] = None
        if self.exit_behavior == "end" and (stopped := next(filter(is_stopped, unanswered(messages)), None)):
            return {**update, "messages": [refusal(stopped.text, report_of(stopped))], "jump_to": "end"}
        return update or None

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """See `before_model`; judges work in a thread, so that the event loop goes on."""
        return await run_in_executor(None, self.before_model, state, runtime)

    def after_agent(self, state: State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Judges what other middleware and tools have written since the last call of the model; no other one follows.

        Raises:
            GuardBlockedError: A message was flagged, with `exit_behavior="error"`.
        """
        _, flagged = self._swept(state["messages"])
        if not flagged:
            return None
        self._raise_if_asked(flagged[0][1])
        return {"messages": [message for message, _ in flagged]}

    async def aafter_agent(self, state: State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """See `after_agent`."""
        return await run_in_executor(None, self.after_agent, state, runtime)

    def _swept(self, messages: Sequence[BaseMessage]) -> tuple[list[BaseMessage], list[Flagged]]:
        """The messages with other words for flagged ones, and what was put in their places."""
        swept: list[BaseMessage] = []
        flagged: list[Flagged] = []
        for message in messages:
            clean, verdict = self._cleaned(message, asked(swept))
            swept.append(clean)
            if verdict is not None:
                flagged.append((clean, verdict))
        return swept, flagged

    def _cleaned(self, message: BaseMessage, prompt: str) -> tuple[BaseMessage, Verdict | None]:
        """The message as it may be passed on, and the verdict that changed it."""
        parts = parts_of(message)
        if isinstance(message, AIMessage):
            return self._cleaned_answer(message, parts, prompt)
        stage: Stage = "tool_result" if isinstance(message, ToolMessage) else "input"
        verdict = self._verdict(stage, [*parts.words, *parts.calls], parts, "" if stage == "input" else prompt)
        if not verdict.blocked:
            return message, None
        words = self._words(verdict)
        if isinstance(message, ToolMessage):
            call_id, name = message.tool_call_id, None if words_in_names(message) else message.name
            return stopped_tool(words, verdict.report(), call_id=call_id, name=name, id=message.id), verdict
        return reworded(message, words, verdict), verdict

    def _cleaned_answer(self, message: AIMessage, parts: Parts, prompt: str) -> tuple[AIMessage, Verdict | None]:
        said = self._verdict("output", parts.words, parts, prompt)
        called = self._verdict("tool_call", parts.calls, Parts(), prompt)
        answer = message
        if said.blocked:
            answer = reworded(message, self._words(said), said)  # type: ignore[assignment]
        if called.blocked:
            # Each is judged on its own, but what is unsafe only as a whole is stopped as a whole.
            bad = [c for c in message.tool_calls if self.screen.look("tool_call", call_text(c), prompt=prompt).blocked]
            first = said if said.blocked else called
            answer = without_calls(answer, bad or message.tool_calls, self._words(called), first)
            for call in answer.tool_calls:
                if call["args"] == {STOPPED: self._words(called)}:
                    self.screen.vouch(call_text(call))
        return answer, next((verdict for verdict in (said, called) if verdict.blocked), None)

    def _verdict(self, stage: Stage, texts: Sequence[str], parts: Parts, prompt: str) -> Verdict:
        checked = {
            "input": self.check_input,
            "output": self.check_output,
            "tool_call": self.check_tool_calls,
            "tool_result": self.check_tool_results,
        }[stage]
        unread = [kind for kind in parts.unread if not (self.allow_media and kind in MEDIA)]
        if checked and unread:
            return Verdict(stage, self.screen.judge.name, float("inf"), self.screen.limit, unread[0])
        return self.screen.look(stage, *(texts if checked else ()), prompt=prompt)

    # ---- the model's answer ----

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelAnswer:
        """Judges the answer before it enters the agent's state."""
        request, refused = self._ready(request)
        if refused is not None:
            return refused
        with self._unseen(request):
            response = handler(self._held(request))
        return self._judge_answer(response, asked(request.messages))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelAnswer:
        """See `wrap_model_call`."""
        request, refused = await run_in_executor(None, self._ready, request)
        if refused is not None:
            return refused
        with self._unseen(request):
            response = await handler(self._held(request))
        return await run_in_executor(None, self._judge_answer, response, asked(request.messages))

    def _ready(self, request: ModelRequest[Any]) -> tuple[ModelRequest[Any], ModelAnswer | None]:
        """The request without flagged messages, which other middleware may have added since; or a refusal."""
        if report := request.state.get("inference_guard_stop"):
            raise _blocked(report)  # type: ignore[arg-type]
        messages, flagged = self._swept(request.messages)
        if flagged:
            self._raise_if_asked(flagged[0][1])
            if self.exit_behavior == "end":
                return request, self._refused(flagged[0][1])
            request = request.override(messages=messages)  # type: ignore[arg-type]
        return request, None

    def _holds(self, request: ModelRequest[Any]) -> bool:
        judged = self.check_output or self.check_tool_calls
        return judged and self.hold_stream and not isinstance(request.model, ChatInferenceGuard)

    def _unseen(self, request: ModelRequest[Any]) -> AbstractContextManager[None]:
        return models_unseen() if self._holds(request) else nullcontext()

    def _held(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """The request with a model that gives no callback a token, if it is not a wrapped one."""
        if not (self._holds(request) and isinstance(request.model, BaseChatModel)):
            return request
        return request.override(model=request.model.model_copy(update={"disable_streaming": True}))

    def _judge_answer(self, response: ModelResponse[Any], prompt: str) -> ModelAnswer:
        result: list[BaseMessage] = []
        verdicts: list[Verdict] = []
        for message in response.result:
            parts, clean = parts_of(message), message
            verdict: Verdict | None
            if isinstance(message, AIMessage):
                clean, verdict = self._cleaned_answer(message, parts, prompt)
            else:  # a structured answer's own tool message, which repeats the model's words
                verdict = self._verdict("output", [*parts.words, *parts.calls], parts, prompt)
            result.append(clean)
            verdicts += [verdict] if verdict is not None and verdict.blocked else []
        if (structured := response.structured_response) is not None:
            verdict = self._verdict("output", strings(structured), Parts(), prompt)
            verdicts += [verdict] if verdict.blocked else []
        if not verdicts:
            return response
        self._raise_if_asked(verdicts[0])
        if self.exit_behavior == "replace" and structured is None and all(isinstance(m, AIMessage) for m in result):
            return replace(response, result=result)
        # Words cannot stand in for an object, so a structured answer ends the run as well.
        return self._refused(verdicts[0])

    def _refused(self, verdict: Verdict) -> ModelAnswer:
        refused = ModelResponse[Any](result=[refusal(self._words(verdict), verdict.report())])
        return ExtendedModelResponse(model_response=refused, command=Command(update={"jump_to": "end"}))

    # ---- tools ----

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolAnswer]) -> ToolAnswer:
        """Judges the call before the tool runs, and the result before the model reads it."""
        if stopped := self._judge_call(request):
            return stopped
        try:
            with self._quieted(request):
                answer = handler(self._watched(request))
        except CallStoppedError as stop:
            return stop.result
        except GraphBubbleUp as left:
            raise self._judged_exit(request, left) from None
        return self._judge_result(request, answer)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolAnswer]]
    ) -> ToolAnswer:
        """See `wrap_tool_call`."""
        if stopped := await run_in_executor(None, self._judge_call, request):
            return stopped
        try:
            with self._quieted(request):
                answer = await handler(self._watched(request))
        except CallStoppedError as stop:
            return stop.result
        except GraphBubbleUp as left:
            raise (await run_in_executor(None, self._judged_exit, request, left)) from None
        return await run_in_executor(None, self._judge_result, request, answer)

    def _quieted(self, request: ToolCallRequest) -> AbstractContextManager[None]:
        """Hides models that a tool calls, and models that other middleware calls instead of it."""
        if not self.hold_stream:
            return nullcontext()
        if request.runtime is not None:
            keep_models_quiet(request.runtime.config)
        return models_unseen()

    def _watched(self, request: ToolCallRequest) -> ToolCallRequest:
        """The request with a tool that has the call judged as it starts: middleware behind this one may change it."""
        if not (self.check_tool_calls and request.tool):
            return request

        def judge(name: str, args: Any) -> ToolMessage | None:
            return self._judge_call(request.override(tool_call={**request.tool_call, "name": name, "args": args}))

        return request.override(tool=watched(request.tool, judge))

    def _judge_call(self, request: ToolCallRequest) -> ToolMessage | None:
        call, messages = request.tool_call, messages_of(request.state)
        named = {"call_id": call["id"] or "", "name": call["name"]}
        if STOPPED in call["args"]:
            last = next((m for m in reversed(messages) if isinstance(m, AIMessage)), None)
            words = str(call["args"][STOPPED])
            stopped = stopped_tool(words, {"blocked": True, **(report_of(last) if last else {})}, **named)
            return self._cleaned(stopped, asked(messages))[0]  # type: ignore[return-value]
        verdict = self._verdict("tool_call", [call_text(call)], Parts(), asked(messages))
        if not verdict.blocked:
            return None
        self._raise_if_asked(verdict)
        return stopped_tool(self._words(verdict), verdict.report(), **named)

    def _judged_exit(self, request: ToolCallRequest, left: GraphBubbleUp) -> GraphBubbleUp:
        """What a tool, or a graph in it, tells the graphs around it by an exception: a Command, or a question."""
        if isinstance(left, ParentCommand):
            return ParentCommand(self._judge_result(request, left.args[0]))  # type: ignore[arg-type]
        if isinstance(left, GraphInterrupt):
            prompt = asked(messages_of(request.state))
            return GraphInterrupt([self._judged_question(each, prompt) for each in left.args[0]])
        return left

    def _judged_question(self, question: Interrupt[Any], prompt: str) -> Interrupt[Any]:
        verdict = self._verdict("tool_result", ["\n".join(strings(question.value))], Parts(), prompt)
        if not verdict.blocked:
            return question
        self._raise_if_asked(verdict)
        changed = copy(question)
        changed.value = self._words(verdict)
        return changed

    def _judge_result(self, request: ToolCallRequest, answer: ToolAnswer) -> ToolAnswer:
        prompt = asked(messages_of(request.state))

        def judged(message: BaseMessage) -> BaseMessage:
            clean, verdict = self._cleaned(message, prompt)
            if verdict is not None:
                self._raise_if_asked(verdict)
            return clean

        judged_answer: ToolAnswer = each_message(answer, judged)
        return judged_answer

    # ---- what stands in for a stopped text ----

    def _words(self, verdict: Verdict) -> str:
        try:
            words = self.violation_message.format(
                stage=verdict.stage, judge=verdict.judge, score=verdict.score, limit=verdict.limit
            )
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigurationError(
                f"violation_message has a placeholder that cannot be filled ({error}); "
                "it may use {stage}, {judge}, {score} and {limit}"
            ) from error
        self.screen.vouch(words)
        return words

    def _raise_if_asked(self, verdict: Verdict) -> None:
        if self.exit_behavior == "error":
            raise _blocked(verdict.report())


def _blocked(report: dict[str, Any]) -> GuardBlockedError:
    return GuardBlockedError(f"the guard stopped the agent; {report['reason']}", report=report)
