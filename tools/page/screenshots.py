"""Takes the pictures of the page that the docs show: a race under way, and its end, in light and dark.

::

    python tools/page/screenshots.py      serves the package's bundle, and writes docs/images/page-*.png

What is on them is what the model said. Needs Debian's chromium package (or CHROMIUM, a path) and
`pip install playwright pillow`. The page's first font is Inter; without it, the system's is on the pictures.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.sync_api import sync_playwright

FOLDER: Final = Path(__file__).parents[2] / "docs/images"
QUESTION: Final = (
    "Tom has 3 boxes with 8 pencils each. He gives 5 pencils to each of his 2 friends. "
    "How many pencils are left?"
)
TOKENS_BEFORE_RACE: Final = 32
"""What the first stream has said when the race is pictured."""


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", help="of a server that runs already")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--streams", type=int, default=6)
    parser.add_argument("--seed", type=int, default=2)
    arguments = parser.parse_args()
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        sys.exit("there is no chromium: install Debian's package, or name one in CHROMIUM")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, served(arguments.url) as url:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-quic"]
        )
        for scheme in ("light", "dark"):
            page = browser.new_page(
                color_scheme=scheme, viewport={"width": 1180, "height": 800}, device_scale_factor=1.5
            )
            picture(page, url, arguments, scheme)
            page.close()
        phone = browser.new_page(
            color_scheme="light", viewport={"width": 360, "height": 740}, device_scale_factor=2
        )
        picture(phone, url, arguments, "phone")
        browser.close()


@contextmanager
def served(url: str | None) -> Iterator[str]:
    """Where a server is: the one that was named, or one that runs meanwhile."""
    if url is not None:
        yield url
        return
    command = [sys.executable, "-m", "edgereason", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            yield server.stderr.readline().rpartition(" ")[2].strip()
        finally:
            server.terminate()


def picture(page: Any, url: str, arguments: argparse.Namespace, name: str) -> None:
    """Asks, and takes a picture of the race and one of its end."""
    page.goto(url)
    page.locator(".banner").wait_for(state="detached", timeout=120_000)  # the model is loaded
    page.keyboard.press("Alt+s")
    page.get_by_label("Seed").fill(str(arguments.seed))
    page.keyboard.press("Escape")
    page.get_by_role("combobox", name="Streams").select_option(str(arguments.streams))
    field = page.get_by_role("textbox", name="Question", exact=True)
    field.fill(arguments.question)
    field.press("Enter")
    spent = page.locator(".lane .tokens").first
    spent.wait_for(timeout=120_000)
    while int(spent.inner_text().split("/")[0]) < TOKENS_BEFORE_RACE:
        page.wait_for_timeout(20)
    shoot(page, arguments.folder / f"page-race-{name}.png")
    page.locator(".figures span").first.wait_for(timeout=120_000)
    page.wait_for_timeout(800)  # bars and formulas settle
    shoot(page, arguments.folder / f"page-answer-{name}.png")


def shoot(page: Any, path: Path) -> None:
    """Takes a picture; the page has few colours, so a palette holds them in a third of the bytes."""
    page.screenshot(path=path)
    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
