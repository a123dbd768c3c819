"""The release script: what it refuses before it builds anything."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tool_scripts import load_tool

release = load_tool("release.py")
FILES = {
    "pyproject.toml": '[project]\nversion = "1.2.0"\n',
    "src/edgereason/__init__.py": '__version__ = "1.2.0"\n',
    "CITATION.cff": "version: 1.2.0\n",
    "CHANGELOG.md": "## Unreleased\n\n## 1.2.0 - 2026-12-01\n\n## 1.1.0 - 2026-01-01\n",
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    commit(tmp_path)
    return tmp_path


def commit(tree: Path) -> None:
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", "-C", tree, "add", "-A"], check=True)
    subprocess.run(["git", "-C", tree, *who, "commit", "-qm", "state"], check=True)


def test_a_clean_tree_whose_files_name_one_version_is_taken(tree: Path) -> None:
    assert release.check_tree(tree) == "1.2.0"


def test_a_changed_tree_is_refused(tree: Path) -> None:
    (tree / "new.txt").write_text("x")
    with pytest.raises(ValueError, match=r"the tree has changes.*new\.txt"):
        release.check_tree(tree)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("CITATION.cff", "version: 1.1.0\n", "CITATION.cff says 1.1.0; pyproject.toml says 1.2.0"),
        ("CHANGELOG.md", "## 1.2.0 - not released yet\n", "CHANGELOG.md says no dated version"),
        ("src/edgereason/__init__.py", '__version__ = "1.3.0"\n', "__init__.py says 1.3.0"),
    ],
)
def test_files_that_name_another_version_are_refused(tree: Path, name: str, text: str, told: str) -> None:
    (tree / name).write_text(text, encoding="utf-8")
    commit(tree)
    with pytest.raises(ValueError, match=told):
        release.check_tree(tree)
