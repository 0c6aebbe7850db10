import gc

import pytest
import torch

from ig_plugins.engine import Sampler, TreeModel, sample_block
from ig_plugins.engine.tree import TreeStateError
from ig_plugins.errors import PromptError

PATHS = ["segments", "masked", "portable"]
HEADS, WIDE, LAYERS = 4, 8, 2
TOKEN = 2 * LAYERS * HEADS * WIDE * 4  # bytes of one token's keys and values in float32


def search(model, prompts, *, lanes, blocks, depth=4, beams=2, watch=None):
    """Blocks of random tokens with a selection after each."""
    session = model.prefill(prompts, lanes=lanes, block=depth, max_new=blocks * depth)
    for block in range(blocks):
        parents = torch.arange(lanes).expand(len(prompts), -1) % (1 if block == 0 else beams)
        sample_block(
            session,
            parents,
            samplers=[Sampler()] * len(prompts),
            uniforms=torch.rand(len(prompts), lanes, depth, dtype=torch.float64),
            max_tokens=[depth] * len(prompts),
            stop_ids=(),
        )
        if watch is not None:
            watch(session)
        session.select(torch.arange(beams).expand(len(prompts), -1) + lanes - beams)
    return session


def long_tensors(length):
    """Storages of all tensors alive that hold keys or values of at least so many tokens."""
    found = (thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter))
    shapes = ((held.untyped_storage().data_ptr(), held.shape) for held in found if held.dim() == 4)
    return {place: shape for place, shape in shapes if shape[1::2] == (HEADS, WIDE) and shape[2] >= length}


@pytest.mark.parametrize("path", ["segments", "masked"])
def test_the_keys_of_a_prompt_exist_once_whatever_the_lanes(make_model, path):
    model = TreeModel.attach(make_model("llama"), backend=path)
    prompts = [list(range(3, 53)), list(range(4, 44))]
    before = long_tensors(50)
    session = search(model, prompts, lanes=8, blocks=2)
    lanes = torch.zeros(2, 8, dtype=torch.long)
    session.fork(lanes)
    session.extend(lanes + 5, lanes == 0)
    new = {place: shape for place, shape in long_tensors(50).items() if place not in before}
    assert len(new) == 2 * LAYERS  # one tensor of keys and one of values in every layer
    assert all(shape[0] == len(prompts) for shape in new.values())
    assert session.memory()["prompt"] == (50 + 40) * TOKEN


@pytest.mark.parametrize("path", ["segments", "masked"])
def test_memory_grows_with_unique_tokens_only(make_model, path):
    model, seen = TreeModel.attach(make_model("llama"), backend=path), []
    session = search(model, [list(range(3, 33))], lanes=8, blocks=5, beams=2, watch=lambda s: seen.append(s.memory()))
    assert all(memory["block"] == 8 * 4 * TOKEN for memory in seen)
    assert session.memory()["block"] == 0
    for block, memory in enumerate(seen):
        assert memory["beams"] <= 2 * block * 4 * TOKEN
    # The last two lanes of four-token blocks descend from both beams, so nothing but the reserve is allocated twice.
    assert seen[-1]["allocated"] <= (30 + 8 * 4 + 2 * 2 * 5 * 4) * TOKEN


@pytest.mark.parametrize("path", ["segments", "masked"])
@pytest.mark.parametrize("others", [[], [[5, 6, 7, 8]]], ids=["alone", "of two"])
def test_the_room_of_a_long_prompt_goes_when_its_row_leaves(make_model, path, others):
    """A service's batch is never empty: it must not stay as wide as the longest prompt that it has ever held."""
    model = TreeModel.attach(make_model("llama"), backend=path)
    without = search(model, [[5, 6, 7], *others], lanes=4, blocks=2).memory()["allocated"]
    session = search(model, [list(range(3, 61)), [5, 6, 7], *others], lanes=4, blocks=2)
    session.keep_rows(range(1, session.rows))
    assert session.memory()["allocated"] < without + 20 * session.rows * TOKEN  # its prompt took 55 more of each row


