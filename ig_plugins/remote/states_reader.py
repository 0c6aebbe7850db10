"""Which reader gets a server's states, or why there is none."""

from __future__ import annotations

from ig_plugins.errors import UnsupportedModelError
from ig_plugins.remote.address import Address
from ig_plugins.remote.connection import Connection
from ig_plugins.remote.dialects import Dialect
from ig_plugins.remote.server import Server
from ig_plugins.remote.states import Ids, StatesReader
from ig_plugins.remote.states_llamacpp import LlamaCppStates


def states_reader(
    address: Address, connection: Connection, dialect: Dialect, server: Server, sample: Ids
) -> StatesReader:
    """The reader for a server, after it has given the states of a sample.

    Raises:
        UnsupportedModelError: It gives none; the reason.
    """
    if address.kind == "llamacpp":
        return LlamaCppStates.attach(address, connection, sample, context=server.context)
    raise UnsupportedModelError(
        f"{address}: a critic reads hidden states, and a server of the kind {address.kind!r} is not asked for them; go "
        "without: critic=False"
    )
