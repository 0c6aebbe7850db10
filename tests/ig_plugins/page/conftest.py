"""Documents to show, and a browser where there is one."""

import pytest

from ig_plugins.page import Document, unguarded
from tests.kit.browser import browser
from tests.kit.guards import MARKER, make_guard

__all__ = ["browser"]
EVIL = '</script><script>window.broken=1</script><img src=x onerror="window.broken=1">{policy}\u2028'
ANSWERS = {f"{EVIL} fine.": 0.4, "A calm one, and longer.": 0.2, f"{MARKER} {EVIL}": 0.4}


def document(prompt=f"Tell me {EVIL}", **options):
    """What a policy says that would like to be markup."""
    guard = make_guard(ANSWERS, block_tokens=24, tries=3, **options)
    result = guard.generate(prompt, seed=2, trace=True)
    plain = unguarded(guard.components, guard.request(prompt, seed=1))
    return Document(model=EVIL, result=result, unguarded=plain)


@pytest.fixture(params=[(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")], ids=lambda p: f"{p[0]}-{p[1]}")
def window(browser, request):
    """A window of every kind; whatever the page complains about fails the test."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda sent: asked.append(sent.url))
    page.asked, page.awaited = asked, ()
    yield page
    page.close()
    assert [line for line in said if not line.startswith(page.awaited or "\0")] == []
