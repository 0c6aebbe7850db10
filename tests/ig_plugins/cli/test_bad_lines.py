"""Command lines that cannot be meant: exit code 2, nothing on standard output, one clear line on standard error."""

import json
import os

import pytest

from ig_plugins import InferenceGuard

COMMANDS = ("demo", "generate", "presets", "evaluate", "calibrate", "train-critic", "bench", "serve")
WORDS = ("", "x", "1.5", "--", "1e3", "0x10", "²", "1,2")  # no whole numbers
NO_NUMBERS = ("", "x", "--", "0x10", "1,2", "one")

WHOLE = {  # options that take a whole number, and such that are out of range
    "demo": {"--prompts": ("0", "-1", "61"), "--seed": ("-1",)},
    "generate": {
        "--candidates": ("0", "-3", "1025"), "--beams": ("0", "99", "-1"), "--block-tokens": ("0", "-16"),
        "--max-tokens": ("0", "-1", "10000000"), "--seed": ("-1", str(2**63)),
    },
    "evaluate": {"--limit": ("0", "-5"), "--seeds": ("0", "-1"), "--max-tokens": ("0", "-2", "10000000")},
    "calibrate": {
        "--limit": ("0", "-5"), "--pilot": ("-1",), "--seed": ("-1",), "--candidates": ("0", "-1", "5000"),
        "--max-tokens": ("0", "-2", "10000000"),
    },
    "train-critic": {
        "--limit": ("0", "-5"), "--responses": ("0",), "--batch": ("0",), "--max-tokens": ("0",), "--seed": ("-1",),
        "--epochs": ("0",),
    },
    "bench": {"--prompt": ("0",), "--candidates": ("0",), "--new": ("0", "-1"), "--block": ("0",), "--repeats": ("0",)},
    "serve": {"--port": ("-1", "65536"), "--max-candidates": ("0",), "--max-memory": ("0", "-1"),
              "--max-queued": ("-1",), "--max-running": ("0",), "--max-answer-tokens": ("0",),
              "--max-tokens": ("0", "-2"), "--candidates": ("0", "-1", "1025")},
}  # fmt: skip
REAL = {  # options that take a number, and such that mean nothing
    "generate": {"--budget": ("0", "-1", "nan", "inf"), "--temperature": ("-1", "nan", "inf"),
                 "--timeout": ("0", "-1", "nan")},
    "evaluate": {"--budget": ("0", "-1", "nan", "inf"), "--multiplier": ("nan", "inf", "-1"),
                 "--judge-limit": ("nan", "inf")},
    "calibrate": {"--target": ("0", "1", "-1", "nan", "0.0001"), "--confidence": ("0", "1", "nan", "inf"),
                  "--judge-limit": ("nan", "-inf")},
    "train-critic": {"--budget": ("0", "nan", "-inf"), "--part": ("", "2", "0/3", "4/3", "a/b")},
    "serve": {"--timeout": ("0", "-1", "nan", "inf"), "--drain-seconds": ("-1", "nan"), "--head-seconds": ("0", "nan")},
}  # fmt: skip
LISTS = {
    "evaluate": {"--candidates": ("", "many", "16,", "0", "-1", "16.5", "nan", "inf", "1e99", "16;64"),
                 "--methods": ("", "magic", "base,base,", "bas", "bon-augmentd", "base,,bon")},
    "calibrate": {"--limits": ("", "nan", "inf", "1,nan", "x", "1,", "-1", "0", "10;20")},
}  # fmt: skip
MODELS = (
    "",
    "nope",
    "tiny-bevaer",
    "tiny-beaver:nope",
    "/nowhere",
    "./nowhere",
    "a/b/c",
    "bundled:nope",
    "\udcff",
    "~",
)
DEVICES = ("cuda", "cuda:9", "gpu", "mps", "meta", "", "cpu:x", "xla")


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    """One guard is held, so that cases that load one find it loaded."""
    held = [InferenceGuard.from_pretrained(name) for name in ("tiny-beaver", "tiny-alpaca")]
    yield
    held.clear()


