"""What servers of each kind are sent, and how their replies are read.

Written from vLLM's ``entrypoints/openai/completion/protocol.py`` (0.32) and llama.cpp's ``tools/server/README.md``.
Every sampling setting is sent: servers fill in what is left out from defaults of their own, or of the checkpoint.
"""

from __future__ import annotations

from typing import Any, Protocol

from ig_plugins.errors import ConfigurationError, RemoteReplyError
from ig_plugins.grammar import as_lark
from ig_plugins.remote.address import Kind
from ig_plugins.remote.calls import Call, Choice, ids_of, in_order, same_prompt
from ig_plugins.search import SearchConfig

SEED_BITS = 31  # what all servers take


class Dialect(Protocol):
    """One kind of server.

    Attributes:
        path: Where it samples.
        seeds: Whether a seed does no harm.
        grammars: Whether it holds its answers to grammars of llguidance.
        beams: Of a search by default at most, because each beam more reads the whole prompt anew; None for any number.
        echoes_prompt: A reply holds the prompt's ids, so that it cannot be taken for one to another prompt.
    """

    path: str
    seeds: bool
    grammars: bool
    beams: int | None
    echoes_prompt: bool

    def check(self, search: SearchConfig) -> None:
        """Refuses sampling settings that mean another distribution there than here.

        Raises:
            ConfigurationError: Names them.
        """

    def body(self, call: Call, *, model: str) -> dict[str, Any]:
        """The request."""

    def choices(self, reply: Any, call: Call, *, vocab: int) -> list[Choice]:
        """What it gave.

        Raises:
            RemoteReplyError: It is not what was asked for.
        """


class OpenAIDialect:
    """``/v1/completions`` that takes a prompt of ids and returns ids: vLLM's form of it, which others took over.

    Args:
        seeds: Whether a seed does no harm.
        grammars: Whether it takes vLLM's ``structured_outputs``.
        sessions: Whether it takes vLLM's ``session_id``.
    """

    path = "/v1/completions"
    beams: int | None = None
    echoes_prompt = True

    def __init__(self, *, seeds: bool, grammars: bool, sessions: bool) -> None:
        self.seeds, self.grammars, self._sessions = seeds, grammars, sessions

    def check(self, search: SearchConfig) -> None:
        """See `Dialect`. vLLM takes the nucleus of what min-p has left, and we of the whole distribution."""
        if search.min_p > 0 and search.top_p < 1:
            raise ConfigurationError(
                f"min_p is {search.min_p} and top_p {search.top_p}: the server's order of the two is not ours, so that "
                "together they would mean another distribution; set min_p=0 or top_p=1"
            )

    def body(self, call: Call, *, model: str) -> dict[str, Any]:
        """See `Dialect`."""
        sampler = call.sampler
        body: dict[str, Any] = {
            "model": model,
            "prompt": [list(call.prefix)],
            "n": call.count,
            "max_tokens": call.most,
            "temperature": sampler.temperature,
            "top_p": sampler.top_p,
            "top_k": sampler.top_k,
            "min_p": sampler.min_p,
            "repetition_penalty": sampler.repetition_penalty,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": sorted(call.stop_ids),
            "return_token_ids": True,
            "stream": False,
        }
        if call.key is not None:
            first = len(call.prefix) if call.max_tokens else len(call.prefix) - 1
            named = {"key": call.key, "first": first, "count": max(1, call.max_tokens)}
            body["vllm_xargs"] = {f"inferenceguard_{name}": value for name, value in named.items()}
        if call.seed is not None:
            body["seed"] = call.seed
        if call.bias:
            body["logit_bias"] = {str(token): value for token, value in call.bias}
        if call.session is not None and self._sessions:
            body["session_id"] = call.session
        if call.grammar is not None:
            body["structured_outputs"] = {"grammar": as_lark(call.grammar.rule)}
        return body

    def choices(self, reply: Any, call: Call, *, vocab: int) -> list[Choice]:
        """See `Dialect`."""
        found = []
        for each in in_order(reply.get("choices") if isinstance(reply, dict) else None, call):
            tokens = ids_of(each.get("token_ids"), vocab=vocab, what="a choice's token_ids")
            same_prompt(ids_of(each.get("prompt_token_ids"), vocab=vocab, what="prompt_token_ids"), call)
            reason = each.get("finish_reason")
            if reason not in ("stop", "length"):
                raise RemoteReplyError(f"a choice ended with finish_reason {_shown(reason)}; nothing of it is used")
            found.append(Choice(tokens, stopped=reason == "stop"))
        return found


