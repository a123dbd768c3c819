"""A folder has one writer at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgereason.core.folder_lock import FolderLock
from edgereason.errors import ConfigError

HOLDS = """
import sys
from pathlib import Path
from edgereason.core.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_writer_is_refused_until_the_first_is_gone_however_it_went(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=r"another process writes to .*: wait for it"):
            FolderLock(tmp_path)
        other.kill()
    with FolderLock(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert not [*tmp_path.iterdir()]


def test_releasing_twice_does_not_take_another_ones_lock(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    first.release()
    with FolderLock(tmp_path):
        first.release()
        with pytest.raises(ConfigError):
            FolderLock(tmp_path)
