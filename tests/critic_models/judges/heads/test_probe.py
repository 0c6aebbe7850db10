import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from critic_models.critic import tokenizer_hash
from critic_models.errors import ConfigurationError, MismatchError, ModelLoadError
from critic_models.judges import TokenJudge, load_judge
from critic_models.judges.heads import Probe, ProbeConfig
from critic_models.judges.heads.probe import first_layers, known_state, normed_states, prompt_ids
from tests.kit.tiny import tiny_config, tiny_llama
from tests.kit.tokenizer import byte_tokenizer

TEMPLATE = "USER: {prompt} ASSISTANT:{response}"


def probe(model, tokenizer, *, layer=1, threshold=0.2, scale=1.0, limit=3.0):
    """A probe with random weights on a policy."""
    config = ProbeConfig(
        policy_id="tiny", tokenizer_hash=tokenizer_hash(tokenizer), hidden_size=32, layer=layer, template=TEMPLATE,
        threshold=threshold, limit=limit,
    )  # fmt: skip
    weight = torch.randn(32, generator=torch.Generator().manual_seed(3)) * scale
    tensors = {"weight": weight, "bias": torch.zeros(1), "check": known_state(first_layers(model, layer))}
    return Probe(config, tensors, policy=(model, tokenizer), name="probe")


def test_the_first_layers_are_the_policys_own_and_give_its_states():
    model = tiny_llama(byte_tokenizer())
    ids = torch.arange(10).unsqueeze(0)
    cut = first_layers(model, 1)
    states = model(ids, output_hidden_states=True).hidden_states
    assert torch.equal(cut(ids).last_hidden_state, model.model.norm(states[1]))
    assert torch.equal(first_layers(model, 2)(ids).last_hidden_state, states[2])
    assert {id(p) for p in cut.parameters()} < {id(p) for p in model.parameters()}
    assert not any(parameter.is_meta for parameter in cut.parameters())
    assert len(model.model.layers) == model.config.num_hidden_layers == 2


def test_several_layers_are_read_in_one_forward():
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=32, n_layer=3, n_head=2, n_positions=64)).eval()
    ids = torch.arange(12).view(2, 6)
    for model in (gpt2, tiny_llama(byte_tokenizer())):
        last = model.config.num_hidden_layers
        found = normed_states(first_layers(model, last), ids, torch.ones_like(ids), [1, last])
        for layer, states in found.items():
            torch.testing.assert_close(states, first_layers(model, layer)(ids).last_hidden_state)


def test_a_cost_read_by_text_is_the_sum_over_the_answers_tokens():
    tokenizer = byte_tokenizer()
    judge = probe(tiny_llama(tokenizer).requires_grad_(False), tokenizer)
    assert isinstance(judge, TokenJudge)
    head = prompt_ids(tokenizer, TEMPLATE, "hi")
    ids = torch.tensor([[*head, *tokenizer("yes", add_special_tokens=False).input_ids]])
    tokens = judge.score_tokens(ids, torch.ones_like(ids))[0, len(head) :]
    assert judge.score(["hi"], ["yes"]) == pytest.approx([float(tokens.sum())], abs=1e-4)
    raw = judge.raw_hidden(judge.body(ids).last_hidden_state)[0, len(head) :]
    assert float((raw - 0.2 - tokens).abs().max()) == pytest.approx(0, abs=1e-5)
    together = judge.score(["hi", "a longer prompt"], ["yes", "no, never"])
    assert together == pytest.approx(
        [*judge.score(["hi"], ["yes"]), *judge.score(["a longer prompt"], ["no, never"])], abs=1e-3
    )
    assert judge.default_accounting == "cumulative"
    assert judge.default_limit == 3.0


def test_a_saved_probe_is_loaded_onto_its_policy(tmp_path):
    tokenizer = byte_tokenizer()
    model = tiny_llama(tokenizer)
    made = probe(model, tokenizer)
    made.save_pretrained(tmp_path)
    loaded = load_judge(tmp_path, kind="cost", policy=(tiny_llama(tokenizer), tokenizer))
    assert loaded.score(["a"], ["b"]) == made.score(["a"], ["b"])
    half = load_judge(tmp_path, kind="cost", policy=(tiny_llama(tokenizer).bfloat16(), tokenizer))
    assert half.score(["a"], ["b"]) == pytest.approx(made.score(["a"], ["b"]), abs=0.2)
    with pytest.raises(ModelLoadError, match="is a cost head; it cannot score reward"):
        load_judge(tmp_path, kind="reward", policy=(model, tokenizer))
    with pytest.raises(ConfigurationError, match="cannot read text without it: name it as the cost"):
        load_judge(tmp_path, kind="cost")


def test_a_head_for_another_policy_is_refused(tmp_path):
    tokenizer = byte_tokenizer()
    probe(tiny_llama(tokenizer), tokenizer, layer=2).save_pretrained(tmp_path)

    def load(model, its=tokenizer):
        return load_judge(tmp_path, kind="cost", policy=(model, its))

    with pytest.raises(MismatchError, match="the same tokenizer and other weights"):
        load(tiny_llama(tokenizer, seed=5))
    config = tiny_config(tokenizer, num_hidden_layers=1, hidden_size=16)
    with pytest.raises(MismatchError, match="hidden size 32 and 16; layers at least 2 and 1"):
        load(LlamaForCausalLM(config))
    other = byte_tokenizer()
    other.add_tokens(["hello"])
    with pytest.raises(MismatchError, match="tokenizer"):
        load(tiny_llama(tokenizer), other)


def test_layers_and_templates_that_are_not_there_are_named():
    tokenizer = byte_tokenizer()
    with pytest.raises(ConfigurationError, match="layer is 3; LlamaModel has 1 to 2"):
        first_layers(tiny_llama(tokenizer), 3)
    tokenizer.chat_template = None
    with pytest.raises(ConfigurationError, match="no chat template"):
        prompt_ids(tokenizer, "chat", "x")
    with pytest.raises(ConfigurationError, match=r"must hold \{prompt\} once"):
        prompt_ids(tokenizer, "no places", "x")
