"""HumanEval and MBPP: the program in an answer, run against the tests that the row brings.

::

    answer ─ extract_program ─→ block ─ as asked for ─→ program + tests ─ sandbox ─→ 1 │ 0

One answer is scored at a time; pass@k is made of many. Both tasks are asked as chat models usually are, zero
shot, with a code block to answer in, and scored by the official tests: HumanEval's ``check(entry_point)``,
MBPP's ``test_list`` after its ``test_setup_code``, without the challenge tests. Not official: the limits are
the sandbox's (the official time limit is 3 s), and the program may use one thread only.

Source: Chen et al. 2021, arXiv:2107.03374; Austin et al. 2021, arXiv:2108.07732, whose prompt's words are
MBPP's here.
"""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from typing import Final

from edgereason.data.rows import Row
from edgereason.evals.sandbox import run_program
from edgereason.evals.tasks.base import Item, Output
from edgereason.evals.tasks.questions import item_id

_FENCE: Final = re.compile(r"(`{3,}|~{3,})[ \t]*([\w.+#-]*)")
# Where a program without a fence may begin.
_BEGINS: Final = re.compile(r"^[ \t]*(?:def|async +def|class|from|import|@)(?!\w)", re.MULTILINE)
_LIMIT_FENCES: Final = 1000
_LIMIT_TRIES: Final = 20
"""Ends or beginnings that are tried for a block or a program."""
_PYTHON: Final = ("python", "python3", "py")
_INDENT: Final = "    "


@dataclass(frozen=True, slots=True)
class HumanEvalScore:
    """1 if the function passes HumanEval's check, else 0; runs it.

    Attributes:
        prompt: imports and helpers, then the function to complete, up to the end of its docstring.
        entry_point: the function's name.
        test: defines ``check``.
    """

    prompt: str
    entry_point: str
    test: str

    def __call__(self, output: Output) -> float:
        block = extract_program(output.text, [self.entry_point])
        if block is None:
            return 0.0
        program = f"{self._completed(block)}\n\n{self.test}\n\ncheck({self.entry_point})\n"
        return float(run_program(program).passed)

    def _completed(self, block: str) -> str:
        if self.entry_point not in _defined(block):  # only the body
            return f"{self.prompt.rstrip()}\n{textwrap.indent(block, _INDENT)}"
        preamble = self.prompt[: _start(self.prompt, self.entry_point)]
        # What the block defines itself comes later and counts; only `from __future__` has to stand first.
        whole = f"{preamble}\n{block}"
        return whole if _can_compile(whole) else block


@dataclass(frozen=True, slots=True)
class MbppScore:
    """1 if the program passes MBPP's asserts, else 0; runs it.

    Attributes:
        setup: objects that the asserts use; they may be made of the program's classes.
        tests: one assert each.
    """

    setup: str
    tests: tuple[str, ...]

    def __call__(self, output: Output) -> float:
        program = extract_program(output.text, _called("\n".join(self.tests)))
        if program is None:
            return 0.0
        return float(run_program("\n\n".join([program, self.setup, *self.tests])).passed)


def humaneval_item(row: Row) -> Item:
    """A row of HumanEval: ``{id │ task_id, prompt, entry_point, canonical_solution, test}``.

    Raises:
        ConfigError: a field is missing or empty, or the prompt does not define the entry point.
    """
    prompt, entry_point = row.text("prompt"), row.text("entry_point")
    if not entry_point.isidentifier() or _start(prompt, entry_point) is None:
        row.fail("entry_point", f"is {entry_point[:40]!r}; expected a function that the prompt begins")
    return Item(
        id=item_id("humaneval", row),
        question="Complete this Python function. Answer with the whole function, its imports included, in "
        f"one ```python block.\n\n```python\n{prompt.strip()}\n```",
        reference=row.text("canonical_solution"),
        score=HumanEvalScore(prompt, entry_point, row.text("test")),
    )


def mbpp_item(row: Row) -> Item:
    """A row of MBPP: ``{id │ task_id, question │ text, code, test_list, test_setup_code}``.

    Raises:
        ConfigError: a field is missing or empty; the set-up may be.
    """
    text = row.text("text" if row.has("text") else "question").strip()
    tests = row.texts("test_list")
    return Item(
        id=item_id("mbpp", row),
        question=f"You are an expert Python programmer, and here is your task: {text} Your code should pass "
        "these tests:\n\n" + "\n".join(tests) + "\n\nAnswer with the whole program in one ```python block.",
        reference=row.text("code"),
        score=MbppScore(
            row.text("test_setup_code") if row.has("test_setup_code") else "",
            tuple(tests),
        ),
    )


