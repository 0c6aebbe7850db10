import numpy as np
import pytest
import torch

from critic_models.errors import JudgeError
from critic_models.judges import CallableJudge, Judge, as_judge


def lengths(prompts, responses):
    return [len(response) / 10 for response in responses]


def test_a_function_is_a_judge_with_limit_zero_of_its_worst_score():
    judge = as_judge(lengths, kind="cost")
    assert isinstance(judge, Judge)
    assert (judge.name, judge.default_accounting, judge.default_limit, judge.default_discount) == (
        "lengths", "worst", 0.0, 1.0,
    )  # fmt: skip
    assert judge.score(["a", "b"], ["", "four"], finished=[True, False]) == [0.0, 0.4]
    assert as_judge(lengths, name="length", kind="cost").name == "length"


@pytest.mark.parametrize(
    "scores", [[1, 2.5], (1, 2.5), np.array([1, 2.5]), torch.tensor([1, 2.5]), [np.float32(1), torch.tensor(2.5)]]
)
def test_numbers_of_every_kind_become_floats(scores):
    got = CallableJudge(lambda p, r: scores).score(["x", "y"], ["a", "b"])
    assert got == [1.0, 2.5]
    assert all(type(score) is float for score in got)


def test_no_responses_means_no_call():
    def never(prompts, responses):
        raise AssertionError

    assert CallableJudge(never).score([], []) == []


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([0.1], r"returned 1 scores for 2 responses"),
        ([0.1, 0.2, 0.3], r"returned 3 scores for 2"),
        ([0.1, float("nan")], r"response 1 as nan; every score must be a finite number"),
        ([0.1, float("inf")], r"response 1 as inf"),
        (["0.1", "0.2"], r"response 0 as str"),
        ([None, 0.2], r"response 0 as NoneType"),
        ([[0.1], [0.2]], r"response 0 as list"),
        (np.array([[0.1], [0.2]]), r"response 0 as list"),
        ("no", r"returned str"),
        (None, r"returned NoneType"),
        (0.5, r"returned float"),
        (torch.tensor(0.5), r"returned Tensor"),
        ({"a": 1, "b": 2}, r"returned dict"),
        ((x for x in [0.1, 0.2]), r"returned generator"),
    ],
)
def test_anything_but_one_finite_number_each_is_an_error(returned, message):
    with pytest.raises(JudgeError, match=message):
        CallableJudge(lambda p, r: returned, name="f").score(["x", "y"], ["a", "b"])


def test_what_the_function_raises_is_the_cause_and_its_text_stays_out_of_the_message():
    def raises(prompts, responses):
        raise RuntimeError(f"secret: {responses[0]}")

    with pytest.raises(JudgeError, match="judge 'raises' raised RuntimeError") as caught:
        CallableJudge(raises).score(["x"], ["private words"])
    assert "private" not in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_async_function_is_an_error():
    async def later(prompts, responses):
        return [0.0]

    pending = later([], [])
    with pytest.raises(JudgeError, match="returned coroutine"):
        CallableJudge(lambda prompts, responses: pending).score(["x"], ["a"])
    pending.close()


def test_a_string_instead_of_a_list_is_an_error():
    with pytest.raises(JudgeError, match="give lists"):
        CallableJudge(lengths).score("x", "a")
    with pytest.raises(JudgeError, match="1 prompts and 2 responses"):
        CallableJudge(lengths).score(["x"], ["a", "b"])
