"""From an address to a policy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from ig_plugins.errors import ConfigurationError, InferenceGuardError
from ig_plugins.remote.address import Address
from ig_plugins.remote.connection import Connection
from ig_plugins.remote.dialects import DIALECTS
from ig_plugins.remote.model import RemoteModel, RemotePolicy
from ig_plugins.remote.options import RemoteOptions
from ig_plugins.remote.probe import Probe, stops_of, vocab_size

logger = logging.getLogger(__name__)

Words = tuple[PreTrainedTokenizerBase, Any]
"""A tokenizer, and the generation_config beside it or None."""


def attach(
    name: str, *, tokenizer: Any = None, read: Callable[[str], Words], options: Mapping[str, Any]
) -> RemotePolicy:
    """Connects to a server and finds out what it can do.

    Args:
        name: Its address.
        tokenizer: Its tokenizer's folder or hub id, or one that is loaded; what the server names by default.
        read: Reads a tokenizer by name.
        options: See `RemoteOptions`.

    Raises:
        ModelLoadError: It cannot be reached, or only speaks text, or has another tokenizer.
        ConfigurationError: Something else must be said.
    """
    address, settings = Address.parse(name), RemoteOptions.of(options)
    dialect = DIALECTS[address.kind]
    connection = Connection(address.base, settings, keep=dialect.echoes_prompt)
    probe = Probe(address, dialect, connection, settings)
    server = probe.introduce()
    words, generation = _words(address, tokenizer, server.root, read)
    stop_ids = stops_of(words, getattr(generation, "eos_token_id", None))
    server = probe.try_out(server, words, stop_ids)
    model = RemoteModel(address, settings, connection, dialect, server, vocab_size=vocab_size(words))
    logger.info("attached %s: %s, seeds %s", address, server, model.seeds)
    named = {server.model, server.root, tokenizer if isinstance(tokenizer, str) else None} - {None}
    return RemotePolicy(
        tree=model, tokenizer=words, stop_ids=stop_ids, stated=generation, names=frozenset(map(str, named))
    )


def _words(address: Address, tokenizer: Any, root: str | None, read: Callable[[str], Words]) -> Words:
    """The tokenizer that was given, or the one where the server says that its model came from."""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return tokenizer, None
    if tokenizer is not None:
        return read(str(tokenizer))
    missing = f"{address}: tokenizer= is needed, the folder or hub id of the model's own; the server names "
    if root is None:
        raise ConfigurationError(f"{missing}none")
    try:
        return read(root)
    except InferenceGuardError as error:
        raise ConfigurationError(f"{missing}{root!r}, which cannot be read here") from error
