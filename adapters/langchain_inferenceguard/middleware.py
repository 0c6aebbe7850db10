"""`InferenceGuardMiddleware`: the project's judges around an agent that runs on somebody else's model."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from critic_models.judges import Judge
from ig_plugins.errors import ConfigurationError, GuardBlockedError
from ig_plugins.guard.load import load_cost_model
from ig_plugins.runtime.judging import JUDGE_SECONDS
from langchain_inferenceguard._screen import (
    Screen,
    Verdict,
    asked,
    call_text,
    is_stopped,
    messages_of,
    refusal,
    report_of,
    reworded,
    stopped_tool,
    unanswered,
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
except ImportError as error:
    raise ImportError(
        'InferenceGuardMiddleware needs langchain; install it with: pip install "inferenceguard[agents]"'
    ) from error

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables.config import run_in_executor
from langgraph.constants import TAG_NOSTREAM
from langgraph.runtime import Runtime
from langgraph.types import Command

ExitBehavior = Literal["end", "error", "replace"]
State = AgentState[Any]
ModelAnswer = ModelResponse[Any] | ExtendedModelResponse[Any]
ToolAnswer = ToolMessage | Command[Any]

VIOLATION_MESSAGE = "This was stopped by a safety check."


class InferenceGuardMiddleware(AgentMiddleware[State, Any, Any]):
    """Judges what goes into and comes out of an agent whose model this project does not decode for.

    With `ChatInferenceGuard` as the agent's model you do not need this for the answers: they are guarded while they
    are decoded, token streams included. For a hosted model, this is the second best thing: every text is scored by a
    cost model after it exists and before it is passed on.

    List it first, so that what other middleware adds passes through it as well.

    What it checks:

    - `check_input`: the user's messages, before the model reads them.
    - `check_output`: the model's text (and structured answer), before it enters the agent's state. It replaces the
      message inside the model node, so a checkpoint or `stream_mode="updates"` never holds the flagged one.
    - `check_tool_calls`: name and arguments, right before the tool would run.
    - `check_tool_results`: what a tool returned, before the model reads it.

    What it cannot do:

    - **Hold back tokens that the model streams to somebody else.** With `hold_stream=True` (the default) it runs other
      models without streaming and hides them from LangGraph's `messages` mode, so their answer arrives there in one
      piece, checked. But a callback or tracer attached to the model itself still gets the finished, unchecked answer
      (`on_llm_end`; `on_chat_model_end` in `astream_events`), and with `hold_stream=False` every token of it.
    - Look into anything that is not text: images, audio and files pass unjudged.
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
        self._words(Verdict("input", judge.name, 0.0, self.screen.limit))  # a wrong placeholder shows now, not later

    # ---- user input ----

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Judges new user messages; also ends the run when a tool call or result was stopped."""
        fresh = unanswered(state["messages"])
        if self.exit_behavior == "end" and (stopped := next(filter(is_stopped, fresh), None)):
            return {"messages": [refusal(stopped.text, report_of(stopped))], "jump_to": "end"}
        if not self.check_input:
            return None
        texts = [m for m in fresh if isinstance(m, HumanMessage) and m.text]
        verdicts = [(message, self.screen.look("input", message.text)) for message in texts]
        flagged = [(message, verdict) for message, verdict in verdicts if verdict.blocked]
        if not flagged:
            return None
        self._raise_if_asked(flagged[0][1])
        if self.exit_behavior == "end":
            verdict = flagged[0][1]
            return {"messages": [refusal(self._words(verdict), verdict.report())], "jump_to": "end"}
        return {"messages": [m.model_copy(update={"content": self._words(verdict)}) for m, verdict in flagged]}

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: State, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """See `before_model`; judges work in a thread, so that the event loop goes on."""
        return await run_in_executor(None, self.before_model, state, runtime)

    # ---- the model's answer ----

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelAnswer:
        """Judges the answer before it enters the agent's state."""
        return self._judge_answer(handler(self._held(request)), asked(request.messages))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelAnswer:
        """See `wrap_model_call`."""
        response = await handler(self._held(request))
        return await run_in_executor(None, self._judge_answer, response, asked(request.messages))

    def _held(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        model = request.model
        if not (self.check_output and self.hold_stream) or isinstance(model, ChatInferenceGuard):
            return request
        quiet = {"tags": [*(model.tags or []), TAG_NOSTREAM], "disable_streaming": True}
        return request.override(model=model.model_copy(update=quiet))

    def _judge_answer(self, response: ModelResponse[Any], prompt: str) -> ModelAnswer:
        if not self.check_output or not (text := _answer_text(response)):
            return response
        verdict = self.screen.look("output", text, prompt=prompt)
        if not verdict.blocked:
            return response
        self._raise_if_asked(verdict)
        if self.exit_behavior == "replace" and response.structured_response is None:
            return replace(response, result=[reworded(m, self._words(verdict), verdict) for m in response.result])
        # Words cannot stand in for an object, so a structured answer ends the run as well.
        refused = ModelResponse[Any](result=[refusal(self._words(verdict), verdict.report())])
        return ExtendedModelResponse(model_response=refused, command=Command(update={"jump_to": "end"}))

    # ---- tools ----

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolAnswer]) -> ToolAnswer:
        """Judges the call before the tool runs, and the result before the model reads it."""
        return self._judge_call(request) or self._judge_result(request, handler(request))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolAnswer]]
    ) -> ToolAnswer:
        """See `wrap_tool_call`."""
        if stopped := await run_in_executor(None, self._judge_call, request):
            return stopped
        return await run_in_executor(None, self._judge_result, request, await handler(request))

    def _judge_call(self, request: ToolCallRequest) -> ToolMessage | None:
        if not self.check_tool_calls:
            return None
        verdict = self.screen.look("tool_call", call_text(request.tool_call), prompt=asked(messages_of(request.state)))
        if not verdict.blocked:
            return None
        self._raise_if_asked(verdict)
        call = request.tool_call
        return stopped_tool(self._words(verdict), verdict, call_id=call["id"] or "", name=call["name"])

    def _judge_result(self, request: ToolCallRequest, answer: ToolAnswer) -> ToolAnswer:
        if not self.check_tool_results:
            return answer
        prompt = asked(messages_of(request.state))

        def judged(message: AnyMessage) -> AnyMessage:
            if not isinstance(message, ToolMessage) or not message.text:
                return message
            verdict = self.screen.look("tool_result", message.text, prompt=prompt)
            if not verdict.blocked:
                return message
            self._raise_if_asked(verdict)
            return stopped_tool(self._words(verdict), verdict, call_id=message.tool_call_id, name=message.name)

        judged_answer: ToolAnswer = _each_message(answer, judged)
        return judged_answer

    # ---- what stands in for a stopped text ----

    def _words(self, verdict: Verdict) -> str:
        try:
            return self.violation_message.format(
                stage=verdict.stage, judge=verdict.judge, score=verdict.score, limit=verdict.limit
            )
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigurationError(
                f"violation_message has a placeholder that cannot be filled ({error}); "
                "it may use {stage}, {judge}, {score} and {limit}"
            ) from error

    def _raise_if_asked(self, verdict: Verdict) -> None:
        if self.exit_behavior == "error":
            raise GuardBlockedError(
                f"the guard stopped the agent; {verdict.report()['reason']}", report=verdict.report()
            )


def _answer_text(response: ModelResponse[Any]) -> str:
    """What the model said; a structured answer is said in its calls' arguments."""
    answers = [m for m in response.result if isinstance(m, AIMessage)]
    parts = [str(m.text) for m in answers]
    if response.structured_response is not None:
        parts += [call_text(call) for m in answers for call in m.tool_calls]
    return "\n".join(part for part in parts if part)


def _each_message(answer: Any, change: Callable[[Any], Any]) -> Any:
    """A tool's answer with every message in it changed; tools may answer with a Command that carries messages."""
    if not isinstance(answer, Command):
        return change(answer)
    if not isinstance(answer.update, Mapping) or "messages" not in answer.update:
        return answer
    changed = [change(message) for message in answer.update["messages"]]
    return replace(answer, update={**answer.update, "messages": changed})
