"""A real browser on the page, and a scripted server behind it; run by `make test-browser`.

The tests need Debian's chromium package (or CHROMIUM, a path), Playwright for Python, and npm for axe-core.
Without one of them they are skipped, and say so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_actions import serve
from page_stub import Stub

VENDOR = Path(__file__).parents[2] / "tools/page/vendor.py"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
WATCH = """
    window.violations = [];
    addEventListener('securitypolicyviolation', (event) =>
        window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("needs Debian's chromium package, or CHROMIUM, the path of one")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, checked by its hash."""
    folder = Path(os.environ.get("EDGEREASON_AXE") or tmp_path_factory.mktemp("axe"))
    if not (folder / "axe.min.js").exists():
        if shutil.which("npm") is None:
            pytest.skip("needs npm, or EDGEREASON_AXE, a folder with axe.min.js")
        subprocess.run([sys.executable, str(VENDOR), "--axe", str(folder)], check=True)
    return (folder / "axe.min.js").read_text()


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serve(pace_s=0.005) as stub:
        yield stub


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    """A fresh profile: no conversation, no setting."""
    context = browser.new_context(color_scheme="light", reduced_motion="reduce", accept_downloads=True)
    context.set_default_timeout(10_000)
    context.add_init_script(WATCH)
    yield context
    context.close()


@pytest.fixture
def page(context: Any, stub: Stub) -> Iterator[Any]:
    """The page; whatever a test did, no policy was violated and nothing failed unseen."""
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(stub.url)
    yield page
    assert page.evaluate("window.violations") == []
    assert errors == []
