"""What a thing is: everything that changes what it does changes its description, names and places do not."""

import copy
import functools
import gc
import json
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch
from tokenizers import normalizers
from torch import nn
from transformers import LlamaForCausalLM, LogitsProcessor, TemperatureLogitsWarper

from critic_models.errors import ConfigurationError
from critic_models.identity import describe, token, unknown_parts, weights
from critic_models.judges import CallableJudge, ClassifierJudge, GuardTemplate, ScoreJudge
from tests.kit.tiny import tiny_config, tiny_llama, tiny_scores
from tests.kit.tokenizer import byte_tokenizer

torch.set_num_threads(1)


def told(thing) -> str:
    return json.dumps(describe(thing), sort_keys=True, allow_nan=False)


def is_known(thing) -> bool:
    return not list(unknown_parts(describe(thing)))


def make_judge(limit):
    def judge(prompts, responses):
        return [float(len(r) > limit) for r in responses]

    return judge


class Scorer:
    version = "of the class"

    def __init__(self, limit):
        self.limit = limit

    def __call__(self, prompts, responses):
        return [self.limit] * len(responses)

    def judge(self, prompts, responses):
        return self(prompts, responses)


@dataclass(frozen=True)
class Equal:
    """Instances are equal and have the same hash, whatever they do."""

    act: object = field(compare=False)

    def __call__(self, prompts, responses):
        return self.act(prompts, responses)


class Slotted:
    __slots__ = ("limit",)

    def __init__(self, limit):
        self.limit = limit

    def __call__(self, prompts, responses):
        return [self.limit] * len(responses)


def wrap(function):
    @functools.wraps(function)
    def laxer(prompts, responses):
        return [score - 5 for score in function(prompts, responses)]

    return laxer


def with_version(function, version="1"):
    function.version = version
    return function