@pytest.fixture
def place(tmp_path):
    """A folder with what the cases name."""
    (tmp_path / "good.txt").write_text("How do I clean the kettle?\nHow do I clean the oven?\n")
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe")  # neither a file nor a folder, as a device is
    for name, content in PROMPT_FILES.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


PROMPT_FILES = {
    "empty.txt": b"", "blank.txt": b"\n \n", "latin.txt": b"caf\xe9\n", "no.parquet": b"x", "none.jsonl": b"\n",
    "broken.jsonl": b'{"prompt": "a"\n', "number.jsonl": b'{"prompt": 3}\n', "list.jsonl": b"[1]\n",
    "surrogate.jsonl": b'{"prompt": "half \\ud83d of it"}\n', "bare.jsonl": b'"half \\udc00"\n',
    "which.jsonl": b'{"a": "x", "b": "y"}\n', "null.jsonl": b'{"prompt": null}\n', "deep.jsonl": b"[" * 100_000 + b"\n",
    "ragged.csv": b"prompt,b\nx\n", "quote.csv": b'prompt\n"x\n', "header.csv": b"prompt\n",
    "big.csv": b"prompt\n" + b"x" * 200_000,
}  # fmt: skip


def lines():
    """The table: command lines, with PLACE for a folder that holds the files above."""
    prompts = {"generate": ("a prompt",), "train-critic": ("PLACE/good.txt", "--out", "PLACE/out"),
               "evaluate": ("--out", "PLACE/out"), "calibrate": ("--out", "PLACE/out.json"),
               "bench": ("--new", "1")}  # fmt: skip
    for command, options in WHOLE.items():
        for option, bad in options.items():
            for value in (*WORDS, *bad):
                yield (command, *prompts.get(command, ()), f"{option}={value}")
    for command, options in REAL.items():
        for option, bad in options.items():
            for value in (*NO_NUMBERS, *bad):
                yield (command, *prompts.get(command, ()), f"{option}={value}")
    for command, options in LISTS.items():
        for option, bad in options.items():
            for value in bad:
                yield (command, *prompts.get(command, ()), f"{option}={value}")
    for command in ("generate", "evaluate", "calibrate", "train-critic", "serve"):
        for model in MODELS:
            yield (command, *prompts.get(command, ()), "--model", model)
    for command in ("generate", "calibrate", "serve"):
        for option in ("--cost-model", "--reward-model"):
            for source in ("/nowhere", "PLACE/file", "PLACE/folder", "bundled:nope"):
                yield (command, *prompts.get(command, ()), option, source)
    for command in ("evaluate", "calibrate", "train-critic", "bench"):
        for device in DEVICES:
            yield (command, *prompts.get(command, ()), "--device", device)
    for name in (*PROMPT_FILES, "missing.txt", "folder.txt", "file", "file/x.txt", "x" * 300 + ".txt"):
        yield ("train-critic", f"PLACE/{name}", "--out", "PLACE/out")
        yield ("evaluate", "--prompts", f"PLACE/{name}", "--out", "PLACE/out")
        yield ("calibrate", "--prompts", f"PLACE/{name}", "--judge", "exact", "--out", "PLACE/out.json")
    for out in (
        "PLACE/file/x",
        "PLACE/file/x/y",
        "/dev/null/x",
        "/proc/x/y",
        "/sys/x",
        "PLACE/" + "x" * 300,
    ):
        yield ("calibrate", "--target", "0.5", "--out", out)
        yield ("evaluate", "--out", out)
        yield ("train-critic", "PLACE/good.txt", "--out", out)
        yield ("bench", "--full", "--out", out)
    yield from (
        ("calibrate", "--target", "0.5", "--out", "PLACE/pipe"), ("evaluate", "--out", "/dev/full"),
        ("calibrate", "--target", "0.5", "--out", "PLACE/folder"), ("evaluate", "--out", "PLACE/file"),
        ("train-critic", "PLACE/good.txt", "--out", "PLACE/file"), ("bench", "--full", "--out", "PLACE/file"),
        ("calibrate", "--judge", "/nowhere", "--target", "0.5"), ("calibrate", "--judge", "PLACE/folder"),
        ("calibrate", "--prompts", "PLACE/good.txt"), ("evaluate", "--judge", "/nowhere", "--out", "PLACE/out"),
        ("evaluate",), ("train-critic",), ("generate",), ("generate", ""), ("generate", " "), ("generate", "\udce9"),
        ("generate", "a", "b"), ("demo", "more"), ("demo", "--model", "beaver-7b-v3"),
        ("demo", "--model", "tiny-alpac"), ("bench", "--path", "magic"), ("bench", "--path", "segmnts"),
        ("evaluate", "--column", "nope", "--out", "PLACE/out",
         "--prompts", "PLACE/which.jsonl"), ("evaluate", "--critic", "/nowhere", "--out", "PLACE/out"),
        ("calibrate", "--critic", "PLACE/folder", "--target", "0.5", "--out", "PLACE/out.json"),
        ("train-critic", "PLACE/good.txt", "--out", "PLACE/out", "--model", "PLACE/folder"),
        ("serve", "--certificate", "/nowhere"), ("serve", "--certificate", "PLACE/file"),
        ("serve", "--host", "nowhere.invalid"), ("serve", "--host", "256.1.1.1"),
        ("serve", "--certificate", "PLACE/folder"), ("serve", "--api-keys", "/nowhere"),
        ("serve", "--api-keys", "PLACE/blank.txt"), ("serve", "--api-keys", "PLACE/latin.txt"),
        ("serve", "--api-keys", "PLACE/folder"), ("-x",), ("--modle",), ("",),
        ("evaluate", "--train-prompts", "PLACE/missing.txt", "--out", "PLACE/out"),
        ("evaluate", "--prompts", "PLACE/good.txt", "--train-prompts", "PLACE/good.txt", "--out", "PLACE/out"),
    )  # fmt: skip
    for command in COMMANDS:
        yield (f"{command[:-1]}",)
        yield (command.upper(),)
        yield (command, "--nope")
        yield (command, "-q")
        yield (command, *prompts.get(command, ()), "--jsn") if command != "serve" else (command, "--prot", "1")
    for command in ("generate", "evaluate", "calibrate", "train-critic", "serve"):
        yield (command, *prompts.get(command, ()), "--model")
    yield from ((f"{word}",) for word in ("generat", "serv", "calibrat", "helpp", "train_critic", "Generate"))


