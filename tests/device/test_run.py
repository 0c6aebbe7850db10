"""The rehearsal of `make device`: every stage at a toy shape on a CPU, kept as it ends."""

import json

import pytest

from tests.device import run


@pytest.fixture
def measured(tmp_path, monkeypatch):
    out = tmp_path / "device.json"

    def main(*arguments):
        monkeypatch.setattr("sys.argv", ["run", "--toy", "--out", str(out), *arguments])
        return run.main(), json.loads(out.read_text()) if out.exists() else {}

    return main


def test_searches_and_guarded_answers_are_measured(measured):
    code, found = measured("--stages", "^N=|guarded|generate|environment")
    assert code == 0
    direct, foreseen = found["guarded N=16"], found["guarded N=16, critic"]
    assert direct["blocked"] == foreseen["blocked"] == 0
    assert foreseen["usage"]["judge_tokens"] < direct["usage"]["judge_tokens"]
    assert found["N=16"]["ratios"]["step/floor"] > 1
    assert set(found["generate"]["seconds"]) == {"1", "16", "64"}


def test_a_small_policy_is_measured_and_its_guarded_answers_by_batch(measured):
    """Its probe passes everything, so that no answer is blocked, and two prompts take more tokens than one."""
    code, found = measured("--stages", "SmolLM2-shaped")
    assert code == 0
    assert found["SmolLM2-shaped N=16"]["ratios"]["step/floor"] > 1
    for size in ("N=16", "N=64"):
        assert f"SmolLM2-shaped {size}" in found
        batches = found[f"SmolLM2-shaped answers {size}"]
        assert batches["1"]["blocked"] == batches["2"]["blocked"] == 0
        assert batches["2"]["tokens"] > batches["1"]["tokens"] > 0
        assert batches["2"]["answers/s"] == pytest.approx(2 / batches["2"]["seconds"])


def test_a_run_that_was_cut_goes_on_with_what_is_missing(measured):
    _, first = measured("--stages", "^N=16$")
    _, second = measured("--stages", "^N=(16|64)$")
    assert set(first) == {"N=16"}
    assert set(second) == {"N=16", "N=64"}
    assert second["N=16"] == first["N=16"]


def test_a_stage_that_fails_is_named_and_the_others_are_measured(measured, monkeypatch):
    monkeypatch.setattr(run, "_tests", lambda device, log: 1 / 0)
    code, found = measured("--stages", "^N=16$|tests")
    assert code == 1
    assert found["tests"]["error"] == "ZeroDivisionError: division by zero"
    assert "step" in found["N=16"]


def test_what_a_machine_lacks_is_named(measured, monkeypatch, capsys):
    monkeypatch.setitem(run.NEEDS, "transformers", "99.0")
    monkeypatch.setitem(run.NEEDS, "no-such-package", "1")
    assert measured() == (2, {})
    said = capsys.readouterr().out
    assert "transformers>=99.0 (has " in said
    assert "no-such-package" in said
    assert "make device-wheels" in said
