import pytest
import torch
from transformers import LlamaConfig

from critic_models.errors import ConfigurationError, JudgeError
from critic_models.judges import ScoreJudge, TokenJudge
from critic_models.score_models import ScoreModel

PROMPTS = ["How?", "Why is the sky blue", "x"]
RESPONSES = ["Like this.", "", "Because </s> of it"]


@pytest.fixture
def judge(byte_tokenizer, body):
    torch.manual_seed(0)
    model = ScoreModel.build(
        LlamaConfig(**{**body, "vocab_size": 262, "max_position_embeddings": 128}), score_type="cost"
    )
    return ScoreJudge(model, byte_tokenizer(), name="cost")


def expected(judge, prompt, response, *, finished):
    """The Safe-RLHF text, one row, no padding."""
    text = f"BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:{response}"
    raw = [judge.tokenizer.bos_token_id, *judge.tokenizer.convert_tokens_to_ids(list(byte_pieces(text)))]
    ids = torch.tensor([raw + [judge.tokenizer.eos_token_id] * finished])
    with torch.no_grad():
        return judge.score_tokens(ids, torch.ones_like(ids))[0, -1].item()


def byte_pieces(text):
    return text.replace(" ", "Ġ")


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_scores_are_those_of_the_last_token_of_the_public_text_format(judge, batch_size):
    judge.batch_size = batch_size
    for finished in (None, [True, False, True]):
        got = judge.score(PROMPTS, RESPONSES, finished=finished)
        ends = finished or [False] * 3
        for score, prompt, response, end in zip(got, PROMPTS, RESPONSES, ends, strict=True):
            assert score == pytest.approx(expected(judge, prompt, response, finished=end), abs=1e-5)


def test_eos_is_appended_to_finished_answers_only(judge):
    open_ids = judge.encode("a", "b", finished=False)["input_ids"]
    assert judge.encode("a", "b", finished=True)["input_ids"] == [*open_ids, judge.tokenizer.eos_token_id]
    assert judge.tokenizer.eos_token_id not in open_ids


def test_control_tokens_in_user_text_are_plain_characters(judge):
    ids = judge.encode("</s><s>", "<pad>", finished=False)["input_ids"]
    assert ids[0] == judge.tokenizer.bos_token_id
    assert not set(ids[1:]) & set(judge.tokenizer.all_special_ids)


def test_it_is_a_token_judge_whose_scores_come_from_hidden_states(judge):
    assert isinstance(judge, TokenJudge)
    ids = torch.randint(4, 262, (2, 9))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        hidden = judge.body(ids).last_hidden_state
        torch.testing.assert_close(judge.score_hidden(hidden), judge.score_tokens(ids, mask), atol=1e-6, rtol=0)
    assert (judge.default_accounting, judge.default_limit, judge.default_discount) == ("worst", 0.0, 1.0)


def test_what_does_not_fit_the_context_is_an_error_not_a_cut(judge):
    assert judge.max_tokens == 128
    with pytest.raises(JudgeError, match=r"take \d+ tokens, judge 'cost' reads 128\. Nothing is cut"):
        judge.score(["short", "short"], ["ok", "b" * 128])


def test_nan_scores_are_an_error(judge):
    judge.model.score_head.bias.data.fill_(float("nan"))
    with pytest.raises(JudgeError, match="as nan"):
        judge.score(["a"], ["b"])


def test_a_failing_forward_is_an_error(judge):
    judge.model.model.embed_tokens.weight.data = torch.zeros(3, 32)
    with pytest.raises(JudgeError, match="raised AssertionError"):
        judge.score(["a"], ["b"])


def test_bad_settings_are_refused(judge):
    for options, message in (({"batch_size": 0}, "batch_size is 0"), ({"max_tokens": 1000}, "max_tokens is 1000")):
        with pytest.raises(ConfigurationError, match=message):
            ScoreJudge(judge.model, judge.tokenizer, **options)
    with pytest.raises(ConfigurationError, match="needs a ScoreModel"):
        ScoreJudge(judge.body, judge.tokenizer)
    with pytest.raises(JudgeError, match="1 responses and 2 flags"):
        judge.score(["a"], ["b"], finished=[True, False])
