"""The install step keeps a wheel for exactly what it was built from."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tool_scripts import load_tool

REQUIREMENT = "llama-cpp-python==0.3.36"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with a copy of its folder, so that tests may change the kernels."""
    tool = load_tool("native/install.py")
    monkeypatch.setattr(tool, "HERE", Path(shutil.copytree(tool.HERE, tmp_path / "native")))
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    return tool


def test_a_wheel_belongs_to_its_sources_flags_compiler_and_processor(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [install.build_key(REQUIREMENT)]
    assert install.build_key(REQUIREMENT) == keys[0]
    keys.append(install.build_key("llama-cpp-python==0.3.37"))
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_NATIVE=OFF")
    keys.append(install.build_key(REQUIREMENT))
    monkeypatch.delenv("CMAKE_ARGS")
    kernel = install.HERE / "kernels" / "attention.h"
    kernel.write_text(kernel.read_text() + "\n")
    keys.append(install.build_key(REQUIREMENT))
    monkeypatch.setattr(install, "instructions", lambda: "flags: avx2")
    keys.append(install.build_key(REQUIREMENT))
    monkeypatch.setattr(install, "compiler", lambda: "c++ 99")
    keys.append(install.build_key(REQUIREMENT))
    assert len(set(keys)) == len(keys)


def test_a_kept_wheel_is_installed_without_a_build_and_its_notice_is_shown_again(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "cache" / install.build_key(REQUIREMENT)
    kept.mkdir(parents=True)
    (kept / "llama_cpp_python-0.3.36-py3-none-any.whl").write_bytes(b"")
    (kept / install.NOTICE).write_text("left out, since they are for x86, not for aarch64")
    calls: list[list[str]] = []
    monkeypatch.setattr(install, "kept_wheels", lambda: tmp_path / "cache")
    monkeypatch.setattr(install.subprocess, "call", lambda command: calls.append(command) or 0)
    monkeypatch.setattr(install, "build", lambda *_: pytest.fail("built although a wheel is kept"))
    assert install.main(REQUIREMENT) == 0
    assert "edgereason kernels: left out, since they are for x86" in capsys.readouterr().out
    assert [call[-1] for call in calls] == [str(next(kept.glob("*.whl"))), REQUIREMENT]
