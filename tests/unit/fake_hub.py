"""A hub on the loopback interface that can misbehave on request, tiny models, and wheels to mirror them."""

from __future__ import annotations

import hashlib
import http.server
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edgereason.hub.catalog import CatalogModel, HubSource, MirrorSource

CONTENT = bytes(range(256)) * 4096  # 1 MiB
MIRROR_PARTS = (CONTENT[:300_000], CONTENT[300_000:])


def make_model(content: bytes = CONTENT, *, hub: bool = True, mirror: bool = False) -> CatalogModel:
    return CatalogModel(
        name="tiny",
        title="Tiny",
        num_parameters=1,
        file_name="tiny.gguf",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        licence="Apache-2.0",
        hub=HubSource(repo="maker/tiny-GGUF", revision="c0ffee", file="tiny.gguf") if hub else None,
        mirror=MirrorSource(
            packages=("tiny-edge-part1==1.0", "tiny-edge-part2==1.0"),
            member="*/data/part*.bin",
            largest_wheel_bytes=len(content),
        )
        if mirror
        else None,
    )


@dataclass
class FakeHub:
    """What the server serves, how it misbehaves, and what it saw."""

    content: bytes = CONTENT
    honours_range: bool = True
    status: int | None = None
    redirect_to: str | None = None
    # Claimed in answer to a range, whatever was asked; the whole file follows.
    content_range: str | None = None
    refuses_range: bool = False
    # Called with the number of the request (from 1): how many bytes of it to send before going quiet
    # (until the client has left), None for all.
    sends: Callable[[int], int | None] = lambda _: None
    paths: list[str] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    # Bytes of every answer, noted before they go out: the client may be through before the server is.
    sizes: list[int] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""


def handler(hub: FakeHub) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            hub.paths.append(self.path)
            asked = self.headers.get("Range")
            hub.ranges.append(asked)
            hub.tokens.append(self.headers.get("Authorization"))
            limit = hub.sends(len(hub.paths))
            if hub.redirect_to:
                self.send_response(302)
                self.send_header("Location", hub.redirect_to)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if hub.status or (asked and hub.refuses_range):
                self.send_response(hub.status or 416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = hub.content
            if asked and hub.honours_range:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if hub.content_range is None:
                    body = body[start:]
                self.send_response(206)
                last = len(hub.content) - 1
                self.send_header(
                    "Content-Range", hub.content_range or f"bytes {start}-{last}/{len(hub.content)}"
                )
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            sent = body if limit is None else body[:limit]
            hub.sizes.append(len(sent))
            try:
                self.wfile.write(sent)
            except ConnectionError:  # the client has what it wanted and left
                return
            if limit is not None:
                hub.released.wait(10)

    return Handler


def add_wheel(folder: Path, number: int, data: bytes) -> Path:
    """A wheel like those of the mirror, whose code raises as soon as anyone imports it."""
    name = f"tiny_edge_part{number}"
    info = f"{name}-1.0.dist-info"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise RuntimeError('imported')")
        wheel.writestr(f"{name}/data/part{number:02}.bin", data)
        metadata = f"Metadata-Version: 2.1\nName: tiny-edge-part{number}\nVersion: 1.0\n"
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path
