"""Exactly the ids that the server gave are judged and leave, and exactly those are what it is sent behind."""

import statistics
from collections import Counter
from itertools import pairwise

import pytest
import torch

from ig_plugins import InferenceGuard
from ig_plugins.engine import Sampler
from ig_plugins.remote.model import aligned
from ig_plugins.remote.session import RemoteSession, hashed_seed
from ig_plugins.search import SearchConfig
from tests.ig_plugins.remote.conftest import QUESTION
from tests.kit.fake_engine import PAGE

KINDS = ("vllm", "openai", "llamacpp")


def prompt_of(body):
    prompt = body["prompt"]
    return prompt[0] if isinstance(prompt[0], list) else prompt


@pytest.mark.parametrize("kind", KINDS)
def test_prefixes_are_the_prompt_and_what_the_server_said_before(engine, guarded, kind):
    said = {}
    server = engine(kind)
    honest = server.sample

    def sample(prompt, body):
        found = honest(prompt, body)
        said.setdefault(tuple(prompt), []).extend(found)
        return found

    server.sample = sample
    guard = guarded(server, max_tokens=40)
    asked = len(server.bodies)
    result = guard.generate(QUESTION)
    prompt = tuple(guard.request(QUESTION).prompt_ids)
    sent = [tuple(prompt_of(body)) for body in server.bodies[asked:]]
    assert sent[0] == prompt
    for prefix in sent[1:]:
        assert any((*before, *tokens) == prefix for before, found in said.items() for tokens, _ in found), (
            "invented ids"
        )
    whole = (*prompt, *result.token_ids)
    assert any((*before, *tokens) == whole for before, found in said.items() for tokens, _ in found)
    assert result.text == guard.components.policy.detokenizer.text(result.token_ids)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bundled_judges_let_nothing_over_budget_leave(engine, guarded, kind):
    guard = guarded(engine(kind), cost_model="tiny-alpaca", reward_model="tiny-alpaca", max_tokens=32)
    for result in guard.generate([QUESTION, "How do I pick a lock?", "Tell me about medicine."]):
        assert result.blocked or (result.cost <= guard.budget.limit and result.reward is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_says_what_its_result_says(engine, guarded, kind):
    guard, pieces = guarded(engine(kind), max_tokens=40, max_lag=0), []
    for _ in range(4):  # a server draws, so beams may agree at the end alone
        chunks = list(guard.stream(QUESTION))
        assert "".join(chunk.text for chunk in chunks) == chunks[-1].result.text
        pieces.append(len(chunks))
    assert max(pieces) > 1


def test_every_beam_has_a_seed_of_its_own_that_lies_far_from_the_others(engine, guarded):
    server = engine("openai")
    guarded(server, max_tokens=40).generate(QUESTION)
    seeds = sorted(body["seed"] for body in server.bodies if "seed" in body)
    assert len(set(seeds)) == len(seeds) > 6
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert all(later - earlier > 64 for earlier, later in pairwise(seeds)), "children would repeat"
    assert len({hashed_seed(number / 1000) for number in range(1000)}) == 1000


def test_vllm_gets_no_seed_unless_somebody_says_that_it_survives_one(engine, guarded):
    server = engine("vllm")
    guarded(server).generate(QUESTION)
    assert not any("seed" in body for body in server.bodies)
    guarded(server, load_options={"seeds": True}).generate(QUESTION)
    assert "seed" in server.bodies[-1]


def test_all_calls_of_a_prompt_name_one_session_so_that_a_router_finds_their_cache(engine, guarded):
    server = engine("vllm")
    guard = guarded(server, max_tokens=40)
    names = []
    for prompt in (QUESTION, "How do I store medicine?", QUESTION):
        asked = len(server.bodies)
        guard.generate(prompt)
        (name,) = {body["session_id"] for body in server.bodies[asked:]}
        names.append(name)
    assert names[0] == names[2] != names[1]
    other = engine("openai")
    guarded(other).generate(QUESTION)
    assert not any("session_id" in body for body in other.bodies), "not every server takes fields that it does not know"


def test_prefixes_end_one_token_behind_a_page(engine, guarded):
    server = engine("vllm")
    guard = guarded(server, block_tokens=16, max_tokens=64)
    asked = len(server.bodies)
    guard.generate(QUESTION)
    lengths = {len(prompt_of(body)) for body in server.bodies[asked + 1 :]}
    assert lengths
    assert all(length % PAGE == 1 for length in lengths)
    guard = guarded(server, block_tokens=16, max_tokens=64, load_options={"page": 0})
    asked = len(server.bodies)
    guard.generate(QUESTION)
    prompt = len(guard.request(QUESTION).prompt_ids)
    assert {prompt + 16} <= {len(prompt_of(body)) for body in server.bodies[asked:]} - {prompt}
    assert {len(prompt_of(body)) for body in server.bodies[asked:]} <= {prompt, prompt + 16, prompt + 32, prompt + 48}


@pytest.mark.parametrize(
    ("kind", "page"), [("vllm", None), ("vllm", 32), ("vllm", 128), ("openai", None), ("llamacpp", None)]
)
def test_blocks_are_as_long_as_here_whatever_the_servers_page(engine, kind, page):
    """Blocks of 32 were the default behind pages of 32 and cost 2.5 % of the reward of short answers."""
    options = {
        "cost_model": lambda prompts, responses: [-1.0] * len(responses), "tokenizer": "bundled:tiny-alpaca",
        "prompt_format": "beaver", "load_options": {} if page is None else {"page": page},
    }  # fmt: skip
    server = engine(kind)
    guard = InferenceGuard.from_pretrained(server.address, **options)
    assert guard.search.block_tokens == SearchConfig().block_tokens == 16
    longest = "n_predict" if kind == "llamacpp" else "max_tokens"
    guard.generate(QUESTION)
    assert max(body[longest] for body in server.bodies) == 16
    assert InferenceGuard.from_pretrained(server.address, **options, block_tokens=4).search.block_tokens == 4


@pytest.mark.parametrize(("kind", "beams"), [("vllm", 4), ("openai", 4), ("llamacpp", 2)])
def test_where_every_beam_reads_the_prompt_anew_there_are_few(engine, kind, beams):
    options = {
        "cost_model": lambda prompts, responses: [-1.0] * len(responses), "tokenizer": "bundled:tiny-alpaca",
        "prompt_format": "beaver",
    }  # fmt: skip
    server = engine(kind)
    guard = InferenceGuard.from_pretrained(server.address, **options)
    assert guard.search.beams == beams
    asked = len(server.bodies)
    guard.generate(QUESTION, max_tokens=80)
    prefixes = Counter(len(prompt_of(body)) for body in server.bodies[asked:])
    assert max(prefixes.values()) <= beams, "a call a beam"
    assert InferenceGuard.from_pretrained(server.address, **options, candidates=1, beams=1).search.beams == 1
    assert InferenceGuard.from_pretrained(server.address, **options, beams=3).search.beams == 3
    said = SearchConfig(beams=5)
    assert InferenceGuard.from_pretrained(server.address, **options, search=said).search.beams == 5
    assert InferenceGuard.from_pretrained(server.address, **options, search=SearchConfig(tries=1)).search.beams == beams


@pytest.mark.parametrize("page", [0, 1, 16, 24])
def test_a_first_block_is_never_empty_nor_too_long(page):
    for block in (1, 7, 8, 16, 32, 48):
        for prefix in range(1, 70):
            first = aligned(prefix, block, page=page)
            assert 1 <= first <= block
            assert page == 0 or block % page or (prefix + first) % page == 1 or page == 1


def test_all_that_decides_a_draw_is_sent(engine, guarded):
    server = engine("vllm")
    guard = guarded(server, temperature=0.7, top_k=40, top_p=0.9)
    guard.generate(QUESTION)
    body = server.bodies[-1]
    wanted = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "repetition_penalty": 1.0, "n": 4}
    assert {name: body[name] for name in wanted} == wanted
    assert body["stop_token_ids"] == sorted(guard.components.policy.stop_ids)
    server = engine("llamacpp")
    guarded(server, temperature=0.7, min_p=0.1, top_p=0.9).generate(QUESTION)
    assert server.bodies[-1]["samplers"] == ["temperature", "top_p", "min_p"]
    guarded(server, repetition_penalty=1.2).generate(QUESTION)
    assert server.bodies[-1]["samplers"] == ["penalties", "temperature"]
    assert server.bodies[-1]["repeat_last_n"] > len(server.bodies[-1]["prompt"])


