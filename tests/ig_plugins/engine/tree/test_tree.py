import pytest
import torch

from ig_plugins.engine.tree import Packing, TokenTree, TreeStateError


def test_packing_lists_tokens_row_by_row_and_lane_by_lane():
    packing = Packing.of(torch.tensor([[2, 0, 1], [0, 3, 0]]))
    assert packing.rows.tolist() == [0, 0, 0, 1, 1, 1]
    assert packing.lanes.tolist() == [0, 0, 2, 1, 1, 1]
    assert packing.steps.tolist() == [0, 1, 0, 0, 1, 2]
    assert packing.columns.tolist() == [0, 1, 2, 0, 1, 2]
    assert packing.last.tolist() == [1, 2, 5]
    assert packing.width == 3


def test_an_empty_packing_has_no_tokens():
    assert len(Packing.of(torch.zeros(2, 3, dtype=torch.long))) == 0


def test_depths_continue_the_prompt_the_beam_and_the_lane():
    tree = TokenTree([5, 2])
    tree.fork(torch.tensor([[0, 0], [0, -1]]))
    tree.grow(tree.pack(torch.tensor([[3, 1], [2, 0]])))
    assert tree.depths(tree.pack(torch.tensor([[1, 0], [2, 0]]))).tolist() == [8, 4, 5]
    tree.select(torch.tensor([[1, 0], [0, -1]]))
    assert tree.beams.tolist() == [[1, 3], [2, -1]]
    tree.fork(torch.tensor([[1, 0], [0, 0]]))
    assert tree.depths(tree.pack(torch.ones(2, 2, dtype=torch.long))).tolist() == [8, 6, 4, 4]


def test_rollback_leaves_the_beams_as_they_were():
    tree = TokenTree([5])
    tree.fork(torch.tensor([[0, 0]]))
    tree.grow(tree.pack(torch.tensor([[1, 2]])))
    tree.rollback()
    assert tree.beams.tolist() == [[0]]
    assert tree.grown.numel() == 0


def test_rows_are_admitted_with_one_empty_beam_and_retained_in_the_given_order():
    tree = TokenTree([5, 6])
    tree.fork(torch.tensor([[0, 0], [0, 0]]))
    tree.grow(tree.pack(torch.tensor([[1, 2], [3, 4]])))
    tree.select(torch.tensor([[0, 1], [1, 0]]))
    tree.add_rows([9])
    assert tree.prompts.tolist() == [5, 6, 9]
    assert tree.beams.tolist() == [[1, 2], [4, 3], [0, -1]]
    tree.keep_rows(torch.tensor([2, 0]))
    assert tree.prompts.tolist() == [9, 5]
    assert tree.beams.tolist() == [[0, -1], [1, 2]]


def opened():
    tree = TokenTree([5, 6])
    tree.fork(torch.tensor([[0, -1], [0, 0]]))
    return tree


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda: TokenTree([5]).pack(torch.ones(1, 1)), "call fork"),
        (lambda: TokenTree([5]).select(torch.zeros(1, 1)), "call fork"),
        (lambda: TokenTree([5]).fork(torch.tensor([[1]])), "below 1"),
        (lambda: TokenTree([5]).fork(torch.tensor([[-2]])), "-1"),
        (lambda: TokenTree([5]).fork(torch.tensor([0])), "one row"),
        (lambda: opened().fork(torch.zeros(2, 2)), "fork needs a closed block; call select or rollback"),
        (lambda: opened().add_rows([3]), "add_rows needs a closed block"),
        (lambda: opened().keep_rows(torch.tensor([0])), "keep_rows needs a closed block"),
        (lambda: opened().pack(torch.ones(2, 2, dtype=torch.long)), "absent lane"),
        (lambda: opened().pack(torch.ones(2, 3, dtype=torch.long)), "got"),
        (lambda: opened().select(torch.tensor([[1], [0]])), "absent was chosen"),
    ],
)
def test_misuse_raises_and_says_what_is_wrong(misuse, message):
    with pytest.raises(TreeStateError, match=message):
        misuse()
