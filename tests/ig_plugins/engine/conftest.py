"""A walk over a token tree whose every state is compared with the plain full forward of the same text."""

from copy import deepcopy

import pytest
import torch
import transformers

from ig_plugins.engine import TreeModel

VOCAB = 61
TINY = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny(family, *, bare=False, seed=0, **changes):
    """A random model of a family, as `llama` or `gemma3_text`; weights large enough for attention to matter."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(family, **{**TINY, **deepcopy(changes)})  # which it edits
    maker = transformers.AutoModel if bare else transformers.AutoModelForCausalLM
    model = maker.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    return model


class Walk:
    """Drives a session and keeps, on the side, the plain text of every beam and lane."""

    def __init__(self, model, prompts, *, backend="auto", lanes=6, block=4, max_new=32, seed=0):
        self.tree_model = TreeModel.attach(model, backend=backend)
        self.random = torch.Generator().manual_seed(seed)
        self.session = self.tree_model.prefill(prompts, lanes=lanes, block=block, max_new=max_new)
        self.beams = [[list(prompt)] for prompt in prompts]
        self.lanes = None

    def token(self):
        return int(torch.randint(3, VOCAB, (), generator=self.random))

    def fork(self, parents):
        self.session.fork(torch.tensor(parents))
        self.lanes = [[None if p < 0 else list(self.beams[row][p]) for p in lanes] for row, lanes in enumerate(parents)]

    def extend(self, active):
        tokens = torch.full((len(active), len(active[0])), -1)
        for row, flags in enumerate(active):
            for lane, flag in enumerate(flags):
                if flag:
                    tokens[row, lane] = self.token()
                    self.lanes[row][lane].append(int(tokens[row, lane]))
        self.session.extend(tokens, torch.tensor(active, dtype=torch.bool))

    def append(self, lengths):
        longest = max(max(row) for row in lengths)
        tokens = torch.full((len(lengths), len(lengths[0]), longest), -1)
        for row, counts in enumerate(lengths):
            for lane, count in enumerate(counts):
                new = [self.token() for _ in range(count)]
                tokens[row, lane, :count] = torch.tensor(new, dtype=torch.long)
                if count:
                    self.lanes[row][lane] += new
        hidden = self.session.append(tokens, torch.tensor(lengths))
        for row, counts in enumerate(lengths):
            for lane, count in enumerate(counts):
                assert hidden[row, lane, count:].abs().sum() == 0
                if count:
                    expected, _ = self.reference(self.lanes[row][lane])
                    self.same(hidden[row, lane, :count], expected[-count:])

    def select(self, lanes):
        self.session.select(torch.tensor(lanes))
        self.beams = [[None if n < 0 else self.lanes[row][n] for n in chosen] for row, chosen in enumerate(lanes)]
        self.lanes = None

    def rollback(self):
        self.session.rollback()
        self.lanes = None

    def add_rows(self, prompts):
        self.session.add_rows(prompts)
        self.beams += [[list(prompt)] for prompt in prompts]

    def keep_rows(self, rows):
        self.session.keep_rows(rows)
        self.beams = [self.beams[row] for row in rows]

    @torch.inference_mode()
    def reference(self, ids):
        """Hidden states (T, H) and logits (T, V) of one text, by the plain full forward."""
        model = self.tree_model.body.model
        body = getattr(model, "model", model.base_model)
        text = torch.tensor([ids], device=model.device)
        hidden = body(input_ids=text, use_cache=False).last_hidden_state[0]
        logits = None if body is model else model(input_ids=text, use_cache=False).logits[0]
        return hidden, logits

    @staticmethod
    def same(actual, expected):
        scale = expected.abs().max().clamp(min=1.0)
        torch.testing.assert_close(actual / scale, expected / scale, atol=5e-5, rtol=0)

    def check(self):
        """Every beam's state, and every lane's inside a block, equals the full forward's last one."""
        session = self.session
        slots = getattr(session.backend, "slots", None)
        assert slots is None or slots.beams.flatten(0, 1).any(dim=0).all()  # of a prompt that has left nothing stays
        states = [(self.beams, session.hidden, session.logits)]
        if self.lanes is not None:
            states.append((self.lanes, session.lane_hidden, session.lane_logits))
        for texts, hidden, logits in states:
            assert hidden.isfinite().all()
            for row, many in enumerate(texts):
                for place, ids in enumerate(many):
                    if ids is None:
                        continue
                    expected = self.reference(ids)
                    self.same(hidden[row, place], expected[0][-1])
                    if expected[1] is not None:
                        self.same(logits[row, place], expected[1][-1])
                    else:
                        assert logits is None


def long_walk(model, **options):
    """Ragged prompts, lanes that come and go, feeds, rollback, admission, retention: everything a search does."""
    walk = Walk(model, [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14]], **options)
    walk.check()
    walk.fork([[0], [0]])
    walk.select([[0], [0]])
    walk.check()
    walk.fork([[0, 0, 0, 0], [0, 0, 0, -1]])
    walk.check()
    walk.extend([[1, 1, 1, 1], [1, 1, 1, 0]])
    walk.extend([[1, 0, 1, 1], [0, 1, 1, 0]])
    walk.extend([[1, 0, 0, 1], [0, 1, 0, 0]])
    walk.check()
    walk.select([[3, 0, 1], [1, 2, -1]])
    walk.check()
    walk.fork([[0, 1, 2, 0, 1, 2], [1, 0, 0, 1, -1, -1]])  # a failed try: the beams stay, as lanes that did not grow
    walk.extend([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]])
    walk.select([[3, 4, 5], [3, 2, -1]])
    walk.check()
    walk.fork([[2, 1, 0, 0, 2, -1], [0, 0, 1, 1, 1, 0]])
    walk.append([[2, 0, 3, 1, 1, 0], [4, 1, 0, 2, 2, 3]])
    walk.check()
    walk.rollback()
    walk.check()
    walk.fork([[0, 1, 2], [1, 0, -1]])
    walk.extend([[1, 1, 1], [1, 0, 0]])
    walk.append([[0, 4, 2], [1, 3, 0]])
    walk.extend([[0, 1, 0], [0, 0, 0]])
    walk.check()
    walk.select([[1, 2], [0, 1]])
    walk.add_rows([[20, 21, 22, 23, 24, 25, 26, 27, 28, 29], [30]])
    walk.check()
    walk.fork([[0, 1, 1], [1, 0, 0], [0, 0, -1], [0, 0, 0]])
    for _ in range(4):
        walk.extend([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]])
    walk.check()
    walk.select([[0, 2], [1, 1], [0, -1], [2, 0]])
    walk.keep_rows([3, 0, 2])
    walk.check()
    walk.fork([[0, 1], [1, 0], [0, 0]])
    for _ in range(5):
        walk.extend([[1, 1], [1, 1], [0, 1]])
    walk.select([[0, 1], [1, 0], [1, 0]])
    walk.check()
    return walk


@pytest.fixture
def make_model():
    return tiny


@pytest.fixture
def make_walk():
    return Walk


@pytest.fixture
def walk_everything():
    return long_walk
