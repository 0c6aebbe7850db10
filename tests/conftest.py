"""Every test draws the same in every run and on every machine: what failed once fails again, and is no chance of CI's.

`--hypothesis-profile default` looks for new examples instead.
"""

import os
import random
import zlib

import pytest
import torch
from hypothesis import HealthCheck, settings

from ig_plugins.guard import prompt_request

# On a machine that is busy with other work, a slow example is no failure.
settings.register_profile("repeated", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeated")

for size in ("COLUMNS", "LINES"):  # a test says itself what terminal it has; pytest-xdist gives its workers one
    os.environ.pop(size, None)


@pytest.fixture(autouse=True)
def repeated(request, monkeypatch):
    """Seeds that nobody names follow from the test's name."""
    seed = zlib.crc32(request.node.nodeid.encode())
    torch.manual_seed(seed)
    random.seed(seed)
    dice = random.Random(seed)
    monkeypatch.setattr(prompt_request, "drawn_seed", lambda: dice.randrange(prompt_request.DRAWN))
