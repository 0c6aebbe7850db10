import pytest
import torch
from transformers import LogitsProcessor

from ig_plugins.engine import NonFiniteLogitsError, Sampler, TreeModel, sample_block
from ig_plugins.errors import ConfigurationError, RequestCancelledError

PROMPTS = [[5, 6, 7, 8, 9], [10, 11, 12], [13]]
LANES, T = 4, 6
VOCAB = 61


def uniforms(row, block):
    return torch.rand(LANES, T, dtype=torch.float64, generator=torch.Generator().manual_seed(100 * row + block))


def two_blocks(model, rows, **options):
    """Tokens of two blocks for some of the prompts, sampled in one batch."""
    session = model.prefill([PROMPTS[row] for row in rows], lanes=LANES, block=T, max_new=2 * T)
    options.setdefault("samplers", [Sampler(temperature=1.5)] * len(rows))
    found = []
    for block in range(2):
        parents = torch.tensor([[0, 0, 0, 0] if block == 0 else [1, 0, 1, 1]] * len(rows))
        draws = torch.stack([uniforms(row, block) for row in rows])
        sampled = sample_block(
            session, parents, uniforms=draws, max_tokens=[T] * len(rows), stop_ids={2, 3, 4, 50}, **options
        )
        found.append(sampled)
        session.select(torch.tensor([[2, 0]] * len(rows)))
    return found


@pytest.fixture
def model(make_model):
    return TreeModel.attach(make_model("llama"), backend="masked")


def test_a_batch_samples_what_each_prompt_samples_alone(model):
    together = two_blocks(model, [0, 1, 2])
    for row in range(3):
        alone = two_blocks(model, [row])
        for many, one in zip(together, alone, strict=True):
            assert torch.equal(many.tokens[row], one.tokens[0])
            assert torch.equal(many.finished[row], one.finished[0])
            torch.testing.assert_close(many.hidden[row], one.hidden[0], atol=1e-5, rtol=1e-5)


def test_lanes_end_with_a_stop_id_or_full_and_hold_nothing_behind(model):
    for block in two_blocks(model, [0, 1, 2]):
        for row in range(3):
            for lane in range(LANES):
                length = int(block.lengths[row, lane])
                ids = block.tokens[row, lane].tolist()
                assert ids[length:] == [-1] * (T - length)
                assert not set(ids[: length - 1]) & {2, 3, 4, 50}
                assert bool(block.finished[row, lane]) == (ids[length - 1] in {2, 3, 4, 50})
                assert length == T or block.finished[row, lane]
    assert block.finished.any()
    assert not block.finished.all()


def test_tokens_are_draws_from_the_full_forward(model):
    """Replay each lane with the plain model: the same uniforms give the same tokens."""
    block = two_blocks(model, [0, 1])[0]
    for row in range(2):
        for lane in range(LANES):
            ids = list(PROMPTS[row])
            for step in range(int(block.lengths[row, lane])):
                logits = model.body.reference(torch.tensor([ids]))[1][0, -1:]
                token = Sampler(temperature=1.5).draw(logits, uniforms(row, 0)[lane, step : step + 1])
                assert token.item() == block.tokens[row, lane, step]
                ids.append(token.item())


def test_rows_keep_their_own_settings(model):
    samplers = [Sampler(temperature=0), Sampler(temperature=1.5), Sampler(top_k=3)]
    mixed = two_blocks(model, [0, 1, 2], samplers=samplers)
    for row in range(3):
        alone = two_blocks(model, [row], samplers=[samplers[row]])
        for many, one in zip(mixed, alone, strict=True):
            assert torch.equal(many.tokens[row], one.tokens[0])
    assert (mixed[0].tokens[0] == mixed[0].tokens[0, :1]).all()  # greedy lanes agree


