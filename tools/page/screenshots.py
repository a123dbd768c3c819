"""Takes the pictures of the page that the docs show: a race under way, and its end, in light and dark.

::

    edgereason serve &
    python tools/page/screenshots.py http://127.0.0.1:8080/      writes docs/images/page-*.png

What is on them is what the server said: run it with the bundle of the package. Needs Debian's chromium
package (or CHROMIUM, a path) and `pip install playwright`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import sync_playwright

FOLDER: Final = Path(__file__).parents[2] / "docs/images"
QUESTION: Final = (
    "Sara reads 15 pages a day for 6 days and then 20 pages a day for 3 days. How many pages did she read?"
)
TOKENS_BEFORE_RACE: Final = 40
"""What the first stream has said when the race is pictured."""


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="where the server is")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--streams", type=int, default=4)
    arguments = parser.parse_args()
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        sys.exit("there is no chromium: install Debian's package, or name one in CHROMIUM")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
        )
        for scheme in ("light", "dark"):
            page = browser.new_page(
                color_scheme=scheme, viewport={"width": 1180, "height": 760}, device_scale_factor=1.5
            )
            picture(page, arguments, scheme)
            page.close()
        phone = browser.new_page(
            color_scheme="light", viewport={"width": 360, "height": 740}, device_scale_factor=2
        )
        picture(phone, arguments, "phone")
        browser.close()


def picture(page: Any, arguments: argparse.Namespace, name: str) -> None:
    """Asks, and takes a picture of the race and one of its end."""
    page.goto(arguments.url)
    page.get_by_role("combobox", name="Streams").select_option(str(arguments.streams))
    field = page.get_by_role("textbox", name="Question", exact=True)
    field.fill(arguments.question)
    field.press("Enter")
    spent = page.locator(".lane .tokens").first
    spent.wait_for(timeout=120_000)
    while int(spent.inner_text().split("/")[0]) < TOKENS_BEFORE_RACE:
        page.wait_for_timeout(20)
    page.screenshot(path=arguments.folder / f"page-race-{name}.png")
    page.locator(".figures span").first.wait_for(timeout=120_000)
    page.wait_for_timeout(800)  # bars and formulas settle
    page.screenshot(path=arguments.folder / f"page-answer-{name}.png")


if __name__ == "__main__":
    main()
