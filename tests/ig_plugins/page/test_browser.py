"""The page in a real browser: wide and narrow, light and dark, by keyboard alone, and against texts that attack it."""

import json

import pytest

from ig_plugins.page import Document, Playground, page, playground
from ig_plugins.page.render import Offer, Slider
from tests.ig_plugins.page.conftest import EVIL, document
from tests.kit.guards import MARKER, make_guard

ORIGIN = "http://page.test"


@pytest.fixture(scope="module")
def shown():
    return document()


@pytest.fixture(scope="module")
def refused():
    from tests.ig_plugins.page import conftest

    answers, conftest.ANSWERS = conftest.ANSWERS, {f"{MARKER} a.": 0.5, f"{MARKER} b.": 0.5}
    try:
        return document("Blocked?")
    finally:
        conftest.ANSWERS = answers


def opened(window, text, tmp_path, name="page.html"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    window.goto(path.as_uri())
    return window


def test_texts_stay_texts_and_nothing_is_fetched(window, shown, tmp_path):
    opened(window, page(shown), tmp_path)
    assert window.evaluate("window.broken") is None
    assert window.locator("img").count() == 0
    assert window.inner_text("h1") == shown.result.trace.prompt.replace("\u2028", "\n") or EVIL[
        :40
    ] in window.inner_text("h1")
    assert shown.unguarded.text[:30] in window.inner_text("article:nth-of-type(1) blockquote")
    assert shown.result.text.strip()[:20] in window.inner_text(".guarded blockquote")
    assert [url for url in window.asked if not url.startswith("file:")] == ["data:,"] * window.asked.count("data:,")


def test_it_fits_the_window(window, shown, tmp_path):
    opened(window, page(shown), tmp_path)
    window.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert window.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = window.evaluate(
        "[...document.querySelectorAll('main *')].filter((e) => e.childNodes.length && e.textContent.trim()"
        " && parseFloat(getComputedStyle(e).fontSize) < 10).length"
    )
    assert small == 0


def test_the_keyboard_reaches_every_lane(window, shown, tmp_path):
    opened(window, page(shown), tmp_path)
    tree = window.locator("[role=tree]")
    tree.focus()
    window.keyboard.press("Home")
    said = set()
    for _ in range(12):
        at = tree.get_attribute("aria-activedescendant")
        assert window.locator(f"#{at}").get_attribute("aria-selected") == "true"
        assert window.locator("[role=treeitem][aria-selected=true]").count() == 1
        heading = window.inner_text(".inspector h3")
        assert window.locator(f"#{at}").get_attribute("aria-label") in heading
        said.add(heading)
        window.keyboard.press("ArrowDown")
    assert len(said) == sum(1 for _ in window.locator("[id^=lane-0-]").all())
    window.keyboard.press("End")
    assert "the answer" in window.inner_text(".inspector h3")
    before = tree.get_attribute("aria-activedescendant")
    window.keyboard.press("ArrowLeft")
    window.keyboard.press("ArrowRight")
    assert tree.get_attribute("aria-activedescendant") == before
    window.keyboard.press("Tab")  # out of the map again, to the lists of lanes
    assert window.evaluate("document.activeElement.tagName") == "SUMMARY"
    window.keyboard.press("Enter")
    assert window.evaluate("document.activeElement.parentElement.open") is True


def test_every_lane_is_there_as_text_too(window, shown, tmp_path):
    opened(window, page(shown), tmp_path)
    window.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    told = window.inner_text("section[aria-labelledby=blocks]")
    for each in shown.result.trace.tries:
        for lane in each.lanes:
            assert " ".join(lane.text.split())[:20] in " ".join(told.split())


def test_a_blocked_answer_says_why(window, refused, tmp_path):
    opened(window, page(refused), tmp_path)
    assert refused.result.blocked
    assert refused.result.reason in window.inner_text(".guarded")
    assert window.locator(".badge", has_text="dead end").count() == 3
    assert window.locator(".badge", has_text="tried again").count() == 6
    assert "no line" not in window.inner_text("section[aria-labelledby=budget]")  # the unguarded one has a line


@pytest.mark.parametrize("which", ["shown", "refused", "playground"])
def test_no_serious_accessibility_finding(window, which, request, tmp_path):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    if which == "playground":
        opened(window, playground(SETTINGS).html, tmp_path)
    else:
        opened(window, page(request.getfixturevalue(which)), tmp_path)
        window.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    found = axe.run(window).response["violations"]
    assert [(each["id"], each["impact"], each["nodes"][0]["html"]) for each in found] == []


def test_the_document_can_be_saved(window, shown, tmp_path):
    opened(window, page(shown), tmp_path)
    with window.expect_download() as download:
        window.get_by_role("button", name="Save as JSON").click()
    saved = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert saved == json.loads(shown.model_dump_json())


SLIDERS = (
    Slider(name="budget", label="Budget", least=-2, most=0, step=2 / 49, value=0),
    Slider(name="candidates", label="N", least=1, most=64, step=1, value=8),
    Slider(name="beams", label="K", least=1, most=64, step=1, value=2),
)
OTHER = tuple(each.model_copy(update={"value": 1, "most": 30}) for each in SLIDERS[1:])
SETTINGS = Playground(
    ask="/ui/trace",
    keyed=True,
    offers=(Offer(model="first", sliders=SLIDERS), Offer(model="second", sliders=OTHER)),
)


def test_the_playground_asks_and_shows(window, shown):
    sent = []

    def answer(route):
        sent.append((route.request.headers.get("authorization"), route.request.post_data_json))
        if len(sent) == 1:
            route.fulfill(status=400, json={"error": {"message": "beams is 65, and <b>this</b> is too many"}})
        else:
            route.fulfill(status=200, content_type="application/json", body=shown.model_dump_json())

    served = playground(SETTINGS)
    headers = {"content-security-policy": served.policy, "content-type": "text/html; charset=utf-8"}
    window.route(f"{ORIGIN}/ui", lambda route: route.fulfill(body=served.html, headers=headers))
    window.route(f"{ORIGIN}/ui/trace", answer)
    window.goto(f"{ORIGIN}/ui")
    window.keyboard.type("Tell me.")  # the prompt has the focus
    window.get_by_label("API key").fill("secret")
    window.get_by_label("Seed").fill("4")
    many = window.get_by_label("K", exact=True)
    many.focus()
    for _ in range(9):
        window.keyboard.press("ArrowRight")
    assert window.get_by_label("N", exact=True).input_value() == "11"  # K is at most N
    window.get_by_label("Prompt").focus()
    window.awaited = "Failed to load resource"  # the refusal is a line of the console
    window.keyboard.press("Control+Enter")
    window.locator(".state.bad").wait_for()
    assert "<b>this</b>" in window.inner_text(".state")
    window.get_by_role("button", name="Answer").click()
    window.get_by_role("tree").wait_for()
    assert sent[0] == sent[1]
    key, asked = sent[1]
    assert key == "Bearer secret"
    settings = {"budget": 0, "candidates": 11, "beams": 11, "seed": 4}
    assert asked == {"prompt": "Tell me.", "model": "first", "beside": True, **settings}
    assert window.evaluate("document.activeElement.id") == "view"
    window.get_by_label("Model").select_option("second")
    assert window.get_by_label("N", exact=True).get_attribute("max") == "30"
    window.get_by_role("button", name="Answer").click()
    window.locator(".state", has_text="Answered").wait_for()
    window.wait_for_function("document.activeElement.id === 'view'")
    assert sent[-1][1] == {
        "prompt": "Tell me.",
        "model": "second",
        "beside": True,
        "candidates": 1,
        "beams": 1,
        "seed": 4,
    }


def test_a_drawn_seed_is_shown_as_it_is(window, tmp_path):
    """JavaScript rounds whole numbers from 2^53 on; asked with another seed, the guard gives another answer."""
    guard = make_guard({"Fine.": 1.0}, search={"seed": None})
    for _ in range(3):
        result = guard.generate("How?", seed=None, trace=True)
        assert result.seed < 2**53
        opened(window, page(Document(model="m", result=result)), tmp_path)
        assert str(result.seed) in window.inner_text("header")
