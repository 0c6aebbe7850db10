"""Private names of other libraries are listed in docs/private-apis.md: each still exists, and no other one is used."""

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "private-apis.md"
LIBRARIES = {
    "torch": "torch", "transformers": "transformers", "langchain_core": "langchain-core", "langchain": "langchain",
    "langgraph": "langgraph", "llama_index": "llama-index-core", "uvicorn": "uvicorn",
    "vllm": "vllm",
}  # fmt: skip
OURS = ("ig_plugins", "critic_models", "langchain_inferenceguard", "llama_index.llms.inferenceguard")
FOLDERS = ("ig_plugins", "critic_models", "adapters")
LOOKUPS = ("getattr", "hasattr", "setattr", "delattr")

# Strings that look like a private name and are none: a key of LangChain's own format, the end of a setting's name, and
# peft's attributes (see the page).
NO_NAMES = {"_type", "_file", "_active_adapter", "_disable_adapters", "_merged"}

Row = tuple[str, str]  # a name, and the heading that it stands under


def rows() -> list[Row]:
    """The first column of every table of the page."""
    found, heading = [], ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif match := re.match(r"\| `([^`]+)` \|", line):
            found.append((match[1], heading))
    return found


ROWS = rows()
LISTED = {part for name, _ in ROWS for part in name.partition(" = ")[0].split(".") if part.startswith("_")} | {
    ast.literal_eval(name.partition(" = ")[2]) for name, _ in ROWS if " = " in name
}


# Each still exists


@cache
def instance(owner: type) -> Any:
    """A small object of a class whose attributes are made in ``__init__``; the class itself where none is known."""
    import torch
    import transformers
    import uvicorn
    from tokenizers import Tokenizer, models

    if owner is uvicorn.Server:
        return uvicorn.Server(uvicorn.Config(app="none:app"))
    if owner is torch.nn.Module:
        return torch.nn.Linear(1, 1)
    if issubclass(owner, transformers.PreTrainedTokenizerBase):
        backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
        return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    return transformers.LlamaConfig() if owner is transformers.PreTrainedConfig else owner


def find(path: str) -> Any:
    """What a dotted path leads to: through modules, their attributes, and what their classes' objects hold.

    Raises:
        LookupError: Nothing is there.
    """
    first, *rest = path.split(".")
    thing, at = importlib.import_module(first), first
    for name in rest:
        held = thing if hasattr(thing, name) or not inspect.isclass(thing) else instance(thing)
        at = f"{at}.{name}"
        if not hasattr(held, name):
            try:
                importlib.import_module(at)
            except ImportError:
                raise LookupError(at) from None
        thing = getattr(held, name)
    return thing


def in_source(path: str, root: Path) -> bool:
    """Whether a class, or what stands in it, is in a library's source; for one that cannot be imported everywhere."""
    parts, folder = path.split(".")[1:], root
    while parts and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    file = folder / f"{parts.pop(0)}.py" if parts and (folder / f"{parts[0]}.py").is_file() else folder / "__init__.py"
    owner, *rest = parts
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == owner:
            own = [each.target for each in ast.walk(node) if isinstance(each, ast.AnnAssign)]
            own += [target for each in ast.walk(node) if isinstance(each, ast.Assign) for target in each.targets]
            names = {ast.unparse(each).removeprefix("self.") for each in own} | defined(node)
            return not rest or rest[0] in names
    return False


@pytest.mark.parametrize("name", [name for name, _ in ROWS if name.startswith("vllm.")])
def test_the_name_is_still_in_vllm(name):
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed")
    assert in_source(name, Path(spec.submodule_search_locations[0])), f"{name} is gone; docs/private-apis.md"


def test_a_name_that_is_not_in_a_source_is_noticed(tmp_path):
    (tmp_path / "a").mkdir()
    text = "class B:\n    c: int\n    def d(self):\n        self.e: int = 1\n        self.f = 1\n"
    (tmp_path / "a" / "m.py").write_text(text)
    assert all(in_source(f"vllm.a.m.B{name}", tmp_path) for name in ("", ".c", ".d", ".e", ".f"))
    assert not any(in_source(f"vllm.a.m.{name}", tmp_path) for name in ("X", "B.g"))


@pytest.mark.parametrize("name", [name for name, _ in ROWS if not name.startswith("vllm.")])
def test_the_name_is_still_there(name):
    path, _, value = name.partition(" = ")
    library = LIBRARIES[path.partition(".")[0]]
    gone = f"{path} is gone from {library} {version(library)}; docs/private-apis.md says what it was for"
    if path.endswith("._commit_hash"):  # on configurations from a hub alone
        from transformers import configuration_utils

        assert "_commit_hash" in inspect.getsource(configuration_utils), gone
        return
    try:
        found = find(path)
    except LookupError:
        pytest.fail(gone)
    assert not value or found == ast.literal_eval(value), f"{path} is {found!r} in {library} {version(library)}"


