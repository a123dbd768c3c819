"""Output that can't be written: one line, an exit code, and the same command goes on afterwards."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from refusals import FAILED, assert_refused

from edgereason.cli.terminal.echo import echo
from edgereason.core.bundle import temporary_beside, write_atomically
from edgereason.errors import ConfigError
from edgereason.records.folder import RunFolder
from edgereason.records.journal import SAMPLES, Journal, JournalRow, read_rows

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")


def edgereason(command: str, **options) -> subprocess.CompletedProcess[str]:
    """Runs `edgereason COMMAND` in a shell, with its redirections."""
    shell = f"{sys.executable} -m edgereason {command}"
    return subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False, **options)


@needs_full
@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("models --json >&-", "standard output is closed"),
        ("--version >&-", "standard output is closed"),
        ("models > /dev/full", "No space left on device"),
        ("models --json > /dev/full", "standard output: No space left on device"),
        ("--version > /dev/full", "standard output: No space left on device"),
        ("eval --help > /dev/full", "No space left on device"),
        ("bundle show --json > /dev/full", "standard output: No space left on device"),
    ],
)
def test_stdout_that_fails_is_one_line(command, says):
    ran = edgereason(command)
    assert (ran.returncode, ran.stdout) == (FAILED, "")
    assert ran.stderr.startswith("edgereason: ")
    assert ran.stderr.count("\n") == 1
    assert says in ran.stderr


@needs_full
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_stderr_that_fails_ends_nothing(redirection):
    ran = edgereason(f"models --json {redirection}")
    assert ran.returncode == 0
    assert json.loads(ran.stdout)
    assert edgereason(f"nothing-of-this-name {redirection}").returncode == 2


def test_a_file_beyond_the_limit_of_the_shell_is_one_line(tmp_path):
    ran = edgereason(f"bundle show --json > {tmp_path}/shown.json", preexec_fn=limit_files)
    assert ran.returncode == FAILED
    assert ran.stderr.count("\n") == 1
    assert "standard output: File too large" in ran.stderr


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))


def failing(code: int) -> Callable[..., None]:
    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EFBIG, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EIO, "Input/output error"),
        (errno.EROFS, "Read-only file system"),
        (errno.EMFILE, "Too many open files"),
    ],
)
def test_what_the_system_refuses_is_one_line(cli, monkeypatch, code, advice):
    monkeypatch.setattr("edgereason.reasoning.model.load", failing(code))
    assert_refused(cli("ask", "q"), FAILED, advice)


def test_memory_that_is_not_there_is_one_line(cli, monkeypatch):
    def hungry(*_arguments: object, **_options: object) -> None:
        raise MemoryError

    monkeypatch.setattr("edgereason.reasoning.model.load", hungry)
    assert_refused(cli("ask", "q"), FAILED, "not enough memory")


@dataclass(frozen=True, slots=True)
class Line(JournalRow):
    id: str
    text: str = "x" * 100

    @property
    def key(self) -> str:
        return self.id


def line(number: int) -> Line:
    return Line(str(number))


def in_child(act: Callable[[], None]) -> int:
    """The exit code of a child that may write 1,000 bytes to a file, and does something."""
    child = os.fork()
    if not child:
        code = 99
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
            act()
            code = 0
        except ConfigError as error:
            code = 1 if "File too large" in str(error) and "same command" in str(error) else 98
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("together", [1, 2, 5])
def test_rows_that_find_no_room_leave_those_before_them_whole(tmp_path, together):
    def fill() -> None:
        with Journal(tmp_path, Line) as journal:
            for start in range(0, 100, together):
                journal.append(*map(line, range(start, start + together)))

    assert in_child(fill) == 1
    content = (tmp_path / SAMPLES).read_bytes()
    assert content.endswith(b"}\n")
    before = len(read_rows(tmp_path, Line))
    assert before
    assert before % together == 0
    with Journal(tmp_path, Line) as journal:  # there is room again
        journal.append(line(before))
    assert [row.id for row in read_rows(tmp_path, Line)] == [str(n) for n in range(before + 1)]


def test_a_file_that_finds_no_room_leaves_the_old_one(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("old")

    def fill() -> None:
        try:
            write_atomically(path, "x" * 5_000)
        except OSError as error:
            raise ConfigError(f"{error}: same command") from error

    assert in_child(fill) == 1
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["record.json"]


def test_the_error_names_the_file_that_was_wanted(tmp_path):
    with pytest.raises(OSError, match="No space") as failed, temporary_beside(tmp_path / "record.json"):
        failing(errno.ENOSPC)()
    assert failed.value.filename == str(tmp_path / "record.json")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_rows_on_a_disk_that_can_only_be_read_are_read(tmp_path, monkeypatch, code):
    with Journal(tmp_path, Line) as journal:
        journal.append(line(0), line(1))
    monkeypatch.setattr("edgereason.records.journal.FolderLock", failing(code))
    with Journal(tmp_path, Line) as journal:
        assert [row.id for row in journal.found] == ["0", "1"]
        with pytest.raises(ConfigError, match="can't be written"):
            journal.append(line(2))
    assert len(read_rows(tmp_path, Line)) == 2


def test_a_folder_that_can_not_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be"):
        RunFolder(tmp_path / "file" / "run", "evaluation").claim("record.json", {})


def test_a_notice_that_can_not_be_told_ends_nothing(monkeypatch):
    monkeypatch.setattr("typer.echo", failing(errno.ENOSPC))
    echo("a notice", err=True)
    with pytest.raises(OSError, match="standard output"):
        echo("an answer")
