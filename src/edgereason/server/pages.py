"""The files of the page, read once: a request's path is looked up, never opened."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
INDEX: Final = "index.html"
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "vary": "Accept-Encoding",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file, as it is sent."""

    content: bytes
    packed: bytes
    type: str
    etag: str

    @classmethod
    def of(cls, name: str, content: bytes) -> PageFile:
        """A file of this name and content."""
        suffix = name[name.rindex(".") :]
        digest = hashlib.sha256(content).hexdigest()[:32]
        return cls(content, gzip.compress(content, mtime=0), _TYPES[suffix], f'"{digest}"')


class Page:
    """All files of the page, by the name under which they are asked for."""

    def __init__(self) -> None:
        folder = files("edgereason.server").joinpath("page")
        self._files = dict(_files(folder)) if folder.is_dir() else {}

    @property
    def names(self) -> list[str]:
        """Of the files."""
        return sorted(self._files)

    def response(self, name: str, request: Request) -> Response | None:
        """A file; None if there is no such file."""
        if (file := self._files.get(name)) is None:
            return None
        headers = {**HEADERS, "etag": file.etag}
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        content = file.content
        if "gzip" in request.headers.get("accept-encoding", ""):
            content, headers["content-encoding"] = file.packed, "gzip"
        return Response(content, headers={**headers, "content-type": file.type})


def _files(folder: Traversable, prefix: str = "") -> list[tuple[str, PageFile]]:
    found = []
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            found += _files(entry, f"{name}/")
        elif entry.name[entry.name.rfind(".") :] in _TYPES:
            found.append((name, PageFile.of(name, entry.read_bytes())))
    return found
