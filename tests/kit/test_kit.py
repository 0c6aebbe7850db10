"""The test kit keeps its own promises."""

import asyncio
import logging
import time
import warnings

import httpx
import pytest
import torch

from ig_plugins.engine import Sampler, sample_block
from tests.kit.fake_engine import FakeEngine
from tests.kit.observe import LeakScanner, count_ticks, fan_out
from tests.kit.scripted import ContractError, ScriptedModel
from tests.kit.tokenizer import byte_tokenizer


def test_bytes_round_trip_and_specials_stay_whole():
    tokenizer = byte_tokenizer()
    text = "Naïve café 🦫\n\ttabs  and spaces"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("</s>a") == [tokenizer.eos_token_id, tokenizer.encode("a")[0]]
    assert len(tokenizer) == 261


def test_chat_template_renders_tools_and_calls():
    tokenizer = byte_tokenizer(chat=True)
    tool = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {}}}
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": [call]}],
        tools=[tool],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert "Looks." in text
    assert '{"name": "look", "arguments": {"at": "sky"}}' in text
    assert text.endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def grown(session, text, tokenizer):
    for token in tokenizer.encode(text):
        session.extend(torch.tensor([[token]]), torch.tensor([[True]]))


def test_trie_gives_answers_with_their_probability():
    tokenizer = byte_tokenizer()
    model = ScriptedModel.from_answers(tokenizer, {"ab": 0.5, "ac": 0.25, "d": 0.25})
    session = model.prefill([tokenizer.encode("?")], lanes=2, block=4, max_new=4)
    first = session.logits.double().softmax(-1)[0, 0]
    a, b, d = (tokenizer.encode(letter)[0] for letter in "abd")
    assert first[a].item() == pytest.approx(0.75, abs=1e-6)
    assert first[d].item() == pytest.approx(0.25, abs=1e-6)
    session.fork(torch.tensor([[0]]))
    grown(session, "a", tokenizer)
    assert session.lane_logits.double().softmax(-1)[0, 0, b].item() == pytest.approx(2 / 3, abs=1e-6)
    grown(session, "b", tokenizer)
    assert session.lane_logits.argmax().item() == tokenizer.eos_token_id