class LlamaCppDialect:
    """llama.cpp's own ``/completion``."""

    path = "/completion"
    seeds, grammars = True, False
    echoes_prompt = False
    beams: int | None = 2  # it keeps the cache of one choice of a call, and copies none to other calls

    def check(self, search: SearchConfig) -> None:
        """See `Dialect`. The order of its samplers can be set, so all mean what they mean here."""

    def body(self, call: Call, *, model: str) -> dict[str, Any]:
        """See `Dialect`. Only the samplers that are named run, in this order, and its defaults name many more."""
        sampler = call.sampler
        used = {
            "penalties": sampler.repetition_penalty != 1,
            "temperature": True,
            "top_k": sampler.top_k > 0,
            "top_p": sampler.top_p < 1,
            "min_p": sampler.min_p > 0,
        }
        body: dict[str, Any] = {
            "prompt": list(call.prefix),
            "n_predict": call.most,
            "samplers": [name for name, wanted in used.items() if wanted],
            "temperature": sampler.temperature,
            "top_k": sampler.top_k,
            "top_p": sampler.top_p,
            "min_p": sampler.min_p,
            "min_keep": 0,
            "repeat_penalty": sampler.repetition_penalty,
            "repeat_last_n": len(call.prefix) + call.most if used["penalties"] else 0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "dynatemp_range": 0.0,
            "mirostat": 0,
            "cache_prompt": True,
            "return_tokens": True,
            "response_fields": ["index", "tokens", "stop_type", "truncated", "tokens_evaluated"],
            "stream": False,
        }
        if call.count > 1:
            body["n_cmpl"] = call.count
        if call.seed is not None:
            body["seed"] = call.seed
        if call.bias:
            body["logit_bias"] = [list(each) for each in call.bias]
        return body

    def choices(self, reply: Any, call: Call, *, vocab: int) -> list[Choice]:
        """See `Dialect`. It does not give the prompt's ids back; their number must be right, and none left out."""
        found = []
        for each in in_order([reply] if isinstance(reply, dict) else reply, call):
            if each.get("tokens_evaluated") != len(call.prefix) or each.get("truncated") is not False:
                raise RemoteReplyError(
                    f"the server read {_shown(each.get('tokens_evaluated'))} tokens of a prompt of {len(call.prefix)}; "
                    "nothing of its reply is used"
                )
            tokens = ids_of(each.get("tokens"), vocab=vocab, what="tokens")
            reason = each.get("stop_type")
            if reason not in ("eos", "limit"):
                raise RemoteReplyError(f"a choice ended with stop_type {_shown(reason)}; nothing of it is used")
            found.append(Choice(tokens, stopped=reason == "eos"))
        return found


DIALECTS: dict[Kind, Dialect] = {
    "vllm": OpenAIDialect(
        seeds=False, grammars=True, sessions=True
    ),  # a seed ends the whole engine of vLLM's CPU build (0.32)
    "llamacpp": LlamaCppDialect(),
    "openai": OpenAIDialect(seeds=True, grammars=False, sessions=False),
}


def _shown(value: Any) -> str:
    """A value of a reply, for a message: never a text that might be an answer's, nor a number that could spell one."""
    short = value is None or (isinstance(value, int) and abs(value) < 2**31)
    return repr(value) if short else f"of type {type(value).__name__}"