def test_penalties_act_at_their_place_of_the_block(model):
    penalty = torch.zeros(T, VOCAB)
    penalty[0, 20:], penalty[3, :20] = 1e9, 1e9
    session = model.prefill(PROMPTS[:2], lanes=LANES, block=T, max_new=T)
    block = sample_block(
        session,
        torch.zeros(2, LANES, dtype=torch.long),
        samplers=[Sampler(temperature=1.5)] * 2,
        uniforms=torch.stack([uniforms(0, 0), uniforms(1, 0)]),
        max_tokens=[T, 2],
        stop_ids=set(),
        penalties=[penalty, None],
    )
    assert (block.tokens[0, :, 0] < 20).all()
    assert (block.tokens[0, :, 3] >= 20).all()
    assert (block.tokens[1, :, 0] >= 20).any()
    assert (block.lengths[1] == 2).all()


class Recorder(LogitsProcessor):
    """Keeps the ids it was shown."""

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores):
        self.seen += [tuple(ids) for ids in input_ids.tolist()]
        return scores


def test_processors_see_prompt_beam_and_block(model):
    recorder = Recorder()
    session = model.prefill(PROMPTS[:2], lanes=2, block=3, max_new=3)
    block = sample_block(
        session,
        torch.zeros(2, 2, dtype=torch.long),
        samplers=[Sampler(processors=(recorder,))] * 2,
        uniforms=torch.rand(2, 2, 3, dtype=torch.float64),
        max_tokens=[3, 3],
        stop_ids=set(),
        histories=[[PROMPTS[0]], [PROMPTS[1]]],
    )
    for row in range(2):
        for lane in range(2):
            for step in range(3):
                assert (*PROMPTS[row], *block.tokens[row, lane, :step].tolist()) in recorder.seen


def test_what_on_step_raises_ends_the_block_and_rollback_restores_the_session(model):
    session = model.prefill(PROMPTS[:1], lanes=LANES, block=T, max_new=T)
    before, steps = session.hidden.clone(), []

    def cancel():
        steps.append(1)
        if len(steps) == 3:
            raise RequestCancelledError("cancelled")

    with pytest.raises(RequestCancelledError):
        sample_block(
            session, torch.zeros(1, LANES, dtype=torch.long), samplers=[Sampler()], uniforms=uniforms(0, 0)[None],
            max_tokens=[T], stop_ids=set(), on_step=cancel,
        )  # fmt: skip
    assert session.tree.grown.max() == 2
    session.rollback()
    assert torch.equal(session.hidden, before)


def test_nan_weights_raise_and_no_token_is_sampled(make_model):
    model = make_model("llama")
    tree = TreeModel.attach(model, backend="masked")
    session = tree.prefill(PROMPTS[:1], lanes=LANES, block=T, max_new=T)
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    with pytest.raises(NonFiniteLogitsError):
        sample_block(
            session, torch.zeros(1, LANES, dtype=torch.long), samplers=[Sampler()], uniforms=uniforms(0, 0)[None],
            max_tokens=[T], stop_ids=set(),
        )  # fmt: skip


def test_a_bare_body_cannot_sample(make_model):
    session = TreeModel.attach(make_model("llama", bare=True), backend="masked").prefill(
        PROMPTS, lanes=1, block=1, max_new=1
    )
    with pytest.raises(ConfigurationError, match="LM head"):
        sample_block(
            session, torch.zeros(3, 1, dtype=torch.long), samplers=[Sampler()] * 3,
            uniforms=torch.rand(3, 1, 1, dtype=torch.float64), max_tokens=[1] * 3, stop_ids=set(),
        )  # fmt: skip


def merged_and_apart(monkeypatch, tree, **options):
    """The same blocks with lanes that say the same as one, and each by itself; and the tokens fed for either."""
    found, fed, run = [], [], tree.body.run
    monkeypatch.setattr(tree.body, "run", lambda ids, **given: fed.append(ids.numel()) or run(ids, **given))
    monkeypatch.setattr("ig_plugins.engine.decoding.decode.FEW", 0)
    for can_draft in (True, False):
        monkeypatch.setattr("ig_plugins.engine.session.TreeSession.can_draft", can_draft)
        fed.clear()
        found.append((two_blocks(tree, [0, 1, 2], **options), sum(fed)))
    return found


