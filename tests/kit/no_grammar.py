"""As where the extra `grammar` is not installed: nothing is masked, so that answers can be wrong."""

import sys

import pytest


@pytest.fixture
def no_grammar(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