def test_the_engine_samples_whole_answers_from_it():
    tokenizer = byte_tokenizer()
    told = {"ab": 0.5, "acd": 0.5}
    session = ScriptedModel.from_answers(tokenizer, told).prefill([[7], [8]], lanes=40, block=5, max_new=5)
    block = sample_block(
        session,
        torch.zeros(2, 40, dtype=torch.long),
        samplers=[Sampler(), Sampler()],
        uniforms=torch.rand(2, 40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        max_tokens=[5, 5],
        stop_ids={tokenizer.eos_token_id},
    )
    assert block.finished.all()
    lanes = zip(block.tokens.flatten(0, 1).tolist(), block.lengths.flatten().tolist(), strict=True)
    texts = [tokenizer.decode(ids[: length - 1]) for ids, length in lanes]
    assert set(texts) == set(told)
    assert 20 <= texts.count("ab") <= 60


def test_feed_equals_extend_and_commit_moves_beams():
    tokenizer = byte_tokenizer()
    model = ScriptedModel.from_answers(tokenizer, lambda prompt: {prompt + "!": 1.0})
    prompts = [tokenizer.encode("xy"), tokenizer.encode("z")]
    session = model.prefill(prompts, lanes=2, block=2, max_new=3)
    block = torch.tensor([[tokenizer.encode("xy"), tokenizer.encode("qq")], [tokenizer.encode("z!"), [-1, -1]]])
    session.fork(torch.tensor([[0, 0], [0, -1]]))
    fed = session.append(block, torch.tensor([[2, 1], [2, 0]]))
    last = session.lane_hidden
    assert torch.equal(fed[0, 0, 1], last[0, 0])
    assert torch.equal(fed[0, 1, 0], last[0, 1])
    assert session.memory()["block"] == 8 * 5
    session.rollback()
    session.fork(torch.tensor([[0, 0], [0, -1]]))
    for step in range(2):
        session.extend(block[:, :, step].clamp(min=0), torch.tensor([[True, step == 0], [True, False]]))
    assert torch.equal(session.lane_hidden, last)
    session.select(torch.tensor([[0, -1], [0, -1]]))
    assert torch.equal(session.hidden[:, 0], last[:, 0])
    bang = tokenizer.encode("!")[0]
    assert session.logits[0, 0].argmax().item() == bang
    session.keep_rows([1])
    assert session.rows == 1
    assert session.logits[0, 0].argmax().item() == tokenizer.eos_token_id


YES, TOKEN = torch.tensor([[True]]), torch.tensor([[9]])
MISUSES = {
    "no block is open": lambda s: s.extend(TOKEN, YES),
    "still open": lambda s: (s.fork(torch.tensor([[0]])), s.fork(torch.tensor([[0]]))),
    "absent and cannot grow": lambda s: (s.fork(torch.tensor([[-1]])), s.extend(TOKEN, YES)),
    "absent beams \\[1\\]": lambda s: s.fork(torch.tensor([[1]])),
    "only between blocks": lambda s: (s.fork(torch.tensor([[0]])), s.add_rows([[1]])),
    "outside the vocabulary": lambda s: (s.fork(torch.tensor([[0]])), s.extend(torch.tensor([[999]]), YES)),
    "block longer than 1": lambda s: (s.fork(torch.tensor([[0]])), s.extend(TOKEN, YES), s.extend(TOKEN, YES)),
    "3 lanes": lambda s: s.fork(torch.tensor([[0, 0, 0]])),
}


@pytest.mark.parametrize("message", MISUSES)
def test_misuse_is_named(message):
    session = ScriptedModel.from_answers(byte_tokenizer(), {"a": 1.0}).prefill([[7]], lanes=2, block=1, max_new=2)
    with pytest.raises(ContractError, match=message):
        MISUSES[message](session)


async def test_ticks_tell_blocking_from_waiting():
    async def waits():
        await asyncio.sleep(0.1)
        return 7

    async def blocks():
        time.sleep(0.1)

    free, stuck = await count_ticks(waits()), await count_ticks(blocks())
    assert free.result == 7
    assert free.ticks >= 5
    assert stuck.ticks <= 1


def test_fan_out_keeps_order_and_raises():
    assert fan_out(lambda n: n * n, range(20), threads=5) == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        fan_out(lambda n: 1 // n, [1, 0, 2])


def test_scanner_sees_logs_warnings_objects_and_causes():
    class Holder:
        def __init__(self):
            self.deep = [{"key": ("MARK in object",)}]
            self.me = self

    with LeakScanner() as scanner:
        logging.getLogger("kit").debug("value %s", "MARK in log")
        logging.getLogger("kit").info("clean", extra={"note": "MARK in extra"})
        warnings.warn("MARK in warning", stacklevel=1)
        scanner.see("handler", Holder(), answer="MARK by name")
        try:
            try:
                raise ValueError("MARK in cause")
            except ValueError as error:
                raise KeyError("clean") from error
        except KeyError as error:
            scanner.see_exception(error)
    sources = {source for source, _ in scanner.find("mark")}
    assert sources == {"log kit", "warnings", "handler", "exception KeyError", "exception ValueError"}
    excerpts = " ".join(text for _, text in scanner.find("mark"))
    for place in ("object", "log", "extra", "warning", "by name", "cause"):
        assert place in excerpts
    assert scanner.find("absent") == []


def test_a_call_whose_reply_has_come_is_not_in_flight():
    """A test that waits for the next call must not see the last one."""

    class Late(FakeEngine):
        def count(self, step):
            time.sleep(0.05 if step < 0 else 0)
            super().count(step)

    ask = {"prompt": [[1, 5]], "max_tokens": 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    with Late() as engine, httpx.Client(base_url=f"http://127.0.0.1:{engine.port}") as client:
        assert client.post("/v1/completions", json=ask).json()["choices"]
        assert engine.running == 0
        assert max(running for _, running in engine.gauge) == 1


def test_what_a_fake_engine_draws_depends_on_the_prompt_and_the_call_alone():
    def drawn():
        ask = {"max_tokens": 9, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        engine = FakeEngine()
        return [engine.sample(prompt, ask) for prompt in ([1, 5], [1, 6], [1, 5])]

    first = drawn()
    torch.rand(3)
    assert first == drawn()
    assert first[0] != first[2]
