"""Whether a policy behind a server says what the engine here says of the same weights."""

from collections import Counter

import pytest
import torch

from ig_plugins.remote.session import RemoteSession


def assert_same_greedy(guard, local, prompts):
    """Token by token, with the end and the cost."""
    for prompt in prompts:
        one = {"temperature": 0, "candidates": 1, "beams": 1, "max_tokens": 64}
        theirs, ours = guard.generate(prompt, **one), local.generate(prompt, **one)
        assert theirs.token_ids == ours.token_ids
        assert theirs.finish_reason == ours.finish_reason
        assert theirs.cost == pytest.approx(ours.cost, abs=1e-6)


def assert_streamed(chunks):
    """What a stream gave is its result's text; where it was blocked half-way, that is the refusal at its end."""
    said, result = "".join(chunk.text for chunk in chunks), chunks[-1].result
    assert said.endswith(result.text) if result.blocked else said == result.text


def assert_same_distribution(guard, local, sampler, question):
    """Two tokens of many lanes; draws of the engine here against one another say how far apart they may be."""
    policy, lanes = guard.components.policy, 600
    prompt, generator = guard.request(question).prompt_ids, torch.Generator().manual_seed(0)

    def drawn(session):
        block = session.sample(
            torch.zeros(1, lanes, dtype=torch.long),
            samplers=[sampler],
            uniforms=torch.rand(1, lanes, 2, dtype=torch.float64, generator=generator),
            max_tokens=[2],
            stop_ids=policy.stop_ids,
            histories=[[prompt] * lanes],
        )
        return Counter(tuple(each) for each in block.tokens[0].tolist())

    def apart(one, other):
        return sum(abs(one[key] - other[key]) for key in {*one, *other}) / (2 * lanes)

    tree = local.components.policy.tree
    ours = [drawn(tree.prefill([prompt], lanes=lanes, block=2, max_new=2)) for _ in range(2)]
    assert apart(drawn(RemoteSession(policy.tree, [prompt])), ours[0]) < apart(*ours) + 0.06
