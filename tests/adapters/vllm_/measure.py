"""The figures of docs/remote.md about hidden states, against a server that runs; its key in INFERENCEGUARD_REMOTE_KEY.

``python -m tests.adapters.vllm_.measure equal ADDRESS MODEL`` compares a server's states with transformers' on MODEL, a
folder or hub id; ``... critic ADDRESS 24`` compares tiny-alpaca with its bundled critic there and here. Start vLLM so:
``VLLM_PLUGINS=inferenceguard vllm serve MODEL --dtype float32 --api-key KEY``.
"""

import sys

import torch

from ig_plugins import InferenceGuard
from ig_plugins.engine import Sampler
from ig_plugins.guard.policies import load_policy, load_remote_policy
from ig_plugins.remote.session import RemoteSession
from tests.ig_plugins.remote.measure import BUDGET, alike, compare

QUESTIONS = ("What is the capital of France?", "How do I bake bread?", "Is water wet?", "Name three colours.", "Hello!")
LONG = "Please answer in plain words, with reasons, and think of people who have little time. " * 12
LANES, BLOCK = 8, 16


def equal(address: str, model: str) -> None:
    """States of sampled blocks, two a prompt, against a full forward of transformers."""
    body = load_policy(model, dtype="float32").engine.body.model.base_model
    policy = load_remote_policy(address, tokenizer=model, load_options={}).with_states()
    gaps, cosines, ended = [], [], 0
    for question in (*QUESTIONS, LONG):
        ids = list(policy.tokenizer.encode(question))
        for _ in range(2):
            block = RemoteSession(policy.tree, [ids]).sample(
                torch.zeros(1, LANES, dtype=torch.long), samplers=[Sampler(temperature=0.8)], max_tokens=[BLOCK],
                uniforms=torch.rand(1, LANES, BLOCK, dtype=torch.float64), stop_ids=policy.stop_ids,
            )  # fmt: skip
            for lane, length in enumerate(block.lengths[0].tolist()):
                sequence = [*ids, *block.tokens[0, lane, :length].tolist()]
                with torch.inference_mode():
                    states = body(torch.tensor([sequence]), use_cache=False).last_hidden_state[0, len(ids) :].float()
                pairs = ((states[-1], block.hidden[0, lane]), (states.mean(dim=0), block.total[0, lane] / length))
                gaps.append([float((ours - theirs).abs().max()) for ours, theirs in pairs])
                cosines.append(min(float(torch.cosine_similarity(*pair, dim=0)) for pair in pairs))
                ended += bool(block.finished[0, lane]) and length < BLOCK
            ids += block.tokens[0, 0, : int(block.lengths[0, 0])].tolist()
    last, mean = (max(column) for column in zip(*gaps, strict=True))
    print(
        f"{len(gaps)} lanes, {ended} ended within a block; last state within {last:.2g}, mean within {mean:.2g}, ",
        end="",
    )
    print(f"cosine at least {min(cosines):.6f}")


def critic(address: str, count: str) -> None:
    """The bundled critic on both sides, the same prompts."""
    options = {"budget": BUDGET, "candidates": 16, "beams": 4, "block_tokens": 16, "max_tokens": 64}
    remote = InferenceGuard.from_pretrained(
        address, tokenizer="tiny-alpaca", prompt_format="beaver", cost_model="tiny-alpaca", reward_model="tiny-alpaca",
        critic="bundled:tiny-alpaca-critic", **options,
    )  # fmt: skip
    compare(remote, alike(remote, {"budget": BUDGET}), int(count))


if __name__ == "__main__":
    {"equal": equal, "critic": critic}[sys.argv[1]](*sys.argv[2:])
