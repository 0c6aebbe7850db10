"""Which reader gets a server's states, or why there is none."""

from __future__ import annotations

from ig_plugins.remote.address import Address
from ig_plugins.remote.connection import Connection
from ig_plugins.remote.server import Server
from ig_plugins.remote.states import Ids, StatesReader
from ig_plugins.remote.states_llamacpp import LlamaCppStates
from ig_plugins.remote.states_vllm import Sampling, VllmStates


def states_reader(
    address: Address, connection: Connection, server: Server, sample: Sampling, prompt: Ids, stop_ids: frozenset[int]
) -> StatesReader:
    """The reader for a server, after it has given the states of some tokens.

    Args:
        address: Its.
        connection: To it.
        server: What it can do.
        sample: Samples calls there.
        prompt: Some tokens.
        stop_ids: Tokens that end an answer.

    Raises:
        UnsupportedModelError: It gives none; the reason.
    """
    if address.kind == "llamacpp":
        return LlamaCppStates.attach(address, connection, prompt, context=server.context)
    return VllmStates.attach(address, connection, sample, prompt, stop_ids)
