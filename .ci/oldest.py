"""Prints pip constraints that hold what we call most at the oldest version that pyproject.toml allows.

    python .ci/oldest.py > build/constraints-oldest.txt

A bound ``>=1.4`` becomes ``==1.4.*``: the first release line that the bound allows, with its own fixes. Everything else
is what pip finds to go with these: the lower bounds of all libraries at once are a set that pip cannot install.
"""

import re
from pathlib import Path
from typing import Any

import tomllib

NAMED = ("torch", "transformers", "langchain-core", "llama-index-core")
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def constraints(project: dict[str, Any]) -> list[str]:
    """``name==bound.*`` for each of NAMED; a name without a lower bound is a KeyError."""
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(each for extra in extras for each in extra)]
    bounds = dict(found.groups() for each in requirements if (found := re.match(r"([\w-]+)>=([\d.]+)", each)))
    return [f"{name}=={bounds[name]}.*" for name in NAMED]


if __name__ == "__main__":
    print("\n".join(constraints(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"])))
