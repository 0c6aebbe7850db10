"""How much memory a request may take, estimated before it is let in, and how much there is."""

from __future__ import annotations

from pathlib import Path

import torch

from ig_plugins.guard.components import Components
from ig_plugins.search import PolicyModel, Request

SHARE = 0.5  # of the free memory, for requests; the rest is slack for the allocator and for what is not estimated
FLOAT, COPIES = 8, 4  # bytes of a number in the draws; arrays of them alive at once while a block is drawn
TRACE = 16 * 2**20  # bytes that a trace may take beside the search; see `search.trace.recorder`
CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))


def estimate(request: Request, components: Components) -> int:
    """Bytes that a request may take at its widest block: an upper bound of what grows with its settings.

    Counted are keys and values (twice, as they are copied when lanes become beams), states and logits of lanes, the
    draws, which lane sees which token, and the trace of a search that is watched. The models' own scratch memory and
    judges of texts are not.
    """
    search = request.search
    lanes, beams = search.widest + search.beams, search.beams
    block, longest = min(search.block_tokens, search.max_new_tokens), search.max_new_tokens
    prompt, fresh = len(request.prompt_ids), lanes * block
    kept = prompt + beams * longest
    policy = components.policy.tree
    trees = [policy, *(tree for judge in components.judges if (tree := components.judge_tree(judge)) is not None)]
    cached = sum(2 * (kept + fresh) * token_bytes(tree) for tree in trees)
    states = 3 * FLOAT // 2 * (fresh + prompt) * policy.hidden_size
    logits = COPIES * FLOAT * (lanes + block) * policy.vocab_size
    draws = COPIES * FLOAT * fresh
    seen = 2 * lanes * (fresh + kept)  # one byte for each pair of a lane and a token
    trace = 0 if request.watcher is None else TRACE
    return cached + states + logits + draws + seen + trace


def token_bytes(tree: PolicyModel) -> int:
    """Bytes of one token's keys and values in a model; none where its body is not in this process."""
    body = getattr(tree, "body", None)
    if body is None:
        return 0
    config = body.config
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * shared * width * body.model.dtype.itemsize)


def budget(device: torch.device) -> int:
    """Bytes that all requests together may take where nobody says: a share of what is free now."""
    if device.type == "cuda":
        return int(SHARE * torch.cuda.mem_get_info(device)[0])
    return int(SHARE * min(_free_in_machine(), _free_in_group(), _free_in_process()))


def _free_in_machine() -> float:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    return float("inf")


def _free_in_group() -> float:
    """What a container leaves."""
    most, used = ("".join(_lines(path)).strip() for path in CGROUP)
    return float(most) - float(used) if most.isdigit() and used.isdigit() else float("inf")


def _free_in_process() -> float:
    """What ``ulimit -v`` leaves; everything on Windows, which knows no such limit."""
    try:
        import resource
    except ImportError:
        return float("inf")
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = [1024.0 * int(line.split()[1]) for line in _lines(Path("/proc/self/status")) if line.startswith("VmSize:")]
    return float("inf") if most == resource.RLIM_INFINITY else max(most - sum(used), 0.0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
