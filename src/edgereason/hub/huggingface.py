"""The Hugging Face hub over HTTP: one file at one revision, continued where it was interrupted.

It is spoken with the standard library. `huggingface_hub` would bring a cache layout, a download
back end and a dozen packages to the device for what is one GET of an immutable file whose hash is
known beforehand.

Knows byte ranges and what to do when a download stalls. Does not know how a connection is opened
(`http.py`), the cache or the mirror, nor the hash: bytes go to a `PartFile`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from http.client import HTTPResponse
from typing import Final
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

from edgereason.errors import PullError
from edgereason.hub.catalog import HubSource
from edgereason.hub.http import UnavailableError, open_url, read_some
from edgereason.hub.part import PartFile, Progress
from edgereason.hub.store import megabytes

RETRY_PAUSES_S: Final = (0.5, 1.0, 2.0)
# An attempt that brought this much doesn't count as failed: a slow line that keeps breaking may go on
# for as long as it moves.
MOVING_BYTES: Final = 1 << 20


def file_url(source: HubSource) -> str:
    """The address of a file: `$HF_ENDPOINT` (default: the public hub) / repo / resolve / revision / file.

    Raises:
        PullError: `HF_ENDPOINT` is no http or https address.
    """
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    address = urlsplit(endpoint)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise PullError(f"HF_ENDPOINT is {endpoint!r}, expected an address like https://huggingface.co")
    return f"{endpoint.rstrip('/')}/{source.repo}/resolve/{source.revision}/{quote(source.file)}"


def fetch(source: HubSource, part: PartFile, *, timeout_s: float, report: Callable[[Progress], None]) -> None:
    """Bring `part` to its full length from the hub, continuing what is there of it.

    Args:
        timeout_s: seconds without a byte after which a connection has stalled.

    Raises:
        UnavailableError: not a byte came; another source may be asked.
        PullError: it stopped on the way and further attempts brought nothing; `part` can be continued.
    """
    url = file_url(source)
    have_bytes = part.left_bytes
    if have_bytes == part.total_bytes:  # an earlier pull ended between the last byte and the check
        part.keep(have_bytes)
        return
    is_reached = has_moved = False
    failures = 0
    while True:
        before_bytes = have_bytes
        try:
            response, offset = _open_at(url, have_bytes, part.total_bytes, timeout_s)
            is_reached = True
            with response:
                part.keep(offset)
                while data := read_some(response):
                    part.append(data)
                    report(part.progress("hub", source.file))
            cause = "the connection ended early"
        except UnavailableError as error:
            if not is_reached:
                raise
            cause = str(error)
        have_bytes = part.num_bytes
        if have_bytes == part.total_bytes:
            return
        has_moved = has_moved or have_bytes > before_bytes
        failures = 1 if have_bytes >= before_bytes + MOVING_BYTES else failures + 1
        if failures > len(RETRY_PAUSES_S):
            break
        time.sleep(RETRY_PAUSES_S[failures - 1])
    if not has_moved:
        raise UnavailableError(f"it answers but sends nothing ({cause})")
    raise PullError(
        f"the download of {source.file} stopped at {megabytes(have_bytes)} of "
        f"{megabytes(part.total_bytes)}: {cause}, {failures} times; pull again to continue from there"
    )


def _open_at(url: str, offset: int, total_bytes: int, timeout_s: float) -> tuple[HTTPResponse, int]:
    """A response and the byte of the file that it starts with: `offset`, or 0 if the server won't.

    Raises:
        UnavailableError: no answer, or the file behind it has another length.
    """
    try:
        response = open_url(url, offset=offset, timeout_s=timeout_s)
    except UnavailableError as error:
        # 416: there is nothing behind the offset, so what we hold isn't a beginning of that file.
        if offset and isinstance(error.__cause__, HTTPError) and error.__cause__.code == 416:
            return _open_at(url, 0, total_bytes, timeout_s)
        raise
    if response.status == 206 and offset:
        content_range = re.fullmatch(
            r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip()
        )
        if content_range and content_range[1] == str(offset) and content_range[3] in (str(total_bytes), "*"):
            return response, offset
        response.close()
        return _open_at(url, 0, total_bytes, timeout_s)
    length = response.headers.get("Content-Length", str(total_bytes))
    if response.status != 200 or length != str(total_bytes):
        response.close()
        raise UnavailableError(
            f"it answers HTTP {response.status} with {length} bytes, expected {total_bytes}"
        )
    return response, 0
