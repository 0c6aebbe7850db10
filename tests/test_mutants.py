"""The table of mutants keeps up with the code: a change that fits nowhere any more would test nothing."""

from pathlib import Path

import pytest

from tests.mutants.table import MUTANTS

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_can_be_applied(mutant):
    source = (ROOT / mutant.path).read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1, f"{mutant.path} must hold the old text once"
    assert mutant.new != mutant.old
    compile(source.replace(mutant.old, mutant.new), mutant.path, "exec")
    assert all((ROOT / test).exists() for test in mutant.tests[:1]), mutant.tests


def test_no_two_have_one_name():
    names = [mutant.name for mutant in MUTANTS]
    assert sorted(set(names)) == sorted(names)
    assert any(mutant.quick for mutant in MUTANTS)
