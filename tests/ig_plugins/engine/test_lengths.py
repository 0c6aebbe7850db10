"""Models that compute otherwise beyond a length are followed where that is exact, and refused beyond it by its name."""

import json

import pytest
import torch

from ig_plugins.engine import TreeModel
from ig_plugins.engine.forward.body import Body
from ig_plugins.errors import PromptError, UnsupportedModelError
from ig_plugins.guard.model_info import model_context
from ig_plugins.search import Policy
from tests.kit.guards import make_guard
from tests.kit.tokenizer import byte_tokenizer

THRESHOLD = 16  # of models that can read 128 tokens
GQA = {"num_key_value_heads": 2, "head_dim": 8}
GEMMA = {
    **GQA, "query_pre_attn_scalar": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [8.0] * 4, "factor": 8.0,
    "original_max_position_embeddings": THRESHOLD,
}  # fmt: skip
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
NAMED = f"original_max_position_embeddings is {THRESHOLD}"
PHI3 = {"num_key_value_heads": 2, "original_max_position_embeddings": THRESHOLD, "rope_parameters": LONGROPE}
CHANGING = {
    "phi3": ("phi3", PHI3),
    "phi3 with a window": ("phi3", {**PHI3, "sliding_window": 6}),
    "llama": ("llama", {"rope_parameters": LONGROPE}),
    "one layer type of gemma3": (
        "gemma3_text",
        {**GEMMA, "rope_parameters": {"sliding_attention": PLAIN, "full_attention": LONGROPE}},
    ),
}
SCALED = {"factor": 8.0, "rope_theta": 1e4, "original_max_position_embeddings": THRESHOLD}
CONSTANT = {
    "yarn": ("llama", {"rope_parameters": {"rope_type": "yarn", **SCALED}}),
    "llama3": (
        "llama",
        {"rope_parameters": {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **SCALED}},
    ),
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}}),
    "longrope whose factors are the same": (
        "phi3",
        {**PHI3, "rope_parameters": {**LONGROPE, "long_factor": [1.0] * 4}},
    ),
    "gemma3": (
        "gemma3_text",
        {
            **GEMMA,
            "rope_parameters": {
                "sliding_attention": PLAIN,
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            },
        },
    ),
}
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}


def walk_to(walk, tokens):
    """From prompts of 3 and 12 tokens to texts of which the longer one has this many."""
    walk.check()
    walk.fork([[0, 0], [0, 0]])
    for _ in range(tokens - 12):
        walk.extend([[1, 1], [1, 0]])
    walk.check()
    walk.select([[1, 0], [0, 1]])
    walk.check()


PROMPTS = [[5, 6, 7], list(range(20, 32))]


@pytest.mark.parametrize("path", ["auto", "masked", "portable"])
@pytest.mark.parametrize("name", CHANGING)
def test_up_to_the_length_it_is_exact_and_beyond_it_is_refused(make_model, make_walk, name, path):
    family, changes = CHANGING[name]
    walk = make_walk(make_model(family, **changes), PROMPTS, backend=path, max_new=THRESHOLD - 12)
    walk_to(walk, THRESHOLD)
    assert walk.tree_model.context == THRESHOLD
    for prompt, more in ((THRESHOLD - 3, 4), (THRESHOLD + 1, 1)):
        with pytest.raises(PromptError, match=f"context is {THRESHOLD} .*{NAMED}"):
            walk.tree_model.prefill([[5] * prompt, [6]], lanes=2, block=2, max_new=more)


@pytest.mark.parametrize("name", CHANGING)
def test_half_precision_does_not_hide_the_length(make_model, name):
    family, changes = CHANGING[name]
    assert TreeModel.attach(make_model(family, **changes).bfloat16()).context == THRESHOLD


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONSTANT)
def test_embeddings_that_are_the_same_at_every_length_are_not_restricted(make_model, name, dtype):
    family, changes = CONSTANT[name]
    tree = TreeModel.attach(make_model(family, **changes).to(dtype))
    assert (tree.context, tree.context_note) == (128, "")


@pytest.mark.parametrize("name", CONSTANT)
def test_and_are_exact_across_the_length(make_model, make_walk, walk_everything, name):
    family, changes = CONSTANT[name]
    walk_to(make_walk(make_model(family, **changes), PROMPTS), THRESHOLD + 8)
    walk_everything(make_model(family, **changes))


def test_dynamic_frequencies_are_followed_while_they_stay_whatever_others_ask_the_model(make_model, make_walk):
    model = make_model("llama", **DYNAMIC)
    tree = TreeModel.attach(model)
    assert tree.context == 128
    assert "max_position_embeddings is 128" in tree.context_note
    with torch.inference_mode():
        model(torch.randint(3, 61, (1, 150)))  # longer than the model's context: its frequencies are others now
    walk = make_walk(model, [[5, 6, 7], [int(token) for token in torch.randint(3, 61, (116,))]], max_new=12)
    walk.fork([[0, 0], [0, 0]])
    for _ in range(12):
        walk.extend([[1, 1], [1, 0]])
    walk.check()
    with pytest.raises(PromptError, match="max_position_embeddings is 128"):
        tree.prefill([[5] * 120], lanes=1, block=4, max_new=9)


def test_a_window_by_another_name_is_walked_too(make_model, make_walk):
    changes = {"window_size": 32, "attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4}
    walk = make_walk(make_model("gpt_neo", **changes), [list(range(5, 35)), [5, 6]])
    walk.fork([[0, 0, 0], [0, 0, 0]])
    for _ in range(4):
        walk.extend([[1, 1, 1], [1, 1, 0]])
    walk.check()


def test_a_short_text_beside_one_beyond_the_window_is_walked(make_model, monkeypatch):
    seen, run = [], Body.run
    monkeypatch.setattr(Body, "run", lambda self, ids, **given: seen.append(ids.shape) or run(self, ids, **given))
    TreeModel.attach(make_model("mistral", **GQA, sliding_window=8), backend="masked")
    assert (2, 10) in seen


def test_a_table_of_positions_that_is_too_short_is_found(make_model):
    model = make_model("gpt2")
    table = model.transformer.wpe
    table.weight.data = table.weight.data[:100]
    with pytest.raises(UnsupportedModelError, match=r"'gpt2'.*cannot be decoded exactly.*IndexError"):
        TreeModel.attach(model)


def test_a_guard_says_why_it_takes_no_longer_prompts(make_model):
    tokenizer = byte_tokenizer()
    changes = {**PHI3, "vocab_size": len(tokenizer), "original_max_position_embeddings": 96}
    tree = TreeModel.attach(make_model("phi3", **changes, max_position_embeddings=512))
    guard = make_guard(policy=Policy(tree=tree, tokenizer=tokenizer, stop_ids=frozenset({tokenizer.eos_token_id})))
    assert guard.context == 96
    assert guard.generate("x", raw_prompt=True, max_tokens=95).usage.judge_calls > 0
    with pytest.raises(PromptError, match=r"context holds 96 \(original_max_position_embeddings is 96: .* change"):
        guard.generate("x" * 90, raw_prompt=True, max_tokens=7)


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}, 4096),
        ({"rope_parameters": LONGROPE}, THRESHOLD),
        ({"rope_parameters": {"rope_type": "yarn", **SCALED}}, 131072),
        ({"rope_scaling": None}, 131072),
    ],
)
def test_what_frameworks_are_told_before_a_model_is_loaded_is_the_same_length(tmp_path, rope, context):
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 131072, **rope}))
    assert model_context(str(tmp_path)) == context
