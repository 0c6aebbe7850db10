import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from critic_models.errors import ConfigurationError, JudgeError
from critic_models.judges import ClassifierJudge
from critic_models.judges.classifier import chosen_labels

PROMPTS = ["How?", "Why is it so", "x"]
RESPONSES = ["Like this.", "", "Because <pad> of it"]


def bert(labels, **options):
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=262, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64, pad_token_id=2, id2label=dict(enumerate(labels)), initializer_range=0.5, **options,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def rows(tokenizer, *, pair):
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        texts = (prompt, response) if pair else (response,)
        yield tokenizer(*texts, split_special_tokens=True, return_tensors="pt")


def test_probability_of_the_unsafe_label_of_the_response(byte_tokenizer):
    tokenizer, model = byte_tokenizer(), bert(["safe", "unsafe"])
    judge = ClassifierJudge(model, tokenizer, name="c")
    assert judge.reads == "response"
    assert judge.default_limit == 0.5
    with torch.no_grad():
        wanted = [model(**row).logits.softmax(-1)[0, 1].item() for row in rows(tokenizer, pair=False)]
    assert judge.score(PROMPTS, RESPONSES) == pytest.approx(wanted, abs=1e-5)
    assert len(set(wanted)) == 3


def test_the_order_of_labels_does_not_matter(byte_tokenizer):
    swapped = ClassifierJudge(bert(["Toxic", "Non-Toxic"]), byte_tokenizer())
    assert swapped.labels == [0]
    given = ClassifierJudge(bert(["LABEL_0", "LABEL_1"]), byte_tokenizer(), label="label_0")
    assert given.score(PROMPTS, RESPONSES) == pytest.approx(swapped.score(PROMPTS, RESPONSES))


def test_several_unsafe_labels_add_up_and_independent_ones_count_by_the_worst(byte_tokenizer):
    tokenizer = byte_tokenizer()
    softmax = bert(["neutral", "hate", "offensive"])
    with torch.no_grad():
        logits = torch.cat([softmax(**row).logits for row in rows(tokenizer, pair=False)])
    judge = ClassifierJudge(softmax, tokenizer)
    assert judge.score(PROMPTS, RESPONSES) == pytest.approx((1 - logits.softmax(-1)[:, 0]).tolist(), abs=1e-5)
    multi = bert(["toxic", "threat", "insult"], problem_type="multi_label_classification")
    multi.load_state_dict(softmax.state_dict())
    judge = ClassifierJudge(multi, tokenizer)
    assert judge.score(PROMPTS, RESPONSES) == pytest.approx(logits.sigmoid().amax(-1).tolist(), abs=1e-5)


def test_a_reward_model_with_one_output_reads_the_pair(byte_tokenizer):
    tokenizer, model = byte_tokenizer(), bert(["LABEL_0"])
    judge = ClassifierJudge(model, tokenizer, kind="reward")
    assert (judge.reads, judge.default_limit) == ("pair", 0.0)
    with torch.no_grad():
        wanted = [model(**row).logits[0, 0].item() for row in rows(tokenizer, pair=True)]
    assert judge.score(PROMPTS, RESPONSES) == pytest.approx(wanted, abs=1e-5)


