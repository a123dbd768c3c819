"""The Hugging Face hub over HTTP: one file at one revision, continued where it was interrupted.

It is spoken with the standard library. `huggingface_hub` would bring a cache layout, a download
back end and a dozen packages to the device for what is one GET of an immutable file whose hash is
known beforehand.

A connection is opened with a deadline, so that a server out of reach is noticed in seconds. The token is
shown to no host but the one that it is for. `PartFile` keeps the bytes and checks them.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO, Final
from urllib.parse import quote, urlsplit

from edgereason.errors import PullError
from edgereason.hub.catalog import HubSource
from edgereason.hub.part import PartFile, PullProgress
from edgereason.hub.store import megabytes

READ_BYTES: Final = 1 << 18
RETRY_PAUSES_S: Final = (0.5, 1.0, 2.0)
# An attempt that brought this much doesn't count as failed: a slow line that keeps breaking may go on
# for as long as it moves.
MOVING_BYTES: Final = 1 << 20


class UnavailableError(PullError):
    """A server can't be reached, refuses, or stopped sending. Stays inside `hub`, which then decides."""


class _TokenStaysHome(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but shows the token to no other host.

    The hub redirects to a content network with a signed address; the token is not its business,
    and some stores refuse a request that is signed twice.
    """

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        redirected = super().redirect_request(req, fp, code, msg, headers, newurl)
        if redirected is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            redirected.remove_header("Authorization")
        return redirected


def file_url(source: HubSource) -> str:
    """The address of a file: `$HF_ENDPOINT` (default: the public hub) / repo / resolve / revision / file.

    Raises:
        PullError: `HF_ENDPOINT` is not an http or https address.
    """
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    address = urlsplit(endpoint)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise PullError(f"HF_ENDPOINT is {endpoint!r}, expected an address like https://huggingface.co")
    return f"{endpoint.rstrip('/')}/{source.repo}/resolve/{source.revision}/{quote(source.file)}"


def fetch(
    source: HubSource, part: PartFile, *, timeout_s: float, report: Callable[[PullProgress], None]
) -> None:
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
                while data := _read_some(response):
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
        response = _open_url(url, offset=offset, timeout_s=timeout_s)
    except UnavailableError as error:
        # 416: there is nothing behind the offset, so what we hold isn't a beginning of that file.
        if offset and isinstance(error.__cause__, urllib.error.HTTPError) and error.__cause__.code == 416:
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


def _open_url(url: str, *, offset: int, timeout_s: float) -> HTTPResponse:
    """GET `url` from byte `offset` on; the caller closes the response, and checks what it starts with.

    The token in `HF_TOKEN`, if any, goes along.

    Args:
        offset: 0 asks for the whole file, without a range.
        timeout_s: for each step of the network. All of them together, name resolution included (which
            no socket timeout covers), get twice that: once for the server and once for where it
            redirects to.

    Raises:
        UnavailableError: with the cause; `urllib.error.HTTPError` is its `__cause__` where the server
            answered.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "edgereason"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    if token := os.environ.get("HF_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(_TokenStaysHome)
    answer: Future[HTTPResponse] = Future()

    def ask() -> None:
        try:
            answer.set_result(opener.open(request, timeout=timeout_s))
        except (OSError, HTTPException, ValueError) as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="edgereason-hub", daemon=True).start()
    try:
        return answer.result(timeout=2 * timeout_s)
    except TimeoutError as error:
        answer.add_done_callback(_close_late)
        raise UnavailableError(_cause(error)) from error
    except urllib.error.HTTPError as error:
        error.close()
        raise UnavailableError(_refusal(error.code)) from error
    except (OSError, HTTPException, ValueError) as error:
        raise UnavailableError(_cause(error)) from error


def _read_some(response: HTTPResponse) -> bytes:
    """The next bytes as soon as there are any; none at the end.

    Raises:
        UnavailableError: the connection broke or stalled.
    """
    try:
        # read1 returns what one receive gave. read would lose what it had gathered when it times out.
        return response.read1(READ_BYTES)
    except (OSError, HTTPException) as error:
        raise UnavailableError(_cause(error)) from error


def _close_late(answer: Future[HTTPResponse]) -> None:
    """Close a response that came after nobody waited for it any more."""
    if answer.exception() is None:
        answer.result().close()


def _refusal(code: int) -> str:
    match code:
        case 401 | 403:
            return f"it refuses (HTTP {code}: set HF_TOKEN to a token that may read the file)"
        case 404:
            return "it has no such file at this revision (HTTP 404)"
        case 429:
            return "too many requests (HTTP 429: try later)"
        case _:
            return f"it answers HTTP {code}"


def _cause(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    match error:
        case socket.gaierror():
            return "its name can't be resolved"
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "connection refused"
        case ssl.SSLCertVerificationError():
            return f"its certificate isn't trusted ({error.verify_message})"
        case _:
            return str(error) or type(error).__name__
