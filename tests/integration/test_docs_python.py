"""docs/python.md: every example runs, and says what the page says it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def examples() -> list[object]:
    """The page's examples, each with its output if the page has it; marked where they need a model."""
    page, found = PAGE.read_text("utf-8"), []
    for match in EXAMPLE.finditer(page):
        code, output = match.groups()
        section = re.findall(r"^## (.+)$", page[: match.start()], re.MULTILINE)[-1]
        marks = [pytest.mark.model] if '"smollm2-135m"' in code else []
        if "run(recipe," in code:  # trains: a minute or two
            marks.append(pytest.mark.slow)
        found.append(pytest.param(code, output, id=f"{section}-{len(found)}", marks=marks))
    return found


@pytest.mark.parametrize(("code", "output"), examples())
def test_an_example_of_the_page_runs_as_it_says(
    code: str,
    output: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    if output is not None:
        assert printed == output


def test_every_example_is_found() -> None:
    assert len(examples()) == PAGE.read_text("utf-8").count("```python") >= 10