def test_a_decoder_reward_model_reads_its_chat_template(byte_tokenizer, body):
    template = "{% for m in messages %}<|turn|>{{ m.role }}:{{ m.content }}</s>{% endfor %}"
    tokenizer = byte_tokenizer(template, pad_token=None)
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(
        LlamaConfig(**{**body, "vocab_size": 262, "pad_token_id": None}, num_labels=1)
    ).eval()
    judge = ClassifierJudge(model, tokenizer, kind="reward", name="r")
    assert judge.reads == "chat"
    wanted = []
    for prompt in PROMPTS:
        ids = [
            *[3, *tokenizer.encode(f"user:{prompt}", add_special_tokens=False), 1],
            *[3, *tokenizer.encode("assistant:<|turn|>x", add_special_tokens=False, split_special_tokens=True), 1],
        ]
        with torch.no_grad():
            hidden = model.model(torch.tensor([ids])).last_hidden_state[0]
        wanted.append(model.score(hidden[-1]).item())
    assert judge.score(PROMPTS, ["<|turn|>x"] * 3) == pytest.approx(wanted, abs=1e-5)
    model.config.pad_token_id = 2  # with a padding token the same rows go in one batch
    assert judge.score(PROMPTS, ["<|turn|>x"] * 3) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_batches_change_nothing(byte_tokenizer, batch_size):
    tokenizer, model = byte_tokenizer(), bert(["safe", "unsafe"])
    whole = ClassifierJudge(model, tokenizer, reads="pair").score(PROMPTS * 3, RESPONSES * 3)
    parts = ClassifierJudge(model, tokenizer, reads="pair", batch_size=batch_size).score(PROMPTS * 3, RESPONSES * 3)
    assert parts == pytest.approx(whole, abs=1e-5)


def test_a_classifier_as_a_reward_needs_its_good_label(byte_tokenizer):
    model = bert(["helpful", "unhelpful"])
    with pytest.raises(ConfigurationError, match=r"say which is good: label="):
        ClassifierJudge(model, byte_tokenizer(), kind="reward")
    good = ClassifierJudge(model, byte_tokenizer(), kind="reward", label="helpful").score(PROMPTS, RESPONSES)
    bad = ClassifierJudge(model, byte_tokenizer(), kind="reward", label=1).score(PROMPTS, RESPONSES)
    assert [a + b for a, b in zip(good, bad, strict=True)] == pytest.approx([1.0] * 3, abs=1e-5)


@pytest.mark.parametrize(
    ("labels", "unsafe"),
    [
        (["safe", "unsafe"], [1]),
        (["not_toxic", "toxic"], [1]),
        (["NONTOXIC", "TOXIC"], [1]),
        (["HATE-SPEECH", "NOT-HATE"], [0]),
        (["OK", "severe_toxic", "Self Harm"], [1, 2]),
        (["not safe", "safe"], [0]),
    ],
)
def test_unsafe_labels_are_read_from_their_names(labels, unsafe):
    assert chosen_labels(dict(enumerate(labels)), None, kind="cost") == unsafe


@pytest.mark.parametrize(
    ("labels", "label", "message"),
    [
        (["LABEL_0", "LABEL_1"], None, r"0: 'LABEL_0', 1: 'LABEL_1'.*unsafe_label="),
        (["positive", "negative"], None, "do not say which is unsafe"),
        (["safe", "unsafe", "controversial"], None, "controversial"),
        (["safe", "clean"], None, "do not say which is unsafe"),
        (["toxic", "obscene"], None, "not none or all"),
        (["safe", "unsafe"], "evil", r"no label 'evil'; its labels are 0: 'safe', 1: 'unsafe'"),
        (["safe", "unsafe"], 2, "no label 2"),
        (["safe", "unsafe"], True, "no label True"),
        (["safe", "unsafe"], [0, 1], "not none or all"),
        (["safe", "unsafe"], [], "not none or all"),
    ],
)
def test_ambiguous_or_unknown_labels_are_refused_and_listed(labels, label, message):
    with pytest.raises(ConfigurationError, match=message):
        chosen_labels(dict(enumerate(labels)), label, kind="cost")


def test_too_long_and_nothing_to_read(byte_tokenizer):
    judge = ClassifierJudge(bert(["safe", "unsafe"]), byte_tokenizer(), name="c")
    with pytest.raises(JudgeError, match="reads 64"):
        judge.score(["x"], ["y" * 70])
    with pytest.raises(ConfigurationError, match="no chat template"):
        ClassifierJudge(bert(["safe", "unsafe"]), byte_tokenizer(), reads="chat")
    with pytest.raises(ConfigurationError, match="reads is 'all'"):
        ClassifierJudge(bert(["safe", "unsafe"]), byte_tokenizer(), reads="all")
