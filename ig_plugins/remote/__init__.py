"""Policies that a server runs: vLLM, llama.cpp, or anything that takes and gives token ids over HTTP.

The search, the verifier and the judges stay in this process; only blocks are sampled elsewhere, in token ids.
"""

from ig_plugins.remote.address import Address, is_remote
from ig_plugins.remote.attach import attach
from ig_plugins.remote.model import RemoteModel, RemotePolicy
from ig_plugins.remote.options import RemoteOptions
from ig_plugins.remote.server import Server

__all__ = ["Address", "RemoteModel", "RemoteOptions", "RemotePolicy", "Server", "attach", "is_remote"]
