import gzip
import json

import pytest

from critic_models.errors import ConfigurationError
from critic_models.training.heads.data import Answer, Examples, Pair, folds, read_examples, read_texts


def test_answers_and_pairs_are_told_apart_by_their_columns(tmp_path):
    rows = [
        {"prompt": "p", "response": "r", "label": 1, "more": "ignored"},
        {"prompt": "p", "response": "", "unsafe": False},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ]
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    found = read_examples([path])
    assert found.answers == [Answer("p", "r", 1), Answer("p", "", 0)]
    assert found.pairs == [Pair("q", "a", "b")]
    assert found.kind == "cost"
    assert Examples(pairs=found.pairs).kind == "reward"


def test_csv_is_read_alike(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('prompt,response,label\n"a, b","two\nlines",0\nc,d,1\n')
    assert read_examples([path]).answers == [Answer("a, b", "two\nlines", 0), Answer("c", "d", 1)]
    (tmp_path / "rows.tsv").write_text("prompt\tresponse\na\tb\n")
    assert read_texts(tmp_path / "rows.tsv") == [("a", "b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "p", "response": "r", "label": 2}', r"line 1: label is 2; give 1 for an unsafe answer and 0"),
        ('{"prompt": "p", "response": "r", "label": "unsafe"}', r"label is 'unsafe'; give 1"),
        ('{"prompt": "p", "response": "r", "label": 0.5}', r"label is 0.5"),
        ('{"prompt": "p", "response": "r", "label": null}', r"label is None"),
        ('{"prompt": "p", "response": "r"}', r"no column label \(or unsafe\)"),
        ('{"prompt": "p", "chosen": "same", "rejected": "same "}', r"chosen and rejected are the same text"),
        ('{"prompt": " ", "response": "r", "label": 1}', r"prompt is empty"),
        ('{"prompt": "p", "response": 3, "label": 1}', r"response is int; give a text"),
        ('{"question": "p", "answer": "r"}', r"its columns are 'question', 'answer'; give prompt, response and label"),
        ('\n{"prompt": ', r"line 2: broken JSON"),
        ("[1]", r"line 1: a list; every line is a JSON object"),
        ("", r"holds no rows"),
    ],
)
def test_bad_rows_are_named_with_file_and_line(content, message, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_examples([path])
    assert str(path) in str(caught.value)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match="no data file at"):
        read_examples([tmp_path / "nothing.jsonl"])
    (tmp_path / "rows.parquet").write_text("x")
    with pytest.raises(ConfigurationError, match=r"is no known data file; give one of \.jsonl"):
        read_examples([tmp_path / "rows.parquet"])
    (tmp_path / "rows.csv").write_text("prompt,response,label\na,b\n")
    with pytest.raises(ConfigurationError, match="line 2: not as many fields as the header"):
        read_examples([tmp_path / "rows.csv"])
    (tmp_path / "rows.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_examples([tmp_path / "rows.jsonl.gz"])


def test_folds_part_the_prompts_and_not_the_rows():
    rows = [Answer(f"p{index % 7}", str(index), index % 2) for index in range(40)]
    examples = Examples(rows)
    parts = folds(examples.prompts, 3, seed=1)
    assert sorted(prompt for part in parts for prompt in part) == [f"p{index}" for index in range(7)]
    assert parts == folds(examples.prompts[::-1], 3, seed=1) != folds(examples.prompts, 3, seed=2)
    inside, outside = examples.of(parts[0]), examples.without(parts[0])
    assert not set(inside.prompts) & set(outside.prompts)
    assert len(inside.answers) + len(outside.answers) == 40
    with pytest.raises(ConfigurationError, match="7 prompts cannot be split into 8 parts"):
        folds(examples.prompts, 8, seed=0)
