"""The ways to decode that are compared."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from ig_plugins.engine import NgramDrafts, Sampler, TreeModel, TreeSession, sample_block
from ig_plugins.engine.forward.body import Body
from ig_plugins.engine.forward.caches import CACHE_NAMES
from ig_plugins.research.bench.case import Case
from ig_plugins.research.bench.clock import Stopwatch


@dataclass
class Record:
    """What one search on the tree took, in processor seconds and bytes.

    Attributes:
        blocks: Seconds of each block.
        split: Seconds in the prefill, the model's forwards, sampling, judging, and the bookkeeping of the tree.
        memory: Bytes of keys and values at the end of the last block, before the losers go: the most there is.
    """

    blocks: list[float] = field(default_factory=list)
    split: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)


def search_tree(
    model: TreeModel, case: Case, *, record: Record | None = None, clock: Callable[[], float] = time.process_time
) -> None:
    """A block search whose judge is a coin: what InferenceGuard's search asks of the engine, without the judging.

    As in the search, every beam also has a lane of its own that does not grow, so that a block can be tried again.
    ``clock`` is what blocks are timed with; the split is always processor time.
    """
    record = record or Record()
    model.drafts = NgramDrafts()  # a run must not guess itself from the run before it
    random = torch.Generator().manual_seed(0)
    start = time.process_time()
    session = model.prefill(
        case.prompt_ids().tolist(), lanes=case.candidates + case.beams, block=case.block, max_new=case.new
    )
    prefill = time.process_time() - start
    forward, tree, judging = Stopwatch(), Stopwatch(), 0.0
    with forward.on(model.body, "run"), tree.on(session, "fork", "extend", "draft", "verify_draft", "select"):
        for grown in range(0, case.new, case.block):
            before = clock()
            _block(session, case, min(case.block, case.new - grown), random)
            record.memory = session.memory()
            judged = time.process_time()
            winners = _survivors(case, random)
            judging += time.process_time() - judged
            session.select(winners)
            record.blocks.append(clock() - before)
    total = time.process_time() - start
    record.split = {
        "prefill": prefill,
        "forward": forward.seconds,
        "bookkeeping": tree.seconds - forward.seconds,
        "sampling": total - prefill - tree.seconds - judging,
        "judging": judging,
    }


def _block(session: TreeSession, case: Case, tokens: int, random: torch.Generator) -> None:
    beams = session.hidden.shape[1]
    lanes = torch.cat([torch.arange(case.candidates) % beams, torch.arange(beams)]).expand(case.prompts, -1)
    room = torch.zeros_like(lanes)
    room[:, : case.candidates] = tokens
    sample_block(
        session,
        lanes,
        samplers=[Sampler(top_k=case.top_k)] * case.prompts,
        uniforms=torch.rand(*lanes.shape, tokens, dtype=torch.float64, generator=random),
        max_tokens=room,
        stop_ids=(),
    )


def _survivors(case: Case, random: torch.Generator) -> torch.Tensor:
    """Random lanes that become the beams, shape (B, K)."""
    return torch.stack([torch.randperm(case.candidates, generator=random)[: case.beams] for _ in range(case.prompts)])


def generate(model: PreTrainedModel, case: Case, *, sequences: int) -> int:
    """Transformers' own sampling of so many answers to each prompt; the bytes of its cache at the end."""
    ids = case.prompt_ids().to(model.device)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        top_k=case.top_k,
        num_return_sequences=sequences,
        max_new_tokens=case.new,
        min_new_tokens=case.new,
        pad_token_id=0,
        return_dict_in_generate=True,
    )
    cache = next(output[name] for name in CACHE_NAMES if output.get(name) is not None)
    return sum(held.nbytes for layer in cache.layers for held in (layer.keys, layer.values))


@torch.inference_mode()
def run_floor(body: Body, case: Case) -> None:
    """The tree's batches of forwards without attention over a cache, sampling or selection."""
    ids = case.prompt_ids()
    body.run(ids, keep=(torch.arange(case.prompts), torch.full((case.prompts,), case.prompt - 1)), use_cache=False)
    lanes = torch.arange(case.prompts * case.candidates)
    step = torch.zeros(1, len(lanes), dtype=torch.long)
    for _ in range(case.new):
        body.run(step, keep=(torch.zeros_like(lanes), lanes), use_cache=False)


def contenders(model: PreTrainedModel, tree: TreeModel, case: Case) -> dict[str, Callable[[], object]]:
    """All of them, by name; ``tree`` is the model attached."""
    return {
        "tree": lambda: search_tree(tree, case),
        "generate_1": lambda: generate(model, case, sequences=1),
        "generate_n": lambda: generate(model, case, sequences=case.candidates),
        "floor": lambda: run_floor(tree.body, case),
    }