@pytest.mark.parametrize("path", ["torch.ops.mkldnn._gone", "torch.nn.Module._gone", "langgraph._internal._gone.KEY"])
def test_a_name_that_is_gone_is_noticed(path):
    with pytest.raises(LookupError, match="_gone"):
        find(path)


# No other one is used


def is_private(name: str) -> bool:
    return re.fullmatch(r"_+[A-Za-z]\w*", name) is not None and not name.endswith("__")


def private_names(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Line and name of every private name that is used, and whether it can only be somebody else's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.lineno, node.attr, ast.unparse(node).partition(".")[0] in LIBRARIES
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            for path in [".".join(filter(None, (module, alias.name))) for alias in node.names]:
                if path.partition(".")[0] in LIBRARIES and not path.startswith(OURS):
                    yield from ((node.lineno, part, True) for part in path.split(".") if is_private(part))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in LOOKUPS and len(node.args) > 1:
            if isinstance(node.args[1], ast.Constant) and is_private(str(node.args[1].value)):
                yield node.lineno, str(node.args[1].value), True
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_private(node.value):
            yield node.lineno, node.value, False


def defined(tree: ast.AST) -> set[str]:
    """Names that a file gives to something of its own."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names |= {node.attr} if ast.unparse(node.value) in ("self", "cls") else set()
    return names


def unlisted(sources: dict[str, str]) -> list[str]:
    """Where private names are used that are neither ours nor listed."""
    trees = {place: ast.parse(source) for place, source in sources.items()}
    ours = set().union(*map(defined, trees.values()))
    return [
        f"{place}:{line}: {name}"
        for place, tree in trees.items()
        for line, name, foreign in sorted(private_names(tree))
        if name not in LISTED | NO_NAMES and (foreign or name not in ours)
    ]


def test_no_private_name_is_used_that_is_not_listed():
    sources = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }
    found = [each for each in unlisted(sources) if not each.endswith(": _asdict")]  # public, of namedtuples
    assert found == [], "private names of other libraries that docs/private-apis.md does not list"


@pytest.mark.parametrize(
    "line",
    [
        "torch._C._secret()",
        "from torch._inductor import config",
        "import transformers._secret",
        "from transformers.utils import _secret",
        "model._secret",
        "torch.ops.aten._secret(x)",
        'getattr(model, "_secret", None)',
        'NAMES = ("_secret",)',
        'torch._ours',
    ],
)  # fmt: skip
def test_a_private_name_that_is_not_listed_is_noticed(line):
    ours = "class A:\n    def _ours(self):\n        self._mine = self._ours()\n        other._mine"
    assert unlisted({"a.py": ours}) == []
    assert [each.partition(":")[0] for each in unlisted({"a.py": ours, "b.py": line})][:1] == ["b.py"]


def test_every_listed_name_is_used():
    """A row that nothing needs any more would hide a new use."""
    text = "\n".join(path.read_text(encoding="utf-8") for f in FOLDERS for path in (ROOT / f).rglob("*.py"))
    names = {ast.literal_eval(value) if value else path.rpartition(".")[2]
             for path, _, value in (name.partition(" = ") for name, _ in ROWS)}  # fmt: skip
    assert {name for name in names if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)} == set()


def adapter_classes() -> list[type]:
    from critic_models import ScoreModel
    from langchain_inferenceguard import ChatInferenceGuard, InferenceGuardLLM, InferenceGuardMiddleware
    from llama_index.llms.inferenceguard import InferenceGuardLLM as LlamaIndexLLM

    return [ScoreModel, ChatInferenceGuard, InferenceGuardLLM, InferenceGuardMiddleware, LlamaIndexLLM]


def overridden(cls: type) -> set[str]:
    """Private names that a class of ours takes over from a class of a library."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith(OURS)]
    theirs = [base for base in cls.__mro__ if base not in ours and base.__module__.partition(".")[0] in LIBRARIES]
    names = {name for base in ours for name in vars(base) if is_private(name) and name != "_abc_impl"}
    return {name for name in names if any(name in vars(base) for base in theirs)}


def test_overridden_names_are_listed():
    listed = {name.rpartition(".")[2] for name, heading in ROWS if heading == "Overridden"}
    assert set().union(*map(overridden, adapter_classes())) == listed
