"""A real browser, where there is one."""

import shutil

import pytest


@pytest.fixture(scope="module")  # while it runs, its thread has an event loop that other tests would find
def browser():
    """Debian's Chromium, driven by playwright; tests that need it are skipped without."""
    sync = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium")
    with sync.sync_playwright() as running:
        made = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield made
        made.close()