strict, lax = make_judge(1), make_judge(9)
lambdas = [lambda p, r: [1.0] * len(r), lambda p, r: [0.0] * len(r)]
PAIRS = {
    "functions of one name": (strict, lax),
    "lambdas": tuple(lambdas),
    "partials": (functools.partial(strict, ["a"]), functools.partial(strict, ["b"])),
    "methods of two instances": (Scorer(1).judge, Scorer(2).judge),
    "callable objects, versioned by their class": (Scorer(1), Scorer(2)),
    "equal objects": (Equal(strict), Equal(lax)),
    "objects without weak references": (Slotted(1), Slotted(2)),
    "a version copied by functools.wraps": (with_version(make_judge(1)), wrap(with_version(make_judge(1)))),
    "a lambda bound to a versioned object": (
        lambdas[0].__get__(with_version(Scorer(1))),
        lambdas[1].__get__(with_version(Scorer(1))),
    ),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_what_cannot_be_looked_into_is_known_by_its_token(kind):
    one, other = PAIRS[kind]
    for each in (lambda thing: thing, CallableJudge, lambda thing: [thing]):
        assert told(each(one)) != told(each(other))
        assert told(each(one)) == told(each(one)), "the same object is the same"
    assert not is_known(other)
    assert not is_known(CallableJudge(other))


def test_a_token_is_never_the_next_objects():
    seen = set()
    for limit in range(200):
        seen.add(token(Scorer(limit)))  # freed at once, so that ids repeat
        seen.add(token(Slotted(limit)))
    gc.collect()
    assert len(seen) == 400


def test_a_version_makes_a_function_known():
    ours, theirs = with_version(make_judge(1), "1"), with_version(make_judge(1), "2")
    assert is_known(ours)
    assert told(ours) != told(theirs)
    assert told(CallableJudge(strict, version="1")) == told(CallableJudge(lax, version="1")), "the owner's word counts"
    assert told(CallableJudge(strict, version="1")) != told(CallableJudge(strict, version="2"))
    assert told(CallableJudge(strict, version="1", name="a")) == told(CallableJudge(strict, version="1", name="b"))
    scorer = with_version(Scorer(3), "3")
    assert is_known(scorer)
    assert is_known(scorer.judge)
    for empty in ("", "  "):
        with pytest.raises(ConfigurationError, match="version is empty"):
            CallableJudge(strict, version=empty)
        assert not is_known(with_version(make_judge(1), empty))


def test_a_token_is_no_other_processes():
    code = (
        "from tests.kit.guards import cost_of_marker as f; from critic_models.identity import token; import os\n"
        "mine = token(f)\n"
        "pid = os.fork()\n"
        "if pid: os.wait()\n"
        "print(token(f), flush=True)\n"
        "os._exit(0)"
    )
    tokens = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len(set(tokens)) == 2


def test_an_own_judge_class_is_not_taken_for_ours():
    class Lax(ScoreJudge):
        def score(self, prompts, responses, *, finished=None):
            return [0.0] * len(responses)

    ours = tiny_scores(byte_tokenizer(), "cost")
    theirs = Lax(ours.model, ours.tokenizer)
    assert is_known(ours)
    assert not is_known(theirs)
    patched = ScoreJudge(ours.model, ours.tokenizer)
    patched.score = lambda prompts, responses, finished=None: [0.0] * len(responses)
    assert not is_known(patched)


# ---- models ----


class LoRA(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(32, 2, bias=False), nn.Linear(2, 32, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def noise(model):
    for weight in model.parameters():
        weight.add_(torch.randn_like(weight) * 1e-3)


def one_number(model):
    model.lm_head.weight[7, 7] += 1.0


def merged(model):
    model.model.layers[0].self_attn.q_proj.weight.data += 1e-2  # as adapters are merged: no version is counted


def adapter(model):
    model.model.layers[0].self_attn.q_proj = LoRA(model.model.layers[0].self_attn.q_proj)


def swapped(model):
    attention = model.model.layers[0].self_attn
    attention.q_proj.weight, attention.k_proj.weight = attention.k_proj.weight, attention.q_proj.weight


def epsilon(model):
    model.model.norm.variance_epsilon = 0.1


def scaling(model):
    model.model.layers[1].self_attn.scaling *= 2


def rotary(model):
    model.model.rotary_emb.inv_freq.mul_(2)


def hook(model):
    model.model.layers[0].register_forward_hook(lambda module, args, output: output)


def forward(model):
    inner = model.model.layers[0].mlp.forward
    model.model.layers[0].mlp.forward = lambda x: inner(x) * 2


def context(model):
    model.config.max_position_embeddings = 7


def half(model):
    model.to(torch.bfloat16)


def tied(model):
    model.lm_head.weight = model.model.embed_tokens.weight


CHANGES = [noise, one_number, merged, adapter, swapped, epsilon, scaling, rotary, hook, forward, context, half, tied]


@pytest.mark.parametrize("fresh", [True, False], ids=["another model", "the same model, described before"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_changes_a_model_changes_what_it_is(change, fresh):
    model = tiny_llama(byte_tokenizer())
    before = told(model)
    if fresh:
        model = tiny_llama(byte_tokenizer())
        assert told(model) == before, "the same weights are the same model"
    with torch.no_grad():
        change(model)
    assert told(model) != before
    assert is_known(model) == (change not in (adapter, hook, forward))


def test_code_inside_a_librarys_class_is_not_known():
    def traced(function):
        return torch.jit.trace(function, torch.ones(2))

    class Double(nn.Module):
        def forward(self, x):
            return x * 2

    class Triple(nn.Module):
        def forward(self, x):
            return x * 3

    pairs = [(traced(Double()), traced(Triple())), tuple(map(torch.fx.symbolic_trace, (Double(), Triple())))]
    for one, other in pairs:
        assert told(one) != told(other)
        assert not is_known(one)


def test_functions_that_a_layer_holds_are_part_of_it():
    seen = set()
    for function in (None, torch.relu, torch.sigmoid, lambda x: x, lambda x: 2 * x):
        model = tiny_llama(byte_tokenizer())
        if function is not None:
            del model.model.layers[0].mlp.act_fn
            model.model.layers[0].mlp.act_fn = function
        seen.add(told(model))
    assert len(seen) == 5


def test_quantised_weights_are_other_weights():
    model = tiny_llama(byte_tokenizer())
    torch.backends.quantized.engine = "fbgemm" if "fbgemm" in torch.backends.quantized.supported_engines else "qnnpack"
    eight = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    noisy = copy.deepcopy(model)
    with torch.no_grad():
        noise(noisy)
    other = torch.ao.quantization.quantize_dynamic(noisy, {nn.Linear}, dtype=torch.qint8)
    assert len({told(model), told(eight), told(other)}) == 3
    assert told(eight) == told(eight)
    quantised = copy.deepcopy(model)
    quantised.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    assert told(quantised) != told(model)


def test_a_large_models_sample_sees_noise_on_every_weight_and_on_one_column(monkeypatch):
    monkeypatch.setattr(weights, "WHOLE", 0)
    monkeypatch.setattr(weights, "SAMPLE", 64)
    for change in (noise, merged, lambda model: model.lm_head.weight[:, 5].add_(1.0)):
        model = tiny_llama(byte_tokenizer())
        weights.forget()
        before = told(model)
        with torch.no_grad():
            change(model)
        weights.forget()
        assert told(model) != before


def test_a_hidden_change_of_one_number_is_seen_when_all_is_read_again():
    model = tiny_llama(byte_tokenizer())
    before = told(model)
    model.lm_head.weight.data[7, 8] += 1.0  # counted nowhere, and beside the probe
    weights.forget()
    assert told(model) != before


def test_where_a_model_came_from_is_no_part_of_it(tmp_path):
    model = tiny_llama(byte_tokenizer())
    for folder in ("a", "b"):
        model.save_pretrained(tmp_path / folder)
    one, other = (LlamaForCausalLM.from_pretrained(tmp_path / folder) for folder in ("a", "b"))
    assert told(one) == told(other)
    used = told(one)
    one.eval()(torch.tensor([[5, 6]]))
    assert told(one) == used, "work does not change it"


def test_weights_that_are_not_in_memory_are_unknown():
    with torch.device("meta"):
        model = LlamaForCausalLM(tiny_config(byte_tokenizer()))
    assert not is_known(model)


# ---- tokenizers ----


def template(tokenizer):
    tokenizer.chat_template = (tokenizer.chat_template or "") + "{# more #}"


def more_tokens(tokenizer):
    tokenizer.add_tokens(["<think>"])


def more_special(tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})


def normaliser(tokenizer):
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def ending(tokenizer):
    tokenizer.eos_token = "<s>"


def longest(tokenizer):
    tokenizer.model_max_length = 99


def splitting(tokenizer):
    tokenizer.split_special_tokens = True


@pytest.mark.parametrize(
    "change",
    [template, more_tokens, more_special, normaliser, ending, longest, splitting],
    ids=lambda change: change.__name__,
)
def test_whatever_changes_a_tokenizer_changes_what_it_is(change):
    tokenizer = byte_tokenizer(chat=True)
    before = told(tokenizer)
    assert told(byte_tokenizer(chat=True)) == before
    change(tokenizer)
    assert told(tokenizer) != before


def test_work_does_not_change_a_tokenizer():
    tokenizer = byte_tokenizer(chat=True)
    before = told(tokenizer)
    tokenizer(["a", "abc"], padding=True, truncation=True, max_length=2)
    tokenizer.padding_side = tokenizer.padding_side
    weights.forget()
    assert told(tokenizer) == before


# ---- judges and processors ----


def test_a_judges_options_are_part_of_it():
    from transformers import LlamaForSequenceClassification

    tokenizer = byte_tokenizer(chat=True)
    torch.manual_seed(0)
    config = tiny_config(tokenizer, num_labels=3, id2label={0: "safe", 1: "toxic", 2: "odd"})
    model = LlamaForSequenceClassification(config)
    made = [
        ClassifierJudge(model, tokenizer, label=["toxic"]),
        ClassifierJudge(model, tokenizer, label=["toxic", "odd"]),
        ClassifierJudge(model, tokenizer, label=["toxic"], reads="response"),
        ClassifierJudge(model, tokenizer, label=["toxic"], max_tokens=100),
    ]
    assert len(set(map(told, made))) == len(made)
    assert all(map(is_known, made))
    assert told(ClassifierJudge(model, tokenizer, label=["toxic"], name="another name")) == told(made[0])


def test_templates_differ_by_every_field():
    base = {"name": "a", "safe": ("no",), "unsafe": ("yes",), "text": "{response}"}
    changes = [
        {}, {"safe": ("safe",)}, {"unsafe": ("bad",)}, {"text": "Q {response}"}, {"chat": True}, {"lead": "\n"},
        {"variables": {"think": True}},
    ]  # fmt: skip
    made = [GuardTemplate(**{**base, **change}) for change in changes]
    assert len(set(map(told, made))) == len(made)


class Own(LogitsProcessor):
    def __init__(self, by):
        self.by = by

    def __call__(self, ids, scores):
        return scores * self.by


def test_logits_processors_are_what_they_do():
    assert told(TemperatureLogitsWarper(0.5)) != told(TemperatureLogitsWarper(0.6))
    assert told(TemperatureLogitsWarper(0.5)) == told(TemperatureLogitsWarper(0.5))
    assert told(Own(1)) != told(Own(2))
    assert not is_known(Own(1))


def test_keys_and_kinds_are_told_apart():
    values = [
        {1: 0},
        {"1": 0},
        [1],
        ["1"],
        (1.0,),
        [None],
        [True],
        [[1]],
        {"a": [1]},
        b"1",
        {1},
        [float("inf")],
        ["inf"],
    ]
    assert len(set(map(told, values))) == len(values)


def test_a_dict_cannot_pass_for_something_else():
    assert told({"float": "inf"}) != told(float("inf"))
    assert is_known({"unknown": "x", "process": "y"})
    assert told({"object": "a", "version": "1"}) != told({"dict": [["object", "a"], ["version", "1"]]})


def test_an_own_models_version_speaks_of_its_code_and_not_of_its_weights():
    model = with_version(LoRA(nn.Linear(32, 32)))
    before = told(model)
    assert is_known(model)
    with torch.no_grad():
        model.up.weight.add_(1)
    assert told(model) != before
