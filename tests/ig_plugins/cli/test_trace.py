"""``inferenceguard trace``: one file, from a prompt or from what was saved."""

import json

import pytest

from critic_models.bundled import world
from ig_plugins import GuardResult, InferenceGuard
from ig_plugins.page import Document, page


@pytest.fixture(scope="module")
def guard():
    return InferenceGuard.from_pretrained("tiny-beaver")


def test_a_prompt_becomes_a_page_and_json(run, guard, tmp_path):
    prompt = world.prompts("test", "sensitive")[0]
    html, saved = tmp_path / "out.html", tmp_path / "out.json"
    code, out, err = run("trace", prompt, "--html", html, "--json", saved, "--seed", "3", "--max-tokens", "24")
    assert (code, out) == (0, ""), err
    assert str(html) in err.replace("\n", "")
    document = Document.model_validate_json(saved.read_text(encoding="utf-8"))
    plain = guard.generate(prompt, seed=3, max_tokens=24)
    assert document.result.text == plain.text
    assert document.result.trace.prompt == prompt
    assert document.unguarded is not None
    assert html.read_text(encoding="utf-8") == page(document)


def test_trace_has_no_option_for_what_a_blocked_answer_gives(run, tmp_path):
    """Its page shows the refusal in any case; an option that did nothing would be believed."""
    code, _, err = run("trace", "How?", "--html", tmp_path / "out.html", "--on-block", "raise")
    assert code == 2
    assert "No such option" in err


def test_what_was_saved_becomes_the_same_page_and_nothing_is_asked(run, guard, tmp_path, monkeypatch):
    result = guard.generate("How do I clean the kettle?", seed=1, max_tokens=16, trace=True)
    saved, html = tmp_path / "result.json", tmp_path / "out.html"
    saved.write_text(result.model_dump_json(), encoding="utf-8")
    monkeypatch.setattr(InferenceGuard, "from_pretrained", None)
    code, _, err = run("trace", "--from", saved, "--html", html)
    assert code == 0, err
    assert html.read_text(encoding="utf-8") == page(Document(result=result))


def test_generates_json_is_a_saved_result_without_a_trace(run, guard, tmp_path):
    _, out, _ = run("generate", "How do I clean the kettle?", "--json", "--max-tokens", "8")
    assert GuardResult.model_validate(json.loads(out)).trace is None
    saved = tmp_path / "plain.json"
    saved.write_text(out, encoding="utf-8")
    code, _, err = run("trace", "--from", saved, "--html", tmp_path / "o.html")
    assert code == 2
    assert "a result without a trace" in err.replace("\n", " ")


def test_a_service_that_others_can_reach_does_not_offer_the_page_without_keys(run, tmp_path):
    code, out, err = run("serve", "--ui", "--host", "0.0.0.0", "--model", "no-such-model")
    assert (code, out) == (2, "")
    assert "--ui shows text that did not pass" in " ".join(err.split())  # told before any weights are looked for


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "give a prompt, or a saved result with --from"),
        (["x", "--from", "y.json", "--html", "o.html"], "one of the two"),
        (["x"], "nowhere to write to"),
        (["x", "--html", "/dev/null/o.html"], "--html '/dev/null/o.html' is under '/dev/null'"),
        (["--from", "nothing.json", "--html", "o.html"], "nothing.json' cannot be read"),
        (["x", "--html", "o.html", "--model", "no-such-model"], "no-such-model"),
    ],
)
def test_bad_lines_are_one_clear_line(run, line, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("trace", *line)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "o.html").exists()
