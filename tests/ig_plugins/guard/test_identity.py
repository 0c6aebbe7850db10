"""Two guards that differ in anything that can change an answer have different identities: every option, every part."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import TemperatureLogitsWarper

from critic_models.critic import CriticConfig, CriticCost, LatentCritic
from critic_models.identity import digest
from critic_models.judges import CallableJudge
from ig_plugins import InferenceGuard, SafetyBudget, SearchConfig
from ig_plugins.chat import prompt_format
from ig_plugins.engine import TreeModel
from ig_plugins.engine.forward.fused_decoder import FusedDecoder
from ig_plugins.guard.components import Components
from ig_plugins.guard.identity import unknown
from ig_plugins.guard.options import Options
from ig_plugins.search import Policy
from tests.kit.guards import cost_of_marker
from tests.kit.tiny import save_tiny, tiny_guard, tiny_llama, tiny_scores
from tests.kit.tokenizer import byte_tokenizer

torch.set_num_threads(1)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"seed": {}}}}}
OTHER_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}

SEARCH = {
    "candidates": 7, "beams": 3, "block_tokens": 4, "max_new_tokens": 21, "tries": 3, "temperature": 0.9, "top_k": 5,
    "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1, "retry_penalty": 1.0, "stratified": False,
    "selection": "hedged", "adaptive": "on", "narrow_candidates": 5, "schedule": (6,), "max_lag": 2, "seed": 5,
}  # fmt: skip
BUDGET = {"limit": 9.0, "discount": 0.5, "accounting": "worst", "reading": "terminal"}
OPTIONS = {
    "stop": ["x"], "on_block": "empty", "refusal": "No.", "raw_prompt": True, "tools": [TOOL], "tool_choice": "none",
    "logits_processors": [TemperatureLogitsWarper(0.5)], "stop_token_ids": [7], "last_assistant": "prefill",
    "chat_template_kwargs": {"enable_thinking": False}, "tool_threshold": 0.0,
    "json_schema": {"type": "object"}, "regex": "a+", "choices": ["a"], "grammar": 'start: "a"',
}  # fmt: skip
NEUTRAL = {"timeout", "judge_timeout", "trace"}  # decide whether there is an answer or what is told of it, not which


@pytest.fixture(scope="module")
def guard():
    return tiny_guard()


def told(guard) -> str:
    return json.dumps(guard.identity(), sort_keys=True, allow_nan=False)


def test_every_setting_of_the_search_changes_the_identity(guard):
    assert set(SEARCH) == set(SearchConfig.model_fields), "a new setting needs a change here"
    for name, value in SEARCH.items():
        name = "max_tokens" if name == "max_new_tokens" else name
        assert told(guard.with_options(**{name: value})) != told(guard), name


def test_every_field_of_a_budget_changes_the_identity(guard):
    assert set(BUDGET) == set(SafetyBudget.model_fields)
    for name, value in BUDGET.items():
        budget = SafetyBudget(**{**guard.budget.model_dump(), name: value})
        assert told(guard.with_options(budget=budget)) != told(guard), name


def test_every_other_option_changes_the_identity(guard):
    assert set(OPTIONS) | NEUTRAL | {"search", "budgets"} == set(Options.model_fields)
    for name, value in OPTIONS.items():
        base = guard.with_options(tools=[TOOL]) if name == "tool_threshold" else guard  # without tools it says nothing
        assert told(base.with_options(**{name: value})) != told(base), name
    assert told(guard.with_options(tool_threshold=0.0)) == told(guard)
    for pair in (
        {"tools": ([TOOL], [OTHER_TOOL])},
        {"logits_processors": ([TemperatureLogitsWarper(0.5)], [TemperatureLogitsWarper(0.6)])},
        {"stop": (["a", "b"], ["b", "a"])},
    ):
        for name, (one, other) in pair.items():
            assert told(guard.with_options(**{name: one})) != told(guard.with_options(**{name: other})), name
    assert told(guard.with_options(timeout=5.0)) == told(guard)


def critic(**changes):
    cost = CriticCost(accounting="cumulative", lowest=1.0, highest=20.0, scales=(1.0,))
    torch.manual_seed(0)
    return LatentCritic(CriticConfig(**{"hidden_size": 32, "width": 8, "costs": (cost,), **changes}))


def moved(critic):
    with torch.no_grad():
        critic.hidden_mean.add_(1)
    return critic


def policy(model=None, tokenizer=None, stops=()):
    tokenizer = tokenizer or byte_tokenizer()
    tree = TreeModel.attach(model or tiny_llama(tokenizer))
    return Policy(tree=tree, tokenizer=tokenizer, stop_ids=frozenset({tokenizer.eos_token_id, *stops}))


def lowercase_template():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content | lower }}"
    return tokenizer


def scores(*args, **options):
    return tiny_scores(byte_tokenizer(), *args, **options)


PARTS = {
    "policy": [
        lambda parts: policy(tiny_llama(byte_tokenizer(), seed=1)),
        lambda parts: policy(tiny_llama(byte_tokenizer()).to(torch.bfloat16)),
        lambda parts: policy(tokenizer=lowercase_template()),
        lambda parts: policy(stops=(7,)),
    ],
    "prompt_format": [
        lambda parts: prompt_format("plain", parts.policy.tokenizer),
        lambda parts: dataclasses.replace(parts.prompt_format, add_bos=not parts.prompt_format.add_bos),
        lambda parts: dataclasses.replace(parts.prompt_format, template="{{ messages[0].content }}"),
    ],
    "costs": [
        lambda parts: {"cost": scores("cost", seed=9)},
        lambda parts: {"cost": scores("reward")},
        lambda parts: {"cost": CallableJudge(cost_of_marker, version="1")},
        lambda parts: {"cost": CallableJudge(cost_of_marker, version="2")},
        lambda parts: {"cost": CallableJudge(lambda p, r: [0.0] * len(r))},
        lambda parts: {"cost": CallableJudge(lambda p, r: [1.0] * len(r))},
        lambda parts: {"cost": type(scores("cost"))(scores("cost").model, byte_tokenizer(), max_tokens=99)},
    ],
    "reward": [lambda parts: None, lambda parts: scores("reward", seed=5)],
    "critic": [
        lambda parts: critic(),
        lambda parts: critic(recalls=False, reading="terminal"),
        lambda parts: moved(critic()),
        lambda parts: critic(depth=2),
    ],
}
# What says nothing: names, also those to load; and budgets, which the options hold. The judges' trees tell tokens
# from texts.
OTHER_PARTS = {"names", "recipe", "budgets", "judge_trees", "_plain"}


def test_every_part_changes_the_identity(guard):
    assert set(PARTS) | OTHER_PARTS == {field.name for field in dataclasses.fields(Components)}
    seen = {told(guard)}
    for name, changes in PARTS.items():
        for change in changes:
            parts = dataclasses.replace(guard.components, **{name: change(guard.components)}, judge_trees={})
            seen.add(told(InferenceGuard(parts, guard.options)))
    assert len(seen) == 1 + sum(map(len, PARTS.values()))
    texts = dataclasses.replace(guard.components, judge_trees={id(judge): None for judge in guard.components.judges})
    assert told(InferenceGuard(texts, guard.options)) not in seen


def test_the_order_of_cost_models_is_part_of_it():
    one, other = scores("cost"), scores("cost", seed=9)
    budgets = [SafetyBudget(limit=1.0), SafetyBudget(limit=2.0)]
    assert told(tiny_guard(costs={"a": one, "b": other}, budgets=budgets)) != told(
        tiny_guard(costs={"a": other, "b": one}, budgets=budgets)
    )


def test_guards_that_are_alike_have_one_identity_and_all_of_it_is_known(guard, tmp_path):
    assert told(tiny_guard()) == told(guard)
    assert unknown(guard.identity()) == []
    assert len(told(guard)) < 8000, "it goes into cache keys and traces"
    here, there = (from_folders(save_tiny(tmp_path / name)).identity() for name in ("a", "b"))
    assert here["models"] != there["models"]
    assert {**here, "models": None} == {**there, "models": None}, "a folder's name is no part of what is in it"


def from_folders(folders, **options):
    return InferenceGuard.from_pretrained(
        folders["policy"], cost_model=folders["cost"], reward_model=folders["reward"], prompt_format="beaver",
        device="cpu", **options,
    )  # fmt: skip


def test_what_load_options_and_dtype_do_is_seen(tmp_path):
    folders = save_tiny(tmp_path)
    options = {"cost_model": cost_of_marker, "prompt_format": "beaver", "device": "cpu"}
    plain = InferenceGuard.from_pretrained(folders["policy"], **options)
    half = InferenceGuard.from_pretrained(folders["policy"], dtype="bfloat16", **options)
    loaded = InferenceGuard.from_pretrained(folders["policy"], load_options={"rope_parameters": ROPE}, **options)
    found = {json.dumps(each.identity()["policy"], sort_keys=True) for each in (plain, half, loaded)}
    assert len(found) == 3


ROPE = {"rope_type": "default", "rope_theta": 500.0}


def test_answers_leave_the_identity_as_it_is(guard):
    before = told(guard)
    guard.generate("a", max_tokens=6)
    assert told(guard) == before


def test_another_process_finds_the_same_guard_to_be_the_same(tmp_path):
    folders = save_tiny(tmp_path)
    code = (
        "import sys; from ig_plugins import InferenceGuard\n"
        "from critic_models.identity import digest\n"
        "guard = InferenceGuard.from_pretrained(sys.argv[1], cost_model=sys.argv[2], reward_model=sys.argv[3],\n"
        "    prompt_format='beaver', device='cpu')\n"
        "sys.stdout.write(digest(guard.identity()))"
    )
    arguments = [sys.executable, "-c", code, folders["policy"], folders["cost"], folders["reward"]]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    found = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout
    assert found == digest(from_folders(folders).identity())


def test_a_guard_is_the_same_while_it_answers(guard):
    """The engine puts functions of its own in the place of the model's while it runs it."""
    before, model = told(guard), guard.components.policy.tree.body.model
    fused = FusedDecoder.of(model.model)
    with torch.inference_mode(), fused.in_use():
        assert "forward" in vars(model.model)
        assert told(guard) == before
