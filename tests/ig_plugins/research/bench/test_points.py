import json

import pytest

from ig_plugins.research.bench import Case, figures, points

SMALL = Case(prompt=8, candidates=4, beams=1, block=2, new=4, layers=1, width=64, vocabulary=97)


def test_every_axis_and_both_allocators_are_planned():
    wanted = points.points(repeats=2, base=SMALL)
    assert {point.group for point in wanted} == {"targets", "tuned", "blocks", "sampling", *points.CURVES}
    assert len({point.name for point in wanted}) == len(wanted)
    assert {"target-prompt-8", "tuned-candidates-16", "target-prompt-32", "prompts-32", "new-512"} <= {
        point.name for point in wanted
    }


def test_beams_stay_a_quarter_of_the_candidates():
    assert [points.along("candidates", value, SMALL).beams for value in (1, 2, 8, 128)] == [1, 1, 2, 32]
    assert points.along("prompt", 64, SMALL).beams == SMALL.beams


def test_generate_of_n_is_left_out_where_its_copies_take_too_long():
    assert "generate_n" in points.names(Case(prompt=2048, candidates=16))
    assert "generate_n" not in points.names(Case(prompt=4096, candidates=16))


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    measured = []

    def point(name):
        return points.Point(name, "prompt", lambda: measured.append(name) or {"value": len(measured)})

    first = points.measured([point("a"), point("b")], tmp_path / "new")
    next(first)  # and then the machine goes down
    assert [found["value"] for _, found in points.measured([point("a"), point("b")], tmp_path / "new")] == [1, 2]
    assert measured == ["a", "b"]
    assert set(points.read(tmp_path / "new")) == {"a", "b"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The standing cases, two points of a curve and the block times, really measured."""
    monkeypatch.setattr(points, "CURVES", {"prompt": (4, 8)})
    wanted = [point for point in points.points(repeats=1, base=SMALL) if point.group in ("targets", "prompt", "blocks")]
    list(points.measured(wanted, tmp_path))
    return tmp_path


def test_pictures_come_from_the_folder(folder):
    files = figures.draw(points.read(folder), folder)
    assert [file.name for file in files] == ["bench_cases.png", "bench_curves.png", "bench_blocks.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    blocks = json.loads((folder / "blocks.json").read_text())
    assert len(blocks["blocks"]) == 16
    assert figures.draw({}, folder) == []
