"""What ends up in the wheel: the import roots with their data, and nothing else."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOTS = (
    "inferenceguard", "ig_plugins", "critic_models", "langchain_inferenceguard", "inferenceguard_vllm", "llama_index",
)  # fmt: skip
NAMESPACES = ("adapters", "adapters/llama_index", "adapters/llama_index/llms")
DATA = {".toml", ".safetensors", ".json", ".jsonl", ".typed", ".md", ".txt", ".html", ".css", ".js", ".svg", ".png"}


def tracked(*folders: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names in a wheel built from this tree, as pip builds it."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(out / "site")
        return archive.namelist(), path.stat().st_size, out / "site"


def test_the_wheel_has_the_import_roots_and_nothing_else(wheel):
    names = wheel[0]
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(ROOTS)
    suffixes = {Path(name).suffix for name in names if ".dist-info/" not in name}
    assert suffixes <= {".py"} | DATA
    assert [n for n in names if "__pycache__" in n or re.search(r"(^|/)(tests?|conftest|test_\w+)(/|\.py$)", n)] == []


def test_the_wheel_has_every_tracked_file_of_the_packages(wheel):
    """Presets, bundled models, type markers: nothing that the code reads at run time may stay behind."""
    names = wheel[0]
    ours = tracked(
        "adapters/inferenceguard",
        "ig_plugins",
        "critic_models",
        "adapters/langchain_inferenceguard",
        "adapters/inferenceguard_vllm",
        "adapters/llama_index",
    )
    assert {name.removeprefix("adapters/") for name in ours} <= set(names)


def test_the_wheel_has_what_is_promised(wheel):
    names, size = wheel[:2]
    packages = (*ROOTS[:5], "llama_index/llms/inferenceguard")
    assert {f"{package}/py.typed" for package in packages} <= set(names)
    assert any(re.fullmatch(r"ig_plugins/presets/[\w.-]+\.toml", name) for name in names)
    for model in ("tiny-alpaca", "tiny-beaver", "tiny-reward", "tiny-cost"):
        assert f"critic_models/bundled/models/{model}/model.safetensors" in names
    assert size < 40 * 2**20


@pytest.mark.slow
def test_the_wheel_imports_beside_an_installed_llama_index(wheel):
    """From the unpacked wheel alone, away from the tree, with llama_index.core coming from where it is installed."""
    site = wheel[2]
    modules = ("ig_plugins", "critic_models", "langchain_inferenceguard", "llama_index.llms.inferenceguard")
    code = (
        f"import importlib, llama_index.core\nfor name in {modules}:\n print(importlib.import_module(name).__file__)\n"
        "from ig_plugins import presets\nprint(presets.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=site.parent,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if not line.startswith(str(site))] == []


@pytest.mark.parametrize("folder", NAMESPACES)
def test_namespace_folders_stay_open(folder, wheel):
    """An ``__init__.py`` there would hide the installed llama_index, or claim the name ``adapters``."""
    assert not (ROOT / folder / "__init__.py").exists()
    assert not (ROOT / folder / "py.typed").exists()
    assert f"{folder.removeprefix('adapters/')}/__init__.py" not in wheel[0]


def test_bundled_models_are_small_and_safe_to_load():
    files = [ROOT / name for name in tracked("critic_models/bundled")]
    assert sum(path.stat().st_size for path in files) <= 20 * 2**20
    assert [path.name for path in files if path.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"}] == []


def test_constraints_pin_exactly_and_cover_the_dependencies():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][\w.]*", line) for line in lines)
    pins = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = re.findall(r'"([A-Za-z][\w-]*)(?:\[[^\]]*\])?[<>=]=?[\d][^"]*"', text)
    assert len(wanted) > 15
    missing = {re.sub(r"[-_.]+", "-", name).lower() for name in wanted} - pins
    assert missing <= {"bitsandbytes", "tomli"}  # other hardware, and Python 3.10


def test_the_version_is_the_packages_own(wheel):
    import ig_plugins

    (metadata,) = wheel[2].glob("*.dist-info/METADATA")
    assert f"\nVersion: {ig_plugins.__version__}\n" in metadata.read_text(encoding="utf-8")


def test_the_readme_of_the_index_has_no_link_that_leads_nowhere(wheel):
    """There a link to a file of the repository is a page that does not exist."""
    (metadata,) = wheel[2].glob("*.dist-info/METADATA")
    head, _, readme = metadata.read_text(encoding="utf-8").partition("\n\n")
    assert "Project-URL: Paper, https://arxiv.org/abs/2502.01208" in head
    links = re.findall(r"\]\(([^)]*)\)", readme)
    assert links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert "`docs/serving.md`" in readme
    for name in set(re.findall(r"`((?:docs/)?[\w.-]+\.md)`", readme)) - {"README.md"}:
        assert (ROOT / name).is_file(), name


def test_the_licence_is_in_the_wheel(wheel):
    assert [name for name in wheel[0] if re.fullmatch(r"[\w.-]+\.dist-info/licenses/LICENSE", name)]
