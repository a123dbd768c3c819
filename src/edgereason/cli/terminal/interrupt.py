"""Ctrl-C or a plain `kill`: the first asks for an orderly end, the second is one.

Nothing is raised here. Python's handlers run wherever its code runs, and while a model is loaded or decodes
that is a callback of the native library: ctypes would print an exception from there and drop it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final

_STDOUT: Final = 1
_SHOW_CURSOR: Final = b"\x1b[?25h\n"


@contextmanager
def stop_on_interrupt(
    signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
) -> Iterator[Callable[[], bool]]:
    """Yields whether one of the signals came; another one ends the process, as it does by default.

    A signal that is ignored stays so: Ctrl-C is not meant for jobs in the background.
    """
    came = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal came
        if came:
            _die(number)
        came = True

    before = {number: signal.getsignal(number) for number in signals}
    handled = {number: was for number, was in before.items() if was is not signal.SIG_IGN}
    for number in handled:
        signal.signal(number, handle)
    try:
        yield lambda: came
    finally:
        for number, was in handled.items():
            signal.signal(number, was or signal.SIG_DFL)


def _die(number: int) -> None:
    if os.isatty(_STDOUT):
        os.write(_STDOUT, _SHOW_CURSOR)  # a live view hides it; sys.stdout may be in the middle of a write
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
