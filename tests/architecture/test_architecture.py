"""The layers are checked by import-linter (`make lint`); this checks what it can't see."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgereason

SOURCE = Path(edgereason.__file__).parent
MODULES = sorted(p for p in SOURCE.rglob("*.py") if p.stat().st_size)


def names(paths: list[Path]) -> str:
    return ", ".join(str(path.relative_to(SOURCE)) for path in paths)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_runtime_works_where_torch_can_not_be_imported() -> None:
    code = """
import sys
for name in ("torch", "transformers", "trl", "peft", "accelerate"):
    sys.modules[name] = None
from edgereason.engine.scripted import ScriptedEngine
from edgereason.reasoning.model import Model
import edgereason.engine.llama, edgereason.hub.pull, edgereason.cli.main
print(Model(ScriptedEngine()).ask("2+2?", mode="think", budget=100).answer)
"""
    done = run(code)
    assert done.stdout == "4\n", done.stderr


def test_importing_edgereason_loads_nothing_heavy() -> None:
    heavy = "{'numpy', 'llama_cpp', 'jinja2', 'sympy', 'rich'} & sys.modules.keys()"
    done = run(f"import sys, edgereason; print({heavy})")
    assert done.stdout == "set()\n", done.stderr


def test_every_public_name_exists_and_is_listed() -> None:
    for name in edgereason.__all__:
        assert getattr(edgereason, name) is not None
    with pytest.raises(AttributeError):
        _ = edgereason.nothing


def test_every_module_says_what_it_is() -> None:
    docs = {path: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in MODULES}
    assert len(docs) > 100
    silent = [path for path, doc in docs.items() if len(doc.partition("\n")[0]) <= 20]
    assert not silent, names(silent)


def test_no_module_outgrows_600_lines() -> None:
    long = [path for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > 600]
    assert not long, names(long)
