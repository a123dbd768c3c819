"""What went wrong, as a status and an error object that clients of OpenAI's protocols understand.

::

    400 the request     401 the key      403 Host, Origin     404 path, model     405 method
    408 slow body       413 long body    415 not JSON         429 queue, seconds  500 engine    503 not now

A message says what was got, what was expected, what to do. What nobody foresaw is logged, and told without
its details.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from edgereason.errors import ContextOverflow, EdgeReasonError, QueueFull, RequestError, Unavailable
from edgereason.server import limits
from edgereason.server.asking import UnknownModel
from edgereason.server.fields import Refused

LOG: Final = logging.getLogger("edgereason.server")

INVALID: Final = "invalid_request_error"
_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "unavailable_error",
}


class NotNow(Unavailable):
    """The server can't answer yet, or no more.

    Args:
        state: in a word: loading, draining, failed or timeout.
        message: the same in a sentence.
    """

    def __init__(self, state: str, message: str) -> None:
        super().__init__(message)
        self.state = state


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that says what went wrong.

    Attributes:
        param: the field that it is about, if it is about one.
        code: a word for programs.
        retry_after_s: when it is worth another try, where it is.
        more: further keys of the error object.
        closes: whether the connection can't be used any more.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    retry_after_s: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    closes: bool = False

    @property
    def type(self) -> str:
        """The kind of error, in OpenAI's words."""
        return _TYPES.get(self.status, INVALID)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, without what is around it."""
        return {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
            **self.more,
        }

    @property
    def body(self) -> bytes:
        """JSON as OpenAI's clients read it."""
        return msgspec.json.encode({"error": self.error})

    @property
    def headers(self) -> dict[str, str]:
        """Headers beside the usual ones."""
        headers = {"content-type": "application/json", "cache-control": "no-store"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.closes:
            headers["connection"] = "close"
        return headers


def problem_of(error: BaseException) -> Problem:
    """What a client is told of an exception; one that nobody foresaw is logged here."""
    if isinstance(error, UnknownModel):
        return Problem(404, str(error), error.code or "not_found", error.param)
    if isinstance(error, Refused):
        return Problem(400, str(error), error.code or "invalid_value", error.param)
    if isinstance(error, ContextOverflow):
        numbers = {"n_prompt_tokens": error.needed_tokens, "n_ctx": error.available_tokens}
        return Problem(400, str(error), "context_length_exceeded", "messages", more=numbers)
    if isinstance(error, QueueFull):
        return Problem(429, str(error), "queue_full", retry_after_s=error.retry_after_s)
    if isinstance(error, Unavailable):
        code = error.state if isinstance(error, NotNow) else "unavailable"
        return Problem(503, str(error), code, retry_after_s=limits.RETRY_S)
    if isinstance(error, RequestError):
        return Problem(400, str(error), "invalid_value")
    if isinstance(error, MemoryError):
        return Problem(503, "there is not enough memory now", "out_of_memory", retry_after_s=limits.RETRY_S)
    if isinstance(error, EdgeReasonError):
        LOG.error("%s: %s", type(error).__name__, error)
        return Problem(500, str(error), "engine_error")
    LOG.error("unexpected %s", type(error).__name__, exc_info=error)
    return Problem(500, "an unexpected error: the server's log says more", "internal_error")
