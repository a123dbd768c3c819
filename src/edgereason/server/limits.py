"""Every number that bounds what a client may ask of the server, once."""

from __future__ import annotations

from typing import Final

MAX_BODY_BYTES: Final = 1 << 20
"""Of a request, as it is read; checked before its JSON is looked at."""
MAX_DISCARDED_BYTES: Final = 16 << 20
"""Of a body that is too large, read and thrown away so that the client can read why it is refused."""
BODY_S: Final = 10.0
"""For all of a body to come in."""
HEADERS_S: Final = 10.0
"""For the headers of a new connection to come in."""
KEEP_ALIVE_S: Final = 15
"""How long a connection without a request is kept."""
MAX_CONNECTIONS: Final = 256
SEND_BUFFER_BYTES: Final = 128 << 10
"""Of a connection's socket: what a client that does not read can make the kernel hold."""

MAX_MESSAGES: Final = 1024
MAX_STOP_STRINGS: Final = 4
MAX_CHOICES: Final = 64
MAX_ID_CHARS: Final = 128
"""Of the id that the page gives to a request."""
VOTE_STREAMS: Final = 4
"""Streams of the model that votes."""

MAX_RUNNING: Final = 8
"""Streams that run before no further request is started, by default."""
MAX_WAITING: Final = 32
"""Requests that wait, by default; the next one is refused."""
REQUEST_S: Final = 600.0
"""For a request; its streams are made to answer then."""
GRACE_S: Final = 30.0
"""For an answer that was hurried, before it is given up."""
DRAIN_S: Final = 30.0
"""For the answers under way when the server is told to end, by default."""

FRAMES_PER_S: Final = 20.0
"""Most frames of a stream; what is said in between goes into one."""
PING_S: Final = 10.0
"""Silence after which a stream carries a comment."""
PAGE_PING_S: Final = 1.0
STALLED_S: Final = 30.0
"""How long a client may leave a stream unread."""

RETRY_S: Final = 5.0
"""What a client is told to wait before it tries again, where nothing better is known."""
