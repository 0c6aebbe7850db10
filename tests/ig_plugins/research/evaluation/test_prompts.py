"""A prompt file is read as written, or its fault is named with its line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ig_plugins.errors import ConfigurationError
from ig_plugins.research.evaluation.prompts import load_prompts

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
def test_json_lines_round_trip(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("p") / "p.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": t, "kind": "x"}) for t in texts) + "\n")
    loaded = load_prompts(path)
    assert [p.text for p in loaded] == texts
    assert {p.group for p in loaded} == {"x"}


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.jsonl", '"one"\n\n"two"\n', ["one", "two"]),
        ("a.jsonl", '{"Question": "one", "answer": "n"}\n', ["one"]),
        ("a.jsonl", '{"strange": "one"}', ["one"]),
        ("a.jsonl", b'\xef\xbb\xbf{"prompt": "one"}\r\n{"prompt": "two"}\r\n', ["one", "two"]),
        ("a.csv", 'id,prompt\n1,"one, with\nbreak"\n2,two\n', ["one, with\nbreak", "two"]),
        ("a.tsv", "prompt\tkind\none\tb\n", ["one"]),
        ("a.txt", "one\n\n  two\n", ["one", "two"]),
    ],
)
def test_formats(tmp_path, name, content, texts):
    assert [prompt.text for prompt in load_prompts(write(tmp_path, name, content))] == texts


def test_column_and_limit(tmp_path):
    path = write(tmp_path, "a.csv", "prompt,other\na,b\nc,d\n")
    assert [p.text for p in load_prompts(path, column="other")] == ["b", "d"]
    assert [p.text for p in load_prompts(path, limit=1)] == ["a"]


def test_lines_are_those_of_the_file(tmp_path):
    path = write(tmp_path, "a.jsonl", '\n"x"\n\n"y"')
    assert [p.line for p in load_prompts(path)] == [2, 4]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "holds no prompts"),
        ("a.jsonl", "\n \n", "holds no prompts"),
        ("a.csv", "prompt\n", "holds no prompts"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": \n', r"line 2: broken JSON .* at column"),
        ("a.jsonl", '{"prompt": "a"}\n[1]\n', "line 2: a list"),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": "  "}\n', "line 2: 'prompt' is empty"),
        ("a.jsonl", '{"prompt": 3}\n', "line 1: 'prompt' is a int"),
        ("a.jsonl", '{"a": "x", "b": "y"}\n', "line 1: which column.*'a', 'b'"),
        ("a.jsonl", '{"prompt": "x"}\n{"text": "y"}\n', "line 2: no column 'prompt'; it has 'text'"),
        ("a.csv", "prompt,kind\na,b\nc\n", "line 3: 1 fields, the header has 2"),
        ("a.csv", "prompt,kind\na,b,c\n", "line 2: 3 fields, the header has 2"),
        ("a.csv", 'prompt\nfine\n"never closed\n', "line 3: broken CSV"),
        ("a.txt", b"fine\n\xff\xfe\n", "line 2: not UTF-8"),
        ("a.xlsx", "", "not a known prompt file.*jsonl"),
    ],
)
def test_faults_are_named_with_their_line(tmp_path, name, content, message):
    with pytest.raises(ConfigurationError, match=message):
        load_prompts(write(tmp_path, name, content))


def test_missing_file_folder_column_and_limit(tmp_path):
    with pytest.raises(ConfigurationError, match="no prompt file at"):
        load_prompts(tmp_path / "none.jsonl")
    (tmp_path / "d.jsonl").mkdir()
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_prompts(tmp_path / "d.jsonl")
    path = write(tmp_path, "a.csv", "prompt\nx\n")
    with pytest.raises(ConfigurationError, match="no column 'wrong'; it has 'prompt'"):
        load_prompts(path, column="wrong")
    with pytest.raises(ConfigurationError, match="limit is 0"):
        load_prompts(path, limit=0)
