"""A contender's process, seen from the benchmark: start it, ask it by lines of JSON, end it (`worker.py`)."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.cases import OURS
from edgereason.core.closing import Closing
from edgereason.errors import EngineError

WORKER_MODULE: Final = "benchmarks.peers.worker"
_ROOT: Final = Path(__file__).resolve().parents[2]
LIMIT_S: Final = 1200.0
"""A case or a load that takes longer is taken for hung."""
_END_S: Final = 15.0
_FOLDERS: Final = re.compile(r"(?:file://|(?<![\w./]))/(?!/)(?:[^\s/'\":]+/)+")


def command(python: str, name: str) -> list[str]:
    """How a contender's worker is started."""
    return [python, "-m", WORKER_MODULE, name]


def environment(name: str, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a worker.

    How long OpenMP's threads spin is set by our engine for itself; a peer gets what its users get. That holds
    for the kernels too: llama-cpp-python is installed here with ours compiled in.
    """
    kept = {
        key: value for key, value in inherited.items() if name == OURS or not key.startswith("GOMP_SPINCOUNT")
    }
    if name != OURS:
        kept["EDGEREASON_KERNELS"] = "0"
    folders = [str(_ROOT), *filter(None, [inherited.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(folders)}  # where this package lies


class PeerProcess(Closing):
    """A running worker.

    Args:
        name: for messages.
        arguments: the command.
        env: its environment.

    Raises:
        EngineError: it can't be started.
    """

    def __init__(self, name: str, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        self._name = name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        try:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
                encoding="utf-8",
                env=env,
            )
        except OSError as error:
            self._stderr.close()
            raise EngineError(f"{name} can't be started with {arguments[0]}: {error.strerror}") from error
        self._replies: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, message: Mapping[str, Any], limit_s: float = LIMIT_S) -> dict[str, Any]:
        """Sends a message and waits for the reply.

        Raises:
            EngineError: the worker reports a failure, ended, or takes too long.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._replies.get(timeout=limit_s)
        except OSError:
            line = None
        except queue.Empty:
            self._process.kill()
            raise EngineError(f"{self._name} did not answer within {limit_s:.0f} s") from None
        if line is None:
            self._replies.put(None)  # whoever asks again is told again
            raise EngineError(f"{self._name} ended with code {self._process.wait()}: {self._last_words()}")
        try:
            reply: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError as error:
            self._process.kill()
            raise EngineError(
                f"{self._name} answered with something else than JSON: {line[:80]!r}"
            ) from error
        if "error" in reply:
            raise EngineError(f"{self._name}: {public(reply['error'])}")
        return reply

    def close(self) -> None:
        """Ends the worker, by force if it does not go; a second call does nothing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._stderr.closed:
            return
        with suppress(OSError):  # it may have gone before
            self._process.stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._stderr.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._replies.put(line)
        self._replies.put(None)

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return public(lines[-1].strip()) if lines else "it said nothing"


def public(text: str) -> str:
    """A message for a record: files without their folders, in one line."""
    return _FOLDERS.sub("", " ".join(text.split()))
