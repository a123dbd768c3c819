"""How tokens of two processors are compared, by hand; and the wrapper that starts an emulated Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tool_scripts import load_tool

emulate = load_tool("arm/emulate.py")


def test_tokens_are_compared_up_to_the_first_that_differs() -> None:
    one = {"ids": [5, 6, 7, 8], "logprobs": [-0.1, -0.5, -1.0, -9.0]}
    other = {"ids": [5, 6, 9, 8], "logprobs": [-0.2, -0.2, -5.0, -1.0]}
    same, apart = emulate.agreement(one, other)
    assert same == 2
    assert apart == pytest.approx(0.3)
    assert emulate.agreement(one, one) == (4, 0.0)


def test_the_emulated_python_gets_its_own_packages_and_takes_the_wrapper_for_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator is a script that shows what it is given: the real one is not everywhere."""
    place = emulate.Place(tmp_path, "some-cpu", "some-arch")
    (place.root / "usr/bin").mkdir(parents=True)
    (place.root / "usr/bin/python3").touch()
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / emulate.QEMU
    fake.write_text('#!/bin/sh\necho "$PYTHONPATH" "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("PYTHONPATH", "/packages/of/x86")
    emulate.root(place)
    told = subprocess.run([place.python, "-c", "pass"], capture_output=True, text=True, check=True).stdout
    assert told.split()[0] == place.paths()
    assert "x86" not in told
    assert told.split()[1:] == (
        f"-cpu some-cpu -L {place.root} -0 {place.python} {place.root}/usr/bin/python3 -c pass".split()
    )
