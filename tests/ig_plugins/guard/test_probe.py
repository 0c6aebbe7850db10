"""A probe inside a guard: it shares the policy's weights, follows its tree, and refuses other policies."""

import pytest
import torch

from critic_models.critic import tokenizer_hash
from critic_models.judges.heads import Probe, ProbeConfig
from critic_models.judges.heads.probe import first_layers, known_state
from ig_plugins import InferenceGuard
from ig_plugins.engine import TreeModel
from ig_plugins.errors import JudgeError, MismatchError
from tests.kit.tiny import save_tiny, tiny_llama
from tests.kit.tokenizer import byte_tokenizer

SEARCH = {"candidates": 4, "beams": 2, "block_tokens": 5, "max_tokens": 10, "seed": 0}


def save_probe(folder, model, tokenizer, *, layer):
    config = ProbeConfig(
        policy_id="tiny", tokenizer_hash=tokenizer_hash(tokenizer), hidden_size=32, layer=layer,
        template="USER: {prompt} ASSISTANT:{response}", limit=2.0,
    )  # fmt: skip
    tensors = {
        "weight": torch.randn(32, generator=torch.Generator().manual_seed(3)) * 0.05,
        "bias": torch.zeros(1),
        "check": known_state(first_layers(model, layer)),
    }
    Probe(config, tensors, policy=(model, tokenizer)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("layer", [1, 2])
def test_a_guard_loads_a_probe_onto_its_own_policy_and_keeps_its_budget(layer, tmp_path):
    parts = save_tiny(tmp_path)
    probe = save_probe(tmp_path / "probe", tiny_llama(byte_tokenizer()), byte_tokenizer(), layer=layer)
    guard = InferenceGuard.from_pretrained(
        parts["policy"], cost_model=probe, prompt_format="beaver", device="cpu", **SEARCH
    )
    judge, policy = guard.components.judges[0], guard.components.policy
    own = {id(parameter) for parameter in policy.tree.body.model.parameters()}
    assert {id(parameter) for parameter in judge.body.parameters()} <= own
    assert guard.components.judge_tree(judge) is not None
    assert guard.components.budgets[0].accounting == "cumulative"
    assert guard.components.budgets[0].limit == 2.0
    result = guard.generate("hello")
    assert result.blocked or result.cost <= 2.0


@pytest.mark.parametrize("layer", [1, 2])
def test_scores_on_the_tree_are_those_of_the_plain_forward(layer, tmp_path):
    tokenizer = byte_tokenizer()
    model = tiny_llama(tokenizer)
    save_probe(tmp_path, model, tokenizer, layer=layer)
    policy = TreeModel.attach(model)  # first, as in a guard: it changes how the shared layers attend
    judge = Probe.from_pretrained(tmp_path, policy=(model, tokenizer))
    tree = TreeModel.attach(judge.body)
    prompt, lanes = list(range(5, 15)), torch.randint(4, 200, (1, 3, 4), generator=torch.Generator().manual_seed(0))
    found = {}
    for each in (policy, tree):  # turn by turn, on the same layers
        session = each.prefill([prompt], lanes=3, block=4, max_new=4)
        session.fork(torch.zeros(1, 3, dtype=torch.long))
        found[each] = session.append(lanes, torch.full((1, 3), 4))[0]
    ids = torch.cat([torch.tensor(prompt).expand(3, -1), lanes[0]], dim=1)
    plain = judge.score_tokens(ids, torch.ones_like(ids))[:, len(prompt) :]
    torch.testing.assert_close(judge.score_hidden(found[tree]), plain, atol=1e-4, rtol=1e-4)
    wanted = model.model(ids).last_hidden_state[:, len(prompt) :]
    torch.testing.assert_close(found[policy], wanted, atol=1e-4, rtol=1e-4)


def test_a_probe_of_another_policy_is_refused_when_the_guard_is_made(tmp_path):
    parts = save_tiny(tmp_path)
    probe = save_probe(tmp_path / "probe", tiny_llama(byte_tokenizer(), seed=9), byte_tokenizer(), layer=2)
    with pytest.raises(MismatchError, match="the same tokenizer and other weights"):
        InferenceGuard.from_pretrained(parts["policy"], cost_model=probe, prompt_format="beaver", device="cpu")


def test_a_function_is_a_cost_model_by_its_name(tmp_path):
    parts = save_tiny(tmp_path)
    (tmp_path / "rules.py").write_text("def short(prompts, responses):\n    return [len(r) - 8.0 for r in responses]\n")
    guard = InferenceGuard.from_pretrained(
        parts["policy"], cost_model=f"{tmp_path / 'rules.py'}:short", prompt_format="beaver", device="cpu", **SEARCH
    )
    result = guard.generate("hello")
    assert result.blocked or len(result.text) <= 8
    assert next(iter(guard.components.costs)).endswith("rules.py:short")


@pytest.fixture
def probed(tmp_path):
    parts = save_tiny(tmp_path)

    def load(layer, **options):
        probe = save_probe(tmp_path / f"probe{layer}", tiny_llama(byte_tokenizer()), byte_tokenizer(), layer=layer)
        settings = {"prompt_format": "beaver", "device": "cpu", **SEARCH, **options}
        return InferenceGuard.from_pretrained(parts["policy"], cost_model=probe, **settings)

    return load


@pytest.mark.parametrize(("layer", "again"), [(1, True), (2, False)])
def test_a_probe_of_the_last_layer_reads_nothing_that_the_policy_has_read(probed, monkeypatch, layer, again):
    guard, opened = probed(layer), []
    tree = guard.components.judge_tree(guard.components.judges[0])
    prefill = tree.prefill
    monkeypatch.setattr(tree, "prefill", lambda *args, **options: opened.append(1) or prefill(*args, **options))
    assert guard.generate("hello").usage.judge_calls > 0
    assert bool(opened) is again


@pytest.mark.parametrize("candidates", [3, 8])
@pytest.mark.parametrize("limit", [0.05, 0.4, 2.0])
def test_shared_states_judge_as_the_probe_does_alone(probed, monkeypatch, candidates, limit):
    """Few lanes are drafted, many are merged; tight budgets make blocks fail; stops and prefills are read apart."""
    guard = probed(2, candidates=candidates, beams=2, budget=limit, stop=["e"])
    prompts = ["hello", "what?", [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Sure, "}]]
    found = []
    for shared in (True, False):
        if not shared:
            monkeypatch.setattr("ig_plugins.guard.components.Components._sharing", lambda self, session: session)
        found.append([guard.generate(prompt, seed=seed) for prompt in prompts for seed in range(4)])
    assert [each.text for each in found[0]] == [each.text for each in found[1]]
    for mine, alone in zip(*found, strict=True):
        assert mine.blocked or mine.cost == pytest.approx(alone.cost, abs=1e-4)


def test_a_probe_whose_scores_are_no_numbers_lets_nothing_leave(probed):
    guard = probed(2)
    guard.components.judges[0].tensors["bias"].fill_(float("nan"))
    with pytest.raises(JudgeError, match="NaN"):
        guard.generate("hello")