@pytest.mark.parametrize("path", ["segments", "masked"])
def test_what_beams_share_is_stored_once(make_model, path):
    session = TreeModel.attach(make_model("llama"), backend=path).prefill([[5, 6, 7]], lanes=4, block=3, max_new=9)
    session.fork(torch.tensor([[0, 0]]))
    session.append(torch.tensor([[[7, 8, 9], [3, 3, 3]]]), torch.tensor([[3, 3]]))
    session.select(torch.tensor([[0]]))
    session.fork(torch.tensor([[0, 0]]))
    session.append(torch.tensor([[[4], [5]]]), torch.tensor([[1, 1]]))
    session.select(torch.tensor([[0, 1]]))
    assert session.memory()["beams"] == (3 + 1 + 1) * TOKEN


def test_a_forward_holds_the_active_lanes_and_nothing_else(make_model, monkeypatch):
    model, fed = TreeModel.attach(make_model("llama"), backend="segments"), []
    run = model.body.run
    monkeypatch.setattr(model.body, "run", lambda ids, **kwargs: fed.append(ids.numel()) or run(ids, **kwargs))
    session = model.prefill([[5, 6, 7], [8, 9]], lanes=3, block=4, max_new=4)
    session.fork(torch.tensor([[0, 0, 0], [0, 0, -1]]))
    for active in ([[1, 1, 1], [1, 1, 0]], [[1, 0, 1], [0, 1, 0]], [[0, 0, 0], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]):
        session.extend(torch.full((2, 3), 7), torch.tensor(active, dtype=torch.bool))
    session.append(torch.full((2, 3, 3), 7), torch.tensor([[3, 0, 1], [0, 2, 0]]))
    assert fed[1:] == [5, 3, 1, 6]