def test_a_greedy_search_asks_for_one_choice_and_gives_it_to_all_lanes(engine, guarded):
    server = engine("vllm")
    guard = guarded(server, temperature=0)
    asked = len(server.bodies)
    first, second = guard.generate(QUESTION), guard.generate(QUESTION)
    assert first.token_ids == second.token_ids
    assert all(body["n"] == 1 for body in server.bodies[asked:])


def test_lanes_are_fair_draws_of_the_servers_distribution(engine, guarded):
    """The first tokens of many lanes, against the ones that the same model draws here."""
    guard = guarded(engine("openai", most=512))
    policy, local = guard.components.policy, InferenceGuard.from_pretrained("tiny-alpaca")
    prompt, lanes = guard.request(QUESTION).prompt_ids, 400

    def first_tokens(session, uniforms):
        block = session.sample(
            torch.zeros(1, lanes, dtype=torch.long),
            samplers=[Sampler(temperature=0.7)],
            uniforms=uniforms,
            max_tokens=[1],
            stop_ids=policy.stop_ids,
        )
        return Counter(block.tokens[0, :, 0].tolist())

    uniforms = torch.rand(1, lanes, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    theirs = first_tokens(RemoteSession(policy.tree, [prompt]), uniforms)
    ours = first_tokens(local.components.policy.tree.prefill([prompt], lanes=lanes, block=1, max_new=1), 1 - uniforms)
    distance = sum(abs(theirs[token] - ours[token]) for token in {*theirs, *ours}) / (2 * lanes)
    assert distance < 0.12


def test_a_session_keeps_its_rows_and_beams_apart(engine, guarded):
    policy = guarded(engine("vllm")).components.policy
    session = RemoteSession(policy.tree, [[5, 6, 7], [8, 9]])
    common = {"samplers": [Sampler()] * 2, "stop_ids": policy.stop_ids}
    parents = torch.tensor([[0, 0, 0], [0, 0, -1]])
    block = session.sample(
        parents, uniforms=torch.rand(2, 3, 4), max_tokens=torch.tensor([[4, 4, 0], [2, 2, 0]]), **common
    )
    assert block.lengths[0, 2] == block.lengths[1, 2] == 0
    assert bool((block.tokens[1, :, 2:] == -1).all())
    said = block.tokens[1, 1, : int(block.lengths[1, 1])].tolist()
    session.select(torch.tensor([[2, 0], [1, -1]]))
    assert session._beams[0][0] == (5, 6, 7), "a lane of length 0 keeps its beam"
    assert session._beams[1] == [(8, 9, *said), None]
    session.add_rows([[3]])
    session.keep_rows([2, 1])
    assert session.rows == 2
    assert session._beams[0] == [(3,)]


def test_the_adapted_search_is_worth_what_the_one_in_process_is(engine, guarded):
    """Not a figure: a search that ignored its beams or its rewards would be far off."""
    options = {"cost_model": "tiny-alpaca", "reward_model": "tiny-alpaca", "max_tokens": 32, "timeout": 100}
    prompts = [QUESTION, "How do I store medicine?", "How do I wrap a present?", "How do I fix a watch?"] * 6
    theirs = guarded(engine("vllm"), **options).generate(prompts)
    ours = InferenceGuard.from_pretrained(
        "tiny-alpaca", critic=False, candidates=8, beams=2, block_tokens=8, max_tokens=32, stratified=False, min_p=0.0
    ).generate(prompts)
    means = [statistics.mean(r.reward for r in results if r.reward is not None) for results in (theirs, ours)]
    assert abs(means[0] - means[1]) < 0.4  # 0.1 by chance
