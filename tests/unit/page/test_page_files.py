"""The page's files: small, free of HTML from strings, and vendored as VENDOR.json says."""

from __future__ import annotations

import gzip
import json
import re
from hashlib import sha256
from pathlib import Path

PAGE = Path(__file__).parents[3] / "src/edgereason/server/page"
OWN = sorted(path for path in PAGE.glob("*") if path.is_file())
LATER = {"markdown.js", "marked.js", "math.js", "katex.js"}
"""Loaded with the first answer, or the first formula."""
IMPORT = re.compile(r"(?:from|import) ?\(?['\"]([^'\"]+)['\"]")


def _kb(paths: list[Path]) -> float:
    return sum(len(gzip.compress(path.read_bytes(), 9)) for path in paths) / 1000


def test_the_first_load_and_all_of_it_are_small() -> None:
    served = [*OWN, *PAGE.glob("vendor/*.js")]
    assert _kb([path for path in served if path.name not in LATER]) <= 45
    assert _kb(served) <= 125


def test_what_is_loaded_later_is_not_imported_at_the_start() -> None:
    seen, waiting = set(), [PAGE / "app.js"]
    while waiting:
        path = waiting.pop()
        seen.add(path.name)
        imports = re.findall(r"^import .*?from '([^']+)';|^import '([^']+)';", path.read_text(), re.MULTILINE)
        waiting += [
            target
            for pair in imports
            if (target := (path.parent / (pair[0] or pair[1])).resolve()).name not in seen
        ]
    assert not seen & LATER
    preloaded = set(
        re.findall(r'rel="modulepreload" href="/page/(?:vendor/)?([^"]+)"', (PAGE / "index.html").read_text())
    )
    assert preloaded == seen - {"app.js"}


def test_no_html_is_made_of_strings() -> None:
    for path in PAGE.glob("*.js"):
        for sink in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "DOMParser",
            "eval(",
            "Function(",
        ):
            assert sink not in path.read_text(), path.name


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    index = (PAGE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=", index)
    for path in OWN:
        assert not re.search(r"https?://(?!www\.w3\.org)", path.read_text()), path.name


def test_imports_lead_to_files_that_are_there() -> None:
    for path in PAGE.rglob("*.js"):
        if path.name in {"marked.js", "katex.js"}:
            continue
        for target in IMPORT.findall(path.read_text()):
            assert target.startswith("./") and (path.parent / target).is_file(), (path.name, target)


def test_vendored_files_are_as_listed_and_their_licences_are_there() -> None:
    listing = json.loads((PAGE / "vendor/VENDOR.json").read_text())
    listed = {name: value for package in listing for name, value in package["files"].items()}
    assert {path.name for path in PAGE.glob("vendor/*.js")} == set(listed)
    for name, expected in listed.items():
        assert sha256((PAGE / "vendor" / name).read_bytes()).hexdigest() == expected, name
    licences = (PAGE / "vendor/LICENSES.txt").read_text()
    for package in listing:
        assert f"{package['name']} {package['version']}" in licences
