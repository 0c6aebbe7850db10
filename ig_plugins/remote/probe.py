"""What a server can do, found out when it is attached: a text-only one is refused here, with the reason."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from ig_plugins.engine import Sampler
from ig_plugins.errors import (
    ConfigurationError,
    MismatchError,
    ModelLoadError,
    RemoteError,
    RemoteReplyError,
    UnsupportedModelError,
    did_you_mean,
)
from ig_plugins.remote.address import Address
from ig_plugins.remote.calls import Call, Choice, ended
from ig_plugins.remote.connection import Ask, Connection
from ig_plugins.remote.dialects import Dialect
from ig_plugins.remote.options import RemoteOptions
from ig_plugins.remote.server import Server

SAMPLE = "A naïve café, 42 rules:\n\n- <b>don't</b>  guess."  # tokenised otherwise by nearly every other tokenizer
MANY = 1024  # choices of a call where nothing says how many: N is no larger
PULL = 100.0  # on a logit, enough that the token is drawn
PAGE = re.compile(r'vllm:cache_config_info\{[^}]*block_size="([0-9]{1,9})"')


class Probe:
    """Questions to one server.

    Args:
        address: Where it is.
        dialect: What it speaks.
        connection: To it.
        options: How it is asked.
    """

    def __init__(self, address: Address, dialect: Dialect, connection: Connection, options: RemoteOptions) -> None:
        self._address, self._dialect = address, dialect
        self._connection, self._options = connection, options

    def introduce(self) -> Server:
        """What the server says of itself.

        Raises:
            ModelLoadError: It cannot be reached, or does not serve the model.
        """
        try:
            found = self._llamacpp() if self._address.kind == "llamacpp" else self._openai()
        except RemoteReplyError as error:
            raise ModelLoadError(
                f"{self._address} is no server of the kind {self._address.kind!r}, or wants something: {error}"
            ) from error
        except RemoteError as error:
            raise ModelLoadError(f"{self._address}: {error}") from error
        page = found.page if self._options.page is None else self._options.page
        return replace(found, page=page)

    def try_out(self, server: Server, tokenizer: PreTrainedTokenizerBase, stop_ids: frozenset[int]) -> Server:
        """What the server is seen to do with token ids.

        Raises:
            UnsupportedModelError: It does not give the ids of what it says, or not behind the very prompt it was sent.
            MismatchError: Its tokenizer is another.
            ModelLoadError: It failed.
        """
        server = replace(server, tokenizer_checked=self._same_tokenizer(server, tokenizer))
        most = server.most if self._options.most is None else self._options.most
        prompt = tuple(tokenizer.encode(SAMPLE, add_special_tokens=True))
        call = Call(prompt, 1, 2, Sampler(), stop_ids)
        try:
            self._sample(server, call, tokenizer)
        except RemoteReplyError as error:
            raise UnsupportedModelError(
                f"{self._address} does not take and give token ids: {error}. A server that only speaks text cannot "
                "serve a guard: decoding and encoding again changes the tokens of up to a fifth of all prefixes "
                "(docs/remote.md), and what left would not be what was judged. Use vLLM, llama.cpp's server, or "
                "SGLang"
            ) from error
        except RemoteError as error:
            raise ModelLoadError(f"{self._address}: {error}") from error
        if most > 1 and not self._gives(server, replace(call, count=2), tokenizer):
            most = 1
        return replace(server, most=most, echoes_stop=self._echoes_stop(server, call, tokenizer))

    def _gives(self, server: Server, call: Call, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether a call with several choices is answered."""
        try:
            self._sample(server, call, tokenizer)
        except RemoteReplyError:
            return False
        except RemoteError as error:
            raise ModelLoadError(f"{self._address}: {error}") from error
        return True

    def _echoes_stop(self, server: Server, call: Call, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether a reply holds the stop token, seen on one that is made to say nothing else."""
        pulled = replace(call, bias=((min(call.stop_ids), PULL),))
        try:
            (choice,) = self._sample(server, pulled, tokenizer)
        except RemoteError:
            return True  # it takes no bias: a reply that lacks the token is seen when it comes
        return not choice.stopped or bool(call.stop_ids.intersection(choice.tokens))

    def _sample(self, server: Server, call: Call, tokenizer: PreTrainedTokenizerBase) -> list[Choice]:
        body = self._dialect.body(call, model=server.model)
        reply = self._connection.ask(Ask(self._dialect.path, body, call.reply_bytes))
        choices = self._dialect.choices(reply, call, vocab=vocab_size(tokenizer))
        for choice in choices:
            ended(choice, call, echoes=True)  # an empty list of tokens is that of a server of texts
        return choices

    def _same_tokenizer(self, server: Server, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether the server tokenises as we do; False where it cannot be asked."""
        if self._address.kind == "llamacpp":
            body: dict[str, Any] = {"content": SAMPLE, "add_special": False}
        else:
            body = {"model": server.model, "prompt": SAMPLE, "add_special_tokens": False}
        try:
            reply = self._connection.ask(Ask("/tokenize", body), seconds=self._options.probe_seconds)
        except RemoteError:
            return False
        theirs = reply.get("tokens") if isinstance(reply, dict) else None
        if not isinstance(theirs, list):
            return False
        ours = tokenizer.encode(SAMPLE, add_special_tokens=False)
        if not _mean_the_same(theirs, ours, tokenizer):
            raise MismatchError(
                f"the ids into which {self._address} tokenises a sample mean something else to the tokenizer here; "
                "give tokenizer= the folder or hub id that the server's model came from"
            )
        return True

    def _openai(self) -> Server:
        reply = self._connection.ask(Ask("/v1/models"), seconds=self._options.probe_seconds)
        served = reply.get("data") if isinstance(reply, dict) else None
        cards = [card for card in served or () if isinstance(card, dict) and isinstance(card.get("id"), str)]
        names = [card["id"] for card in cards]
        if not names:
            raise RemoteReplyError(f"{self._address.base}/v1/models names no model")
        wanted = self._address.model or (names[0] if len(names) == 1 else "")
        if wanted not in names:
            raise ModelLoadError(
                f"{self._address} does not serve that model; it serves {', '.join(names)}.{did_you_mean(wanted, names)}"
            )
        card = cards[names.index(wanted)]
        if card.get("owned_by") == "llamacpp":
            raise ModelLoadError(
                f"{self._address} is llama.cpp's server, which gives ids by another form of request: say "
                f"llamacpp+{self._address.base}"
            )
        return Server(
            model=wanted,
            root=card["root"] if isinstance(card.get("root"), str) else None,
            context=_positive(card.get("max_model_len")),
            page=self._page() if self._address.kind == "vllm" else 0,
            most=MANY,
        )

    def _page(self) -> int:
        """The page of vLLM's prefix cache, out of its metrics."""
        try:
            metrics = self._connection.ask(Ask("/metrics"), seconds=self._options.probe_seconds)
        except RemoteError:
            return 0
        found = PAGE.search(metrics) if isinstance(metrics, str) else None
        return int(found[1]) if found else 0

    def _llamacpp(self) -> Server:
        said = self._connection.ask(Ask("/props"), seconds=self._options.probe_seconds)
        if not isinstance(said, dict):
            raise RemoteReplyError(f"{self._address.base}/props gave no object")
        path, settings = said.get("model_path"), said.get("default_generation_settings")
        context = settings.get("n_ctx") if isinstance(settings, dict) else None
        return Server(
            model=self._address.model or str(said.get("model_alias") or path or "default"),
            root=path if isinstance(path, str) else None,
            context=_positive(context),
            most=_positive(said.get("total_slots")) or 1,
        )


def vocab_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the highest id that has a text."""
    return 1 + max(map(int, tokenizer.get_vocab().values()))


def stops_of(tokenizer: PreTrainedTokenizerBase, more: Any) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's, and those of a generation_config.

    Raises:
        ConfigurationError: There is none.
    """
    ids = {tokenizer.eos_token_id, *(more if isinstance(more, list) else [more])} - {None}
    if not ids:
        raise ConfigurationError(
            "the tokenizer names no token that ends an answer; set its eos_token and save it again"
        )
    return frozenset(int(each) for each in ids)


def _mean_the_same(theirs: list[Any], ours: list[int], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether ids that a server gave decode to the text; where the cuts fall is its own affair."""
    if not all(type(each) is int and 0 <= each < vocab_size(tokenizer) for each in theirs):
        return False
    return bool(tokenizer.decode(theirs).strip() == tokenizer.decode(ours).strip())


def _positive(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None
