"""The promise on drawn guards; `python -m tests.ig_plugins.search.fuzz` draws more of them."""

import pytest
import torch

from tests.ig_plugins.search.fuzz import run

torch.set_num_threads(1)


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_nothing_leaves_that_was_not_judged(first):
    assert run(first, 50)["answered"] > 20


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("first", range(1_000_000, 1_006_000, 500))
def test_nothing_leaves_that_was_not_judged_at_length(first):
    assert run(first, 500)["answered"] > 200
