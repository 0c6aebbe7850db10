"""All mutants."""

from tests.mutants import around, guard, search
from tests.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (*search.MUTANTS, *guard.MUTANTS, *around.MUTANTS)
