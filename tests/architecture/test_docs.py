"""The pages for people: links lead somewhere, command lines parse, figures have commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from command_lines import parse

ROOT = Path(__file__).parents[2]
DOCS = [f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))]
PAGES = ["README.md", "CONTRIBUTING.md", *DOCS]
MOST_WORDS = 30
FIGURE = re.compile(r"\d\s?(%|×|tok/s|points)")
SHELL = ("sh", "bash", "console")


@cache
def tokens(page: str) -> tuple[Token, ...]:
    return tuple(MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8")))


def inline(page: str) -> Iterator[Token]:
    """The parts of a page's text, of headings and tables too."""
    for token in tokens(page):
        yield from token.children or ()


def links(page: str) -> set[str]:
    """Where a page's links and pictures lead, those in HTML too."""
    found = {
        str(token.attrs[name]) for token in inline(page) for name in ("href", "src") if name in token.attrs
    }
    html = "".join(token.content for token in tokens(page) if token.type == "html_block")
    return found | set(re.findall(r'(?:href|src|srcset)="([^"]+)"', html))


@cache
def anchors(page: str) -> frozenset[str]:
    """The names that GitHub gives a page's headings."""
    found: list[str] = []
    for opening, text in zip(tokens(page), tokens(page)[1:], strict=False):
        if opening.type == "heading_open":
            words = "".join(
                part.content for part in text.children or () if part.type in ("text", "code_inline")
            )
            name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            found.append(name if name not in found else f"{name}-{found.count(name)}")
    return frozenset(found)


def command_lines(page: str) -> list[str]:
    """The calls of `edgereason` in a page's shell blocks; a variable of the shell stands for a number."""
    found = []
    for block in (token for token in tokens(page) if token.type == "fence" and token.info in SHELL):
        text = re.sub(r"(?m)(^|\s)#.*$", "", block.content.replace("\\\n", " ").replace('"$@"', ""))
        lexer = shlex.shlex(re.sub(r"\$\w+", "1", text), posix=True, punctuation_chars="|&;<>\n")
        lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
        call: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;<>\n"):
                found += [shlex.join(call)] if call[:1] == ["edgereason"] else []
                call = []
            elif call or not re.match(r"[A-Z_]+=|do$", word):
                call.append(word)
    return found


def sentences(page: str) -> Iterator[str]:
    """The sentences of a page's paragraphs and lists, without tables and blocks; inline code is one word."""
    is_table, is_heading = False, False
    for token in tokens(page):
        is_table = {"table_open": True, "table_close": False}.get(token.type, is_table)
        is_heading = {"heading_open": True, "heading_close": False}.get(token.type, is_heading)
        if token.type == "inline" and not is_table and not is_heading:
            parts = [
                " " if part.type == "softbreak" else "code" if part.type == "code_inline" else part.content
                for part in token.children or ()
                if part.type != "image"
            ]
            yield from re.split(r"(?<=[.!?])\s+(?=[^a-z])", "".join(parts))


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: str) -> None:
    broken = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        is_there = target.exists()
        if is_there and anchor and target.suffix == ".md":
            is_there = anchor in anchors(str(target.resolve().relative_to(ROOT)))
        broken += [] if is_there else [link]
    assert not broken


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_of_a_shell_block_is_one_that_the_parser_takes(page: str) -> None:
    refused = {}
    for line in command_lines(page):
        try:
            parse(line)
        except Exception as error:  # the parser's own
            refused[line] = str(error)
    assert not refused


@pytest.mark.parametrize("page", DOCS)
def test_a_page_with_figures_has_a_command_that_makes_them(page: str) -> None:
    has_figures = FIGURE.search((ROOT / page).read_text(encoding="utf-8"))
    assert not has_figures or any(token.info in SHELL for token in tokens(page) if token.type == "fence")


def test_no_sentence_of_the_readme_is_longer_than_30_words() -> None:
    long = [one for one in sentences("README.md") if len(re.findall(r"\S*\w\S*", one)) > MOST_WORDS]
    assert not long


def test_the_checks_find_links_anchors_and_calls_that_are_there() -> None:
    assert "docs/results.md" in links("README.md")
    assert "docs/images/race-dark.svg" in links("README.md")
    assert "edgereason-bundle-build" in anchors("docs/cli.md")
    assert "edgereason chat" in command_lines("README.md")
    assert any(one.startswith("A request has a budget in tokens") for one in sentences("README.md"))