@pytest.mark.parametrize("path", PATHS)
def test_batched_equals_single_whatever_joins_or_leaves(make_model, path):
    """Row 1 searched alone, in a batch, and in a batch that others join and leave."""
    model = TreeModel.attach(make_model("qwen2", num_key_value_heads=2), backend=path)
    random = torch.Generator().manual_seed(0)
    mine = torch.randint(3, 61, (3, 2, 3), generator=random)

    def walk(before, joining, leaving):
        session = model.prefill([*before, [9, 8, 7, 6]], lanes=2, block=3, max_new=9)
        for block in range(3):
            rows, me = session.rows, len(before) - (leaving if block == 2 else 0)
            session.fork(torch.arange(2).expand(rows, -1) % (1 if block == 0 else 2) * torch.ones(rows, 1).long())
            tokens = torch.full((rows, 2, 3), 5 + block)
            tokens[me] = mine[block]
            for step in range(3):
                session.extend(tokens[:, :, step], torch.ones(rows, 2, dtype=torch.bool))
            session.select(torch.tensor([[1, 0]] * rows))
            if block == 1:
                session.keep_rows(range(leaving, rows))
        return session.hidden[len(before) - leaving], session.logits[len(before) - leaving]

    alone = walk([], None, 0)
    for batched in (walk([[3, 4, 5, 6, 7, 8, 9]], None, 0), walk([[3], [4, 5]], None, 2)):
        for one, many in zip(alone, batched, strict=True):
            torch.testing.assert_close(one, many, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("path", PATHS)
def test_misuse_is_refused_and_leaves_the_session_as_it_was(make_model, path):
    session = TreeModel.attach(make_model("llama"), backend=path).prefill([[5, 6]], lanes=2, block=2, max_new=4)
    hidden = session.hidden.clone()
    for misuse in (
        lambda: session.extend(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)),
        lambda: session.fork(torch.tensor([[1]])),
        lambda: session.select(torch.tensor([[0]])),
        lambda: session.add_rows([[]]),
        lambda: session.add_rows([[1] * 127]),
    ):
        with pytest.raises((TreeStateError, PromptError)):
            misuse()
    assert session.rows == 1
    assert torch.equal(session.hidden, hidden)
    session.fork(torch.tensor([[0, 0]]))
    session.extend(torch.tensor([[4, 5]]), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(TreeStateError):
        session.select(torch.tensor([[2]]))
    session.select(torch.tensor([[1]]))
    assert session.hidden.shape == (1, 1, 32)


@pytest.mark.parametrize("path", PATHS)
def test_all_rows_may_leave(make_model, path):
    session = search(TreeModel.attach(make_model("llama"), backend=path), [[5, 6], [7]], lanes=2, blocks=1)
    session.keep_rows([])
    assert session.rows == 0
    assert session.hidden.shape[0] == 0


@pytest.mark.parametrize("path", PATHS)
def test_a_row_of_nan_harms_no_other_row(make_model, path):
    """One token's embedding is NaN: the row that uses it is lost, now and later, and only that row."""
    model = make_model("llama")
    tree = TreeModel.attach(model, backend=path)
    model.model.embed_tokens.weight.data[60] = float("nan")
    session = tree.prefill([[5, 6], [7, 8, 9]], lanes=3, block=2, max_new=8)
    for first in (60, 4):
        session.fork(torch.tensor([[0, 0, 0], [0, 0, 0]]))
        tokens = torch.tensor([[[first, 5], [5, 6], [6, 7]], [[10, 11], [12, 13], [14, 15]]])
        session.append(tokens, torch.tensor([[2, 2, 2], [1, 2, 0]]))
        session.select(torch.tensor([[0, 1], [2, 1]]))  # beam 0 of row 1 has not grown
        assert session.hidden[1].isfinite().all()
    assert session.hidden[0, 0].isnan().all()
    session.fork(torch.tensor([[0, 0], [1, 0]]))
    session.append(torch.tensor([[[4, 5], [5, 5]], [[16, 17], [18, 19]]]), torch.tensor([[2, 1], [2, 1]]))
    expected = tree.body.reference(torch.tensor([[7, 8, 9, 18]]))[0][0, -1]
    torch.testing.assert_close(session.lane_hidden[1, 1], expected, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("prompts", "message"), [([], "no prompt"), ([[5], []], "no tokens"), ([[5] * 125], "125 tokens.*4.*128")]
)
def test_prompts_that_cannot_be_prefilled(make_model, prompts, message):
    with pytest.raises(PromptError, match=message):
        TreeModel.attach(make_model("llama")).prefill(prompts, lanes=2, block=2, max_new=4)


def test_what_an_attached_model_says_of_itself(make_model):
    model = TreeModel.attach(make_model("llama"))
    assert (model.backend, model.hidden_size, model.vocab_size, model.context) == ("segments", 32, 61, 128)
    assert model.dtype == torch.float32


def test_an_attached_model_still_generates_as_before(make_model):
    prompts = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    answers = []
    for attach in (False, True):
        model = make_model("llama")
        if attach:
            TreeModel.attach(model)
        answers.append(model.generate(prompts, attention_mask=mask, max_new_tokens=8, do_sample=False))
    assert torch.equal(*answers)


@pytest.mark.parametrize(
    ("family", "direct"), [("llama", True), ("granite", False), ("cohere", False), ("gemma2", False)]
)
def test_the_head_is_called_directly_only_where_it_gives_the_models_logits(make_model, family, direct):
    options = {"granite": {"logits_scaling": 4.0}, "cohere": {"logit_scale": 0.25}}.get(family, {})
    model = make_model(family, num_key_value_heads=2, head_dim=8, **options)
    assert (TreeModel.attach(model).body.head is not None) == direct


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("path", ["segments", "masked"])
def test_half_precision_stays_near_the_full_forward(make_model, dtype, path):
    model = TreeModel.attach(make_model("llama").to(dtype), backend=path)
    session = search(model, [[5, 6, 7, 8], [9, 10]], lanes=4, blocks=2)
    session.fork(torch.tensor([[0], [1]]))
    assert session.hidden.dtype == dtype
    assert session.lane_hidden.isfinite().all()
    session = model.prefill([[5, 6, 7, 8]], lanes=1, block=3, max_new=3)
    session.fork(torch.tensor([[0]]))
    session.append(torch.tensor([[[20, 30, 40]]]), torch.tensor([[3]]))
    expected = model.body.reference(torch.tensor([[5, 6, 7, 8, 20, 30, 40]]))[0][0, -1].float()
    error = (session.lane_hidden[0, 0].float() - expected).norm() / expected.norm()
    assert error < (0.02 if dtype == torch.float16 else 0.1)
