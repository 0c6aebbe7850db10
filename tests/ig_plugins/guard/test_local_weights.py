"""Weights as people have them, through every door."""

from pathlib import Path

import pytest
import torch

from ig_plugins import InferenceGuard
from ig_plugins.cli import app
from langchain_inferenceguard import ChatInferenceGuard
from langchain_inferenceguard import InferenceGuardLLM as LangChainLLM
from llama_index.llms.inferenceguard import InferenceGuardLLM as LlamaIndexLLM
from tests.kit.guards import cost_of_marker, length_reward

pytest.importorskip("gguf", reason="pip install 'inferenceguard[gguf]'")
from tests.kit.gguf_files import write_gguf

torch.set_num_threads(1)
JUDGES = {"cost_model": cost_of_marker, "reward_model": length_reward, "device": "cpu"}
SMALL = {"candidates": 4, "beams": 2, "block_tokens": 4, "max_tokens": 8, "seed": 1}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(tmp_path_factory.mktemp("assets")))
        yield write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf")


def test_a_gguf_file_answers_in_its_own_chat_format_and_ends_its_turns(file):
    guard = InferenceGuard.from_pretrained(file, **JUDGES, **SMALL)
    assert guard.components.prompt_format.name == "chat_template"
    tokenizer = guard.tokenizer
    assert tokenizer.decode(guard.request("hello").prompt_ids).startswith("<|im_start|>user\nhello<|im_end|>")
    assert guard.components.policy.stop_ids >= {tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.eos_token_id}
    by_name = InferenceGuard.from_pretrained(str(file), **JUDGES, **SMALL)
    assert by_name.components.policy is guard.components.policy
    in_folder = InferenceGuard.from_pretrained(file.parent, **JUDGES, **SMALL)
    assert in_folder.generate("hello").token_ids == guard.generate("hello").token_ids


def test_every_door_takes_a_path(file):
    wanted = InferenceGuard.from_pretrained(file, **JUDGES, **SMALL).generate("hello").text
    assert ChatInferenceGuard(model=file, **JUDGES, **SMALL).invoke("hello").text == wanted
    assert LangChainLLM(model=file, **JUDGES, **SMALL).invoke("hello") == wanted
    assert LlamaIndexLLM(model=file, **JUDGES, **SMALL).complete("hello").text == wanted


def test_the_command_line_takes_a_path(file, capsys):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    judges = ["--cost-model=tiny-beaver", "--reward-model=tiny-beaver"]
    app()(["generate", "hello", "--model", str(file), *judges, *options, "--json"], standalone_mode=False)
    assert '"token_ids"' in capsys.readouterr().out


def test_the_example_runs(file, capsys):
    code = (Path(__file__).parents[3] / "examples" / "local_weights.py").read_text()
    names = {"__name__": "example"}
    exec(compile(code, "local_weights.py", "exec"), names)
    names["main"](file, "hello")
    assert capsys.readouterr().out.startswith("1.0 chat_template")
