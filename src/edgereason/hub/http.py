"""GET with a deadline: opening an HTTP connection so that an unreachable server is noticed in seconds.

Owns the mapping of network errors to `UnavailableError`, and the token, which is shown to no host but
the one that it is for. Does not know what is downloaded.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import urllib.error
import urllib.request
from concurrent.futures import Future
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO, Final
from urllib.parse import urlsplit

from edgereason.errors import PullError

READ_BYTES: Final = 1 << 18


class UnavailableError(PullError):
    """A server can't be reached, refuses, or stopped sending. Stays inside `hub`, which then decides."""


class _TokenStaysHome(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but shows the token to no other host.

    The hub redirects to a content network with a signed address; the token is none of its business,
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


def open_url(url: str, *, offset: int, timeout_s: float) -> HTTPResponse:
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


def read_some(response: HTTPResponse) -> bytes:
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
