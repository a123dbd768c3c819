"""Ctrl-C: the first asks for an orderly end, the second is one.

Owns the handler of SIGINT while it is wanted. Does not know what is being stopped.

Nothing is raised here. Python's handlers run wherever its code runs, and while a model is loaded or decodes
that is a callback of the native library: ctypes would print an exception from there and drop it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_STDOUT: Final = 1
_SHOW_CURSOR: Final = b"\x1b[?25h\n"


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C was pressed; pressed again, it ends the process as it does by default in C."""
    pressed = False

    def handle(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            _die()
        pressed = True

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # a job in the background, which Ctrl-C is not meant for
        yield lambda: False
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def _die() -> None:
    if os.isatty(_STDOUT):
        os.write(_STDOUT, _SHOW_CURSOR)  # a live view hides it; sys.stdout may be in the middle of a write
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)
