"""The plain sample beside a guarded answer ends where a search of one lane would, in blocks of any size."""

import pytest

from ig_plugins.errors import DeadlineExceededError, RequestCancelledError
from ig_plugins.runtime.one_lane import sample_answer
from tests.kit.guards import make_guard
from tests.kit.tiny import tiny_guard


def alone(**options):
    """A guard whose only lane is never refused. It has a reward model: fair draws would use numbers up."""
    return tiny_guard(candidates=1, beams=1, tries=1, costs={"no": lambda p, r: [0.0] * len(r)}, **options)


@pytest.mark.parametrize("block", [1, 3, 20])
def test_it_is_the_answer_of_a_search_of_one_lane(block):
    guard = alone(block_tokens=block)
    for seed in range(4):
        result = guard.generate("Go.", seed=seed)
        ids, text = sample_answer(guard.components.policy, guard.request("Go.", seed=seed))
        assert (tuple(ids), text) == (tuple(result.token_ids), result.text)


@pytest.mark.parametrize("option", ["stop", "stop_token_ids"])
@pytest.mark.parametrize("block", [None, 20])
def test_stop_strings_and_stop_tokens_end_it_before_them(option, block):
    guard, cut = alone(block_tokens=20), 0
    for seed in range(4):
        whole, _ = sample_answer(guard.components.policy, guard.request("Go.", seed=seed))
        word = guard.tokenizer.decode(whole[5:6])
        if "\ufffd" in word:
            continue
        chosen = {"stop": [word], "stop_token_ids": [whole[5]]}[option]
        ids, text = sample_answer(
            guard.components.policy, guard.request("Go.", seed=seed, **{option: chosen}), block=block
        )
        result = guard.generate("Go.", seed=seed, **{option: chosen})
        assert (tuple(ids), text) == (tuple(result.token_ids), result.text)
        assert len(ids) < len(whole)
        cut += 1
    assert cut


def test_it_ends_with_its_request():
    guard = make_guard({"One, two, three.": 1.0}, block_tokens=4)
    with pytest.raises(DeadlineExceededError):
        sample_answer(guard.components.policy, guard.request("Count.", timeout=1e-9))
    request = guard.request("Count.")
    request.cancelled.set()
    with pytest.raises(RequestCancelledError):
        sample_answer(guard.components.policy, request)
