"""A hook of mkdocs: links that leave docs/ lead to the repository, and pictures from there come along.

The pages link to records and sources beside docs/, which are no part of the site. With `repo_url` set, such a
link leads there; without, its text stays, with the path behind it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PICTURE = re.compile(r"(!\[[^\]]*\]\()\.\./([^)]+)\)")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./([^)#]*)(#[^)]*)?\)")


def on_files(files: Any, *, config: Any) -> Any:
    """Adds the pictures that pages show from beside docs/."""
    for page in files.documentation_pages():
        for _, path in PICTURE.findall(page.content_string):
            if path not in files.src_uris:
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, config: Any, **_others: Any) -> str:
    """Rewrites the links of one page."""
    repository = (config.repo_url or "").rstrip("/")

    def outside(match: re.Match[str]) -> str:
        text, path = match[1], posixpath.normpath(match[2])
        if repository:
            return f"[{text}]({repository}/tree/HEAD/{path}{match[3] or ''})"
        return f"{text} (`{path}`)"

    return LINK.sub(outside, PICTURE.sub(r"\1\2)", markdown))
