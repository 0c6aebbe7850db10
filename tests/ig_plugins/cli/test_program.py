"""The command line as a program among others: files, pipes, full disks, interrupted runs, and what it costs to ask."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from critic_models.bundled import world
from ig_plugins import InferenceGuard, cli
from ig_plugins.guard.certificate import Certificate

MAIN = "from ig_plugins.cli import main; main()"


def program(*arguments, stdout=subprocess.PIPE, shell_limit=None, **environment):
    """A real process; it imports what this one imports."""
    paths = os.pathsep.join(dict.fromkeys(str(Path(path).resolve()) for path in sys.path if path))
    return subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, preexec_fn=shell_limit,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def tiny():
    """Held, so that runs in this process find it loaded."""
    return InferenceGuard.from_pretrained("tiny-beaver")


LOADED = (
    "import sys, atexit, json; before = set(sys.modules); sys.argv = ['inferenceguard', *sys.argv[1:]]\n"
    "atexit.register(lambda: print(json.dumps(sorted(set(sys.modules) - before)), file=sys.stderr))\n" + MAIN
)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--help",), 0, "calibrate"),
        (("--version",), 0, "inferenceguard "),
        ((), 2, "Usage"),
        *(((name, "--help"), 0, "Usage") for name in cli.COMMANDS),
        (("generat", "x"), 2, "Did you mean"),
        (("generate", "x", "--modle", "tiny-beaver"), 2, "Did you mean"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else "",
)
def test_a_help_text_loads_nothing_that_it_does_not_need(arguments, code, says):
    """What takes longer than the text: models, pydantic, rich, and reading what is installed."""
    run = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True)
    assert run.returncode == code
    *said, loaded = run.stderr.splitlines()
    assert says in run.stdout + "\n".join(said)
    ours = {name for name in json.loads(loaded) if name.startswith(("ig_plugins.", "critic_models."))}
    assert {name for name in ours if not name.startswith("ig_plugins.cli")} <= {
        "ig_plugins.call_options", "ig_plugins.errors", "critic_models.errors", "critic_models.safety",
    }  # fmt: skip
    heavy = ("torch", "transformers", "numpy", "pydantic", "rich", "importlib.metadata", "asyncio", "email", "tempfile")
    assert [name for name in heavy if name in json.loads(loaded)] == []
    if arguments[:1] == ("generate",):
        assert "ig_plugins.cli.serve" not in ours, "the command that is asked for, and no other"


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_presets_are_listed_without_torch(more):
    code = (
        "import sys, atexit; sys.argv = ['inferenceguard', 'presets', *sys.argv[1:]]\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n" + MAIN
    )
    ended = subprocess.run([sys.executable, "-c", code, *more], capture_output=True, text=True)
    assert ended.returncode == 0
    assert "beaver-7b-v3" in ended.stdout
    assert ended.stderr.split()[-1] == "False"


def test_version(run):
    from ig_plugins import __version__

    assert run("--version") == (0, f"inferenceguard {__version__}\n", "")


def test_no_arguments_show_the_help(run):
    code, out, err = run()
    assert code == 2
    assert "calibrate" in out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("presets", "--json")])
def test_a_full_disk_behind_standard_output_is_one_line_and_code_2(arguments):
    with open("/dev/full", "w") as full:
        ended = program(*arguments, stdout=full)
    assert ended.returncode == 2
    assert "No space left" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr


def test_a_reader_that_goes_away_ends_the_program_without_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        ended = program("--help", stdout=pipe)
    assert ended.returncode == 1
    assert ended.stderr == ""


def test_an_answer_in_a_file_is_not_wrapped(run, tiny, tmp_path):
    ask = ("generate", "How do I use the hacksaw on the roof?", "--seed", 3)
    with (tmp_path / "answer.txt").open("w") as file:
        assert program(*ask, stdout=file).returncode == 0
    written = (tmp_path / "answer.txt").read_text()
    answer = json.loads(run(*ask, "--json")[1])["text"].strip()
    assert len(answer) > 80
    assert written == answer + "\n"


def test_tables_in_a_file_are_not_cut(run):
    assert max(map(len, run("presets")[1].splitlines())) > 80


def test_a_terminal_that_knows_only_ascii_ends_no_run():
    ended = program("serve", "--help", PYTHONIOENCODING="ascii")
    assert ended.returncode == 0, ended.stderr


def calibration(out, *more):
    settings = ("--limit", 6, "--target", 0.7, "--confidence", 0.8, "--pilot", 0, "--limits", "10", "--max-tokens", 24)
    return ("calibrate", *settings, "--out", out, *more)


def test_a_stopped_calibration_goes_on_where_it_stopped(run, tiny, tmp_path, monkeypatch):
    """Two of six answers, then the power goes; then the rest, and the same certificate as in one go."""
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    assert run(*calibration(whole))[0] == 0
    asked = []
    real = InferenceGuard.generate

    def counted(self, prompt, **options):
        if len(asked) >= 2:
            raise KeyboardInterrupt
        asked.append(prompt)
        return real(self, prompt, **options)

    monkeypatch.setattr("ig_plugins.research.calibration.guarded.TOGETHER", 1)
    monkeypatch.setattr(InferenceGuard, "generate", counted)
    code, _, err = run(*calibration(parts))
    assert code == 130
    assert err.splitlines()[-1] == "error: interrupted; the same line goes on where this one stopped"
    kept = parts.with_name("parts.json.answers.jsonl")
    assert len(kept.read_text().splitlines()) == 3  # what it is of, and two answers
    with kept.open("a") as file:
        file.write('{"limit": 10.0, "pro')  # cut off in the middle of a line
    asked.clear()
    monkeypatch.setattr(InferenceGuard, "generate", lambda self, p, **o: (asked.append(p), real(self, p, **o))[1])
    assert run(*calibration(parts))[0] == 0
    assert len(asked) == 4
    assert not kept.exists()
    assert Certificate.load(parts) == Certificate.load(whole)


def test_an_interrupted_command_says_so(run, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ig_plugins.presets.names", stopped)
    assert run("presets") == (130, "", "error: interrupted\n")


def test_kept_answers_of_another_calibration_are_refused(run, tiny, tmp_path):
    out = tmp_path / "certificate.json"
    kept = out.with_name("certificate.json.answers.jsonl")
    kept.write_text('{"run": "another"}\n')
    code, _, err = run(*calibration(out))
    assert code == 2
    assert "another calibration" in err
    kept.write_text("")
    assert run(*calibration(out))[0] == 0


def test_a_certificate_that_cannot_be_written_loses_no_answer(run, tiny, tmp_path, monkeypatch):
    """The disk was fine when it was looked at, and is full at the end."""
    out = tmp_path / "new" / "certificate.json"

    def full(self, path):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Certificate, "save", full)
        code, _, err = run(*calibration(out))
    assert code == 2
    assert "No space left" in err
    assert len(out.with_name("certificate.json.answers.jsonl").read_text().splitlines()) == 7
    monkeypatch.setattr(InferenceGuard, "generate", lambda *_, **__: pytest.fail("asked again"))
    assert run(*calibration(out))[0] == 0
    assert out.is_file()


@pytest.mark.parametrize(
    "line",
    [
        ("calibrate", "--out", "PLACE/file/certificate.json", "--target", "0.5"),
        ("evaluate", "--out", "PLACE/file"),
        ("evaluate", "--out", "PLACE/out", "--methods", "magic"),
        ("evaluate", "--out", "PLACE/out", "--candidates", "0"),
        ("evaluate", "--out", "PLACE/out", "--judge", "/nowhere"),
        ("calibrate", "--limits", "nan"),
        ("calibrate", "--judge", "/nowhere"),
        ("train-critic", "PLACE/good.txt", "--out", "PLACE/file"),
        ("bench", "--full", "--out", "PLACE/file"),
    ],
)
def test_what_cannot_work_is_refused_before_weights_are_loaded(run, tmp_path, monkeypatch, line):
    (tmp_path / "file").write_text("")
    (tmp_path / "good.txt").write_text("How?\n")
    monkeypatch.setattr(InferenceGuard, "from_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    code, _, err = run(*(word.replace("PLACE", str(tmp_path)) for word in line))
    assert code == 2, err


@pytest.mark.parametrize(
    ("line", "candidates", "beams", "repeats"),
    [
        (("--repeats", "2"), 64, 16, 2),
        (("--candidates", "32"), 32, 8, 3),
    ],
)
def test_bench_on_a_device_takes_what_the_line_says(run, monkeypatch, line, candidates, beams, repeats):
    asked = {}

    def measured(case, *, device, repeats):
        asked.update(candidates=case.candidates, beams=case.beams, device=device, repeats=repeats)
        return asked

    monkeypatch.setattr("ig_plugins.research.bench.run_device", measured)
    code, _, err = run("bench", "--device", "cpu", "--json", *line)
    assert code == 0, err
    assert asked == {"candidates": candidates, "beams": beams, "device": "cpu", "repeats": repeats}


@pytest.mark.parametrize("way", [("--full",), ("--device", "cpu")])
def test_bench_refuses_a_path_where_it_would_not_be_taken(run, tmp_path, way):
    code, _, err = run("bench", "--path", "masked", "--out", tmp_path, *way)
    assert code == 2
    assert f"--path is 'masked', and {way[0]} chooses the path itself" in err


@pytest.mark.parametrize(("command", "module"), [("calibrate", "scipy"), ("evaluate", "matplotlib")])
def test_a_missing_package_is_named_with_its_extra_before_weights_are_loaded(
    run, tmp_path, monkeypatch, command, module
):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else real(name, *rest))
    monkeypatch.setattr(InferenceGuard, "from_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    code, _, err = run(command, "--out", tmp_path / "out")
    assert code == 2
    assert f"{module} is missing; pip install 'inferenceguard[evaluation]'" in err


def test_a_disk_that_takes_nothing_is_found_before_the_work(tmp_path):
    """Every write to a file fails, as on a disk without room."""

    def nothing():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    ended = program(*calibration(tmp_path / "certificate.json"), shell_limit=nothing, PYTHONDONTWRITEBYTECODE="1")
    assert ended.returncode == 2
    # torch 2.6 looks for a temporary folder while it is imported, and finds it out first
    assert "cannot be written: File too large" in ended.stderr or "cannot write: No usable temp" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr


def test_what_made_a_judge_fail_is_shown(run, tiny, tmp_path, monkeypatch):
    def broken(prompt, response):
        raise ValueError("the tokenizer of the judge is gone")

    monkeypatch.setattr(world, "unsafe", broken)
    code, _, err = run(*calibration(tmp_path / "certificate.json"))
    assert code == 2
    assert "the tokenizer of the judge is gone" in err
    assert len(err.strip().splitlines()) <= 2, err  # what can be certified, and the fault


def test_a_bug_is_called_one_and_not_blamed_on_the_user(run, monkeypatch):
    def broken():
        raise AssertionError("impossible")

    monkeypatch.setattr("ig_plugins.presets.names", broken)
    code, _, err = run("presets")
    assert code == 70
    assert "impossible" in err
    assert "report this" in err
    monkeypatch.setenv("INFERENCEGUARD_DEBUG", "1")
    with pytest.raises(AssertionError):
        run("presets")