@pytest.mark.parametrize("path", ["segments", "masked"])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.5])
def test_lanes_that_say_the_same_are_one_until_they_differ(make_model, monkeypatch, path, temperature):
    tree = TreeModel.attach(make_model("llama"), backend=path)
    samplers = [Sampler(temperature=temperature), Sampler(temperature=temperature, top_k=9), Sampler(top_p=0.5)]
    (merged, fewer), (apart, most) = merged_and_apart(monkeypatch, tree, samplers=samplers)
    if temperature == 0:
        assert fewer < most
    elif path == "segments":  # masked rows are filled up to the longest
        assert fewer <= most
    for mine, plain in zip(merged, apart, strict=True):
        for name in ("tokens", "lengths", "finished"):
            assert torch.equal(getattr(mine, name), getattr(plain, name))
        torch.testing.assert_close(mine.hidden, plain.hidden, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mine.total, plain.total, atol=1e-4, rtol=1e-4)


def three_alike(tree, room):
    """Three lanes that say the same, as far as their room goes."""
    session = tree.prefill([[5, 6, 7]], lanes=3, block=max(room), max_new=10)
    block = sample_block(
        session,
        torch.tensor([[0, 0, 0]]),
        samplers=[Sampler(temperature=0.0)],
        uniforms=torch.zeros(1, 3, max(room), dtype=torch.float64),
        max_tokens=torch.tensor([room]),
        stop_ids=(),
    )
    return session, block


def test_lanes_with_room_for_more_or_less_stand_at_their_own_ends(make_model, monkeypatch):
    tree = TreeModel.attach(make_model("llama"))
    monkeypatch.setattr("ig_plugins.engine.decoding.decode.FEW", 0)
    session, block = three_alike(tree, [2, 5, 3])
    assert block.lengths.tolist() == [[2, 5, 3]]
    texts = [[5, 6, 7, *lane[lane >= 0].tolist()] for lane in block.tokens[0]]
    for lane, text in enumerate(texts):
        hidden, logits = tree.body.reference(torch.tensor([text]))
        torch.testing.assert_close(block.hidden[0, lane], hidden[0, -1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(session.lane_logits[0, lane], logits[0, -1], atol=1e-3, rtol=1e-3)
    session.select(torch.tensor([[2, 1]]))
    assert session.tree.beams.tolist() == [[3, 5]]


def test_a_follower_can_become_a_beam(make_model, monkeypatch):
    tree = TreeModel.attach(make_model("llama"))
    monkeypatch.setattr("ig_plugins.engine.decoding.decode.FEW", 0)
    session, block = three_alike(tree, [2, 2, 2])
    assert int(session.tree.grown.sum()) == 2  # only one of the three took room
    session.select(torch.tensor([[1, 2]]))
    session.fork(torch.tensor([[1]]))
    session.extend(torch.tensor([[9]]), torch.tensor([[True]]))
    text = [5, 6, 7, *block.tokens[0, 2].tolist(), 9]
    wanted = tree.body.reference(torch.tensor([text]))[0][0, -1]
    torch.testing.assert_close(session.lane_hidden[0, 0], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("few", [0, 100])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.5])
def test_kept_states_are_those_of_the_plain_forward(make_model, monkeypatch, few, temperature):
    """Also of lanes that ran as one for a while, and of drafted ones; zeros behind a lane's end."""
    tree = TreeModel.attach(make_model("llama"))
    monkeypatch.setattr("ig_plugins.engine.decoding.decode.FEW", few)
    session = tree.prefill([[5, 6, 7], [8, 9]], lanes=6, block=8, max_new=8)
    drawn = torch.rand(2, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    block = sample_block(
        session, torch.zeros(2, 6, dtype=torch.long), samplers=[Sampler(temperature=temperature)] * 2, uniforms=drawn,
        max_tokens=torch.tensor([[8, 8, 5, 8, 0, 8]] * 2), stop_ids={3, 11, 12}, keep_states=True,
    )  # fmt: skip
    for row, prompt in enumerate([[5, 6, 7], [8, 9]]):
        for lane, length in enumerate(block.lengths[row].tolist()):
            text = [*prompt, *block.tokens[row, lane, :length].tolist()]
            wanted = tree.body.reference(torch.tensor([text]))[0][0, len(prompt) :]
            torch.testing.assert_close(block.states[row, lane, :length], wanted, atol=1e-4, rtol=1e-4)
            assert not block.states[row, lane, length:].any()