def extract_program(text: str, names: Collection[str] = ()) -> str | None:
    """The program in an answer, without the indentation that all of its lines share.

    The last code block, of any language, that defines one of `names`: an example of its use may follow.
    Without such a block a program in prose that does. Else the last block in Python that parses; else the
    last one; without any block the whole text, if it parses. A block that was left open ends with the text,
    and what defines a name counts without an example behind it that was cut off.

    Args:
        text: the answer.
        names: functions or classes that the tests call.
    """
    blocks = _blocks(text)
    if not blocks and _parse(whole := textwrap.dedent(text)) is not None:
        return whole
    codes = [code for _, code in blocks]
    defining = [part for code in codes if (part := _defining(code, names)) is not None]
    if not defining and (in_prose := _in_prose(text, names)) is not None:
        return in_prose
    parsing = [code for language, code in blocks if language in _PYTHON and _parse(code) is not None]
    return next(reversed(defining or parsing or codes), None)


def _blocks(text: str) -> list[tuple[str, str]]:
    """Language and code of each block, fenced by backticks or tildes.

    A fence of the same kind closes it, but not inside a string such as a docstring: of several, the first
    at which the code parses, else the first. A fence with a word behind it opens the next block instead.
    """
    blocks: list[tuple[str, str]] = []
    fences = list(_FENCE.finditer(text))[-_LIMIT_FENCES:]
    reached = 0
    for number, opening in enumerate(fences):
        start = text.find("\n", opening.end()) + 1
        if opening.start() < reached or not start:
            continue
        later = fences[number + 1 : number + 1 + _LIMIT_TRIES]
        closings = [fence for fence in later if fence.start() >= start and fence[1][0] == opening[1][0]]
        codes = [textwrap.dedent(text[start : fence.start()]) for fence in closings]
        ended = next((i for i, code in enumerate(codes) if _parse(code) is not None), 0)
        if closings:
            reached = closings[ended].start() if closings[ended][2] else closings[ended].end()
        else:
            reached, codes = len(text), [textwrap.dedent(text[start:])]
        blocks.append((opening[2].lower(), codes[ended]))
    return blocks


def _in_prose(text: str, names: Collection[str]) -> str | None:
    """A program that stands in a text without a fence: from a definition or import as far as it parses."""
    for begin in islice(_BEGINS.finditer(text), _LIMIT_TRIES if names else 0):
        indent = begin[0][: len(begin[0]) - len(begin[0].lstrip())]
        program = list[str]()
        for line in text[begin.start() :].splitlines():
            if line.strip() and not line.startswith(indent):
                break
            program.append(line)
        if code := _defining(textwrap.dedent("\n".join(program)), names):
            return code
    return None


def _defining(code: str, names: Collection[str]) -> str | None:
    """The code, or as much of it from its beginning as parses, if it defines one of the names."""
    lines = code.splitlines(keepends=True)
    # It can only end before a line that is not indented.
    ends = [number for number, line in enumerate(lines) if number and line.strip() and not line[0].isspace()]
    for end in [len(lines), *ends[: -_LIMIT_TRIES - 1 : -1]]:
        part = code if end == len(lines) else "".join(lines[:end])
        if _parse(part) is not None:
            return part if _defined(part).intersection(names) else None
    return None


def _start(prompt: str, function: str) -> int | None:
    """Where the definition of a top-level function begins; None if it does not."""
    match = re.search(rf"^(?:async +)?def +{re.escape(function)}\b", prompt, re.MULTILINE)
    return match and match.start()


def _parse(program: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():  # such as "invalid escape sequence"
            warnings.simplefilter("ignore")
            return ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: nested too deeply
        return None


def _can_compile(program: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(program, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _defined(program: str) -> set[str]:
    """Names that a program gives to functions, classes and values at its top level, also below an `if`."""
    names = set[str]()
    nodes: list[ast.AST] = [tree] if (tree := _parse(program)) else []
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif not isinstance(node, ast.expr):
            nodes += ast.iter_child_nodes(node)
    return names


def _called(tests: str) -> set[str]:
    """Names that tests call and Python itself does not have."""
    tree = _parse(tests)
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)] if tree else []
    return {call.id for call in calls if isinstance(call, ast.Name)} - set(dir(builtins))
