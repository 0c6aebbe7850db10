"""GGUF files: the same weights and tokens as transformers reads, once for all processes, and bad ones named."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from critic_models import gguf
from critic_models.errors import ModelLoadError
from critic_models.hub import load_weights, local_folder

pytest.importorskip("gguf", reason="pip install 'inferenceguard[gguf]'")
from tests.kit.gguf_files import write_gguf

ROOT = Path(__file__).parents[2]


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """Where converted files are kept in a test."""
    folder = tmp_path / "assets"
    monkeypatch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf")


def test_a_file_is_the_model_and_tokenizer_that_transformers_reads(file, assets):
    folder = local_folder(file)
    model = load_weights(AutoModelForCausalLM.from_pretrained, folder, source="tiny", strict=True)
    plain = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True))
    mine, theirs = (
        AutoTokenizer.from_pretrained(folder),
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name),
    )
    text = "hello  <|im_start|>user\n é 漢字"
    assert mine(text).input_ids == theirs(text).input_ids
    assert mine.chat_template == theirs.chat_template
    assert mine.chat_template
    assert set(model.generation_config.eos_token_id) == {0, 2}  # end of text, and end of turn


def test_a_file_is_converted_once_for_its_content(file, assets, tmp_path, monkeypatch):
    folder = local_folder(file)
    assert folder.is_relative_to(assets / "inferenceguard" / "gguf")
    monkeypatch.setattr(gguf, "_convert", lambda *_: pytest.fail("converted again"))
    elsewhere = shutil.copy(file, tmp_path / "renamed.gguf")
    assert local_folder(str(file)) == local_folder(file.parent) == local_folder(elsewhere) == folder
    monkeypatch.setattr(gguf.transformers, "__version__", "0.0")
    monkeypatch.setattr(gguf, "_convert", lambda _, folder: (folder / "config.json").write_text("{}"))
    assert local_folder(file) != folder
    other = write_gguf(tmp_path / "other.gguf", seed=1)
    assert local_folder(other) not in (folder, local_folder(file))


def test_a_file_on_the_hub(file, assets, monkeypatch):
    asked = []

    def download(repository, name, *, revision=None):
        asked.append((repository, name, revision))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert local_folder("some-org/tiny.GGUF:sub/tiny.Q4_1.gguf", revision="main") == local_folder(file)
    assert asked == [("some-org/tiny.GGUF", "sub/tiny.Q4_1.gguf", "main")]


def test_threads_that_come_at_once_convert_once(file, assets, monkeypatch):
    inner, made = gguf._convert, []
    monkeypatch.setattr(gguf, "_convert", lambda *where: (made.append(where), inner(*where)))
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(local_folder, [file] * 3))
    assert len(set(folders)) == len(made) == 1


@pytest.mark.slow
def test_processes_that_come_at_once_convert_once(file, tmp_path):
    code = (
        "import sys; from critic_models import gguf; inner = gguf._convert\n"
        "def convert(file, folder):\n    print('converting'); inner(file, folder)\n"
        "gguf._convert = convert; print(gguf.converted(__import__('pathlib').Path(sys.argv[1])))"
    )
    environment = {"HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(file)]
    runs = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=120)[0].split() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sorted(map(len, outputs)) == [1, 2]  # one of them converted
    assert outputs[0][-1] == outputs[1][-1]
    assert (Path(outputs[0][-1]) / "model.safetensors").is_file()


def test_a_conversion_that_was_killed_leaves_nothing_that_counts(file, assets, monkeypatch):
    def killed(_, folder):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gguf, "_convert", killed)
        with pytest.raises(KeyboardInterrupt):
            local_folder(file)
    (home,) = (assets / "inferenceguard" / "gguf").iterdir()
    (home / "partial-of-a-killed-process").mkdir()
    assert (local_folder(file) / "model.safetensors").is_file()
    assert sorted(path.name for path in home.iterdir() if path.name != ".lock") == ["model"]


def test_where_nothing_can_be_kept_the_file_still_loads_with_a_warning(file, tmp_path, monkeypatch, caplog):
    (tmp_path / "blocked").write_text("a file where a folder would have to be")
    monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path / "blocked" / "assets"))
    folder = local_folder(file)
    assert (folder / "model.safetensors").is_file()
    assert "cannot be kept" in caplog.text
    assert "HF_ASSETS_CACHE" in caplog.text


@pytest.mark.parametrize("left", [0.0, 0.3, 0.9])
def test_a_truncated_file(file, assets, tmp_path, left):
    content = file.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(content[: int(len(content) * left)])
    with pytest.raises(ModelLoadError, match=r"cut\.gguf .*Download it again"):
        local_folder(cut)
    assert not list(assets.glob("**/model"))


def test_bad_files_are_named_with_what_to_do(assets, tmp_path):
    odd = write_gguf(tmp_path / "odd.gguf", architecture="martian")
    with pytest.raises(ModelLoadError, match=r"odd\.gguf: .*architecture 'martian' .*Update transformers"):
        local_folder(odd)
    lacking = write_gguf(tmp_path / "lacking.gguf", lacks="blk.1.ffn_up.weight")
    with pytest.raises(ModelLoadError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight.*Download it again"):
        local_folder(lacking)
    with pytest.raises(ModelLoadError, match=r"holds 2 GGUF files \(lacking\.gguf, odd\.gguf\)\. Give the path of one"):
        local_folder(tmp_path)
    with pytest.raises(ModelLoadError, match=r"there is no file missing\.gguf\. Give a GGUF file's path, or 'org/name"):
        local_folder("missing.gguf")
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    for number in (1, 2):
        (pieces / f"big-0000{number}-of-00002.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelLoadError, match=r"one piece of a model\. Join the pieces first: llama-gguf-split --merge"):
        local_folder(pieces)
    text = tmp_path / "text.txt"
    text.write_text("no model")
    with pytest.raises(ModelLoadError, match="is not a folder"):
        local_folder(text)


def test_without_its_packages_a_file_says_what_to_install(file, assets, monkeypatch):
    monkeypatch.setattr(gguf, "NEEDED", ("gguf", "no_such_package"))
    with pytest.raises(ModelLoadError, match=r"needs no_such_package: pip install 'inferenceguard\[gguf\]'"):
        local_folder(file)


def test_safetensors_beside_a_gguf_file_are_what_is_loaded(file, assets, tmp_path):
    kept = local_folder(file)
    both = shutil.copytree(kept, tmp_path / "both")
    shutil.copy(file, both / "tiny.gguf")
    assert local_folder(both) == both
