"""A folder has one writer at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from edgereason.errors import ConfigError
from edgereason.records.lock import FolderLock, is_vacant

HOLDS = """
import sys
from pathlib import Path
from edgereason.records.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""

COMPETES = """
import os, random, sys, time
from pathlib import Path
from edgereason.records.lock import FolderLock
from edgereason.errors import ConfigError
folder, marker, chance = Path(sys.argv[1]), sys.argv[2], random.Random(int(sys.argv[3]))
print("ready", flush=True)
sys.stdin.readline()
held = overlaps = 0
end_s = time.monotonic() + 2
while time.monotonic() < end_s:
    try:
        lock = FolderLock(folder)
    except ConfigError:
        continue
    with lock:
        held += 1
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            overlaps += 1
        else:
            time.sleep(chance.uniform(0, 0.003))
            os.unlink(marker)
    time.sleep(chance.uniform(0, 0.003))  # on one core the others would not come to run
print(held, overlaps)
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


def test_releasing_twice_does_not_take_another_ones_lock(tmp_path: Path) -> None:
    first = FolderLock(tmp_path)
    first.close()
    with FolderLock(tmp_path):
        first.close()
        with pytest.raises(ConfigError):
            FolderLock(tmp_path)


def test_a_writer_that_comes_while_another_releases_keeps_out_a_third(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = FolderLock(tmp_path)
    seconds: list[FolderLock] = []
    unlock = FileLock.release

    def unlock_and_let_the_next_in(lock: FileLock, force: bool = False) -> None:
        unlock(lock, force)
        monkeypatch.undo()
        seconds.append(FolderLock(tmp_path))

    monkeypatch.setattr(FileLock, "release", unlock_and_let_the_next_in)
    first.close()
    with seconds[0], pytest.raises(ConfigError, match="another process writes to"):
        FolderLock(tmp_path)


def test_processes_that_compete_for_two_seconds_never_hold_a_folder_together(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    command = [sys.executable, "-c", COMPETES, str(folder), str(tmp_path / "marker")]
    processes = [
        subprocess.Popen([*command, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for seed in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    counts = [tuple(map(int, process.communicate()[0].split())) for process in processes]
    assert sum(held > 1 for held, _ in counts) > 1  # else nothing was competed for
    assert sum(overlaps for _, overlaps in counts) == 0


@pytest.mark.parametrize("name", [".lock", ".record.json.3f9a"])
def test_what_earlier_writers_leave_behind_does_not_fill_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert is_vacant(tmp_path, "record.json")


@pytest.mark.parametrize("name", ["diary.txt", ".locks", "record.json", ".other.json.3f9a"])
def test_anything_else_fills_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / name).touch()
    assert not is_vacant(tmp_path, "record.json")


def test_a_folder_that_is_not_there_is_vacant(tmp_path: Path) -> None:
    assert is_vacant(tmp_path / "none", "record.json")