TABLE = list(dict.fromkeys(lines()))


def test_the_table_is_long():
    assert len(TABLE) >= 300


@pytest.mark.parametrize(
    "line", TABLE, ids=lambda line: " ".join(line)[:60].encode("ascii", "backslashreplace").decode()
)
def test_a_bad_line_is_refused_in_one_line(run, place, monkeypatch, line):
    monkeypatch.chdir(place)
    before = sorted(path.name for path in place.iterdir())
    code, out, err = run(*(word.replace("PLACE", str(place)) for word in line))
    assert code == 2, (code, out, err)
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1, err
    assert len(err) > 20
    assert "Error:" not in err, "an exception's name is no explanation"
    assert sorted(path.name for path in place.iterdir()) == before, "a refused command leaves nothing behind"


@pytest.mark.parametrize(
    ("line", "near"),
    [
        (("generat", "x"), "'generate'"),
        (("generate", "x", "--modle", "tiny-beaver"), "--model"),
        (("generate", "x", "--model", "tiny-bevaer"), "'tiny-beaver'"),
        (("evaluate", "--out", "out", "--methods", "bon-augmentd"), "'bon-augmented'"),
        (("bench", "--path", "segmnts"), "'segments'"),
    ],
)
def test_what_was_perhaps_meant_is_said(run, tmp_path, monkeypatch, line, near):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*line)
    assert code == 2
    assert "Did you mean" in err
    assert near in err


def test_json_on_the_last_line_is_not_cut_by_a_bad_line(run, place):
    code, out, _ = run("presets", "--json")
    assert code == 0
    assert json.loads(out)
