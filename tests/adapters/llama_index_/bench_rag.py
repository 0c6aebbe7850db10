"""How much longer a guarded query engine takes than LlamaIndex's own HuggingFaceLLM on the same weights.

    python tests/adapters/llama_index_/bench_rag.py [--repeats 5] [--answer-tokens 64] [--json]

A random Llama (8 layers of 512, vocabulary 8192) answers questions over 300 made-up manual pages, with about 2,000
tokens of retrieved text in the prompt. Every guard and the unguarded model answer the same questions in turn, in one
process, and the medians are compared. The judges are as large as the policy: a cost model on the policy's own tokens
is a second model that reads the prompt.
"""

import argparse
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.llms import LLM
from llama_index.llms.huggingface import HuggingFaceLLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from critic_models.score_models import ScoreModel
from examples.llama_index_embedding import WordEmbedding
from llama_index.llms.inferenceguard import InferenceGuardLLM
from tests.kit.tokenizer import CHATML

VOCABULARY, PAGES, RETRIEVED = 8192, 300, 9  # nine pages are about 2,000 tokens
CONTEXT = 8192  # LlamaIndex counts with another tokenizer, and splits what it thinks too long into two calls


def pages(count: int = PAGES) -> list[str]:
    """Manual pages of about 240 tokens about made-up parts, so that every page has words of its own."""
    draw = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "il", "os")]
    words = ["".join(draw.choices(syllables, k=draw.choice([2, 3]))) for _ in range(6000)]
    texts = []
    for page in range(count):
        part = words[page]
        told = [f"The {part} goes with the {' '.join(draw.choices(words, k=9))}." for _ in range(14)]
        texts.append(f"Page {page}. How to mend the {part}. " + " ".join(told))
    return texts


def build(folder: Path, texts: list[str]) -> tuple[Path, Path]:
    """Saves the policy and a cost model of the same size, with random weights."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.chat_template = CHATML
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=8,
        max_position_embeddings=CONTEXT,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    torch.manual_seed(0)
    policy, cost = folder / "policy", folder / "cost"
    LlamaForCausalLM(config).save_pretrained(policy)
    ScoreModel.build(config, score_type="cost").save_pretrained(cost)
    fast.save_pretrained(policy)
    fast.save_pretrained(cost)
    return policy, cost


def never_unsafe(prompts: list[str], responses: list[str]) -> list[float]:
    """A judge that costs nothing: what is left is the search alone."""
    return [-1.0] * len(responses)


def contestants(folder: Path, texts: list[str], answer_tokens: int) -> dict[str, LLM]:
    """The unguarded model and the guards, all on one set of weights."""
    policy, cost = build(folder, texts)
    common = {"model": str(policy), "max_tokens": answer_tokens, "device": "cpu", "dtype": "float32"}
    with_model = InferenceGuardLLM(cost_model=str(cost), **common)
    with_callable = InferenceGuardLLM(cost_model=never_unsafe, **common)
    loaded = with_model.guard.components.policy
    plain = HuggingFaceLLM(
        model=loaded.tree.body.model,
        tokenizer=loaded.tokenizer,
        context_window=CONTEXT,
        max_new_tokens=answer_tokens,
        generate_kwargs={"do_sample": True, "temperature": 1.0, "top_k": 0},
        is_chat_model=True,
    )
    return {
        "unguarded (HuggingFaceLLM)": plain,
        "guarded, callable judge, 16 candidates": with_callable,
        "guarded, cost model as large as the policy, 16 candidates": with_model,
    }


def measure(
    *, repeats: int = 5, answer_tokens: int = 64, pick: Callable[[str], bool] = lambda name: True
) -> dict[str, Any]:
    """Medians of interleaved answer times in seconds, by the clock and by the processor, and ratios to the unguarded.

    On a busy machine the processor's time is the one to look at.
    """
    texts = pages()
    index = VectorStoreIndex.from_documents(
        [Document(text=text) for text in texts], embed_model=WordEmbedding(), show_progress=False
    )
    with tempfile.TemporaryDirectory() as folder:
        llms = {n: llm for n, llm in contestants(Path(folder), texts, answer_tokens).items() if pick(n)}
        engines = {name: index.as_query_engine(llm=llm, similarity_top_k=RETRIEVED) for name, llm in llms.items()}
        for llm in llms.values():
            llm.complete("Warm up.")
        wall: dict[str, list[float]] = {name: [] for name in engines}
        cpu: dict[str, list[float]] = {name: [] for name in engines}
        for repeat in range(repeats):
            question = f"How do I mend the {texts[repeat * 7].split()[6].rstrip('.')}?"
            for name, engine in engines.items():
                started, used = time.perf_counter(), time.process_time()
                engine.query(question)
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - used)
        guard = next(llm for llm in llms.values() if isinstance(llm, InferenceGuardLLM)).guard
        found = [node.get_content() for node in index.as_retriever(similarity_top_k=RETRIEVED).retrieve(question)]
        prompt_tokens = guard.count_tokens("\n\n".join([*found, question]))
    return {
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        **_compared("wall", wall),
        **_compared("cpu", cpu),
    }


def _compared(clock: str, seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Medians, and the median over rounds of the ratio to the first contestant in the same round."""
    base, *_ = seconds.values()
    ratios = {name: [time / one for time, one in zip(times, base, strict=True)] for name, times in seconds.items()}
    return {
        f"{clock}_seconds": {name: round(statistics.median(times), 2) for name, times in seconds.items()},
        f"{clock}_ratio": {name: round(statistics.median(each), 2) for name, each in ratios.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--answer-tokens", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    told = measure(repeats=given.repeats, answer_tokens=given.answer_tokens)
    if given.json:
        sys.stdout.write(json.dumps(told) + "\n")
        return
    head = f"prompt {told['prompt_tokens']} tokens, answer {told['answer_tokens']}, {told['repeats']} rounds\n"
    sys.stdout.write(head + "   wall           cpu\n")
    for name in told["wall_ratio"]:
        times = [f"{told[f'{c}_seconds'][name]:6.1f} s {told[f'{c}_ratio'][name]:5.2f} x" for c in ("wall", "cpu")]
        sys.stdout.write("  ".join([*times, name]) + "\n")


if __name__ == "__main__":
    main()
