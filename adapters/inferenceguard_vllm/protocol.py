"""What is asked of the route, and what it says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from inferenceguard_vllm.worker import Reads

PATH = "/v1/inferenceguard/states"
MOST_READS = 4096  # lanes at once
NO_KEY = "hidden states are given only by a server with a key: start vLLM with --api-key"


def asked(body: bytes) -> Reads:
    """What a request reads: ``{"reads": [{"key": K, "lengths": [16, 9]}]}``.

    Raises:
        ValueError: It is no such document.
    """
    try:
        reads = [(each["key"], each["lengths"]) for each in json.loads(body)["reads"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError('the body must be {"reads": [{"key": K, "lengths": [16, 9]}]}') from None
    whole = all(isinstance(lengths, list) and all(type(n) is int and n > 0 for n in lengths) for _, lengths in reads)
    if not whole or not all(isinstance(key, str) for key, _ in reads):
        raise ValueError("a key must be a text, and lengths whole numbers above 0")
    if sum(len(lengths) for _, lengths in reads) > MOST_READS:
        raise ValueError(f"at most {MOST_READS} lanes can be read at once")
    return reads


def reply(reads: Reads, found: Sequence[Sequence[list[dict[str, Any]] | None]]) -> dict[str, Any]:
    """The document for what the workers have; of several that have the same, the first.

    Args:
        reads: What was asked for.
        found: By worker and read.
    """
    lanes = [next((each for each in by_worker if each is not None), None) for by_worker in zip(*found, strict=True)]
    return {"reads": [{"key": key, "lanes": mine} for (key, _), mine in zip(reads, lanes, strict=True)]}
