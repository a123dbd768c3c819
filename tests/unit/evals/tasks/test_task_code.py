"""Small rows in the shape of HumanEval's and MBPP's, answered in the ways in which models answer."""

from __future__ import annotations

import time

import pytest

from edgereason.data.rows import Row
from edgereason.errors import ConfigError
from edgereason.evals.tasks.base import Output
from edgereason.evals.tasks.code import extract_program, humaneval_item, mbpp_item

PROMPT = '''from typing import List


def half(x: float) -> float:
    return x / 2


def halves(numbers: List[float]) -> List[float]:
    """ Half of each.
    >>> halves([2.0])
    [1.0]
    """
'''
BODY = "    out = []\n    for x in numbers:\n        out.append(half(x))\n    return out\n"
HUMANEVAL = {
    "task_id": "HumanEval/999",
    "prompt": PROMPT,
    "entry_point": "halves",
    "canonical_solution": BODY,
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([2.0, 3.0]) == [1.0, 1.5]\n",
}
MBPP = {
    "task_id": 11,
    "text": "Write a function to find the depth of a chain.",
    "code": "class Link:\r\n\tdef __init__(self, n):\r\n\t\tself.n = n\r\n"
    "def depth(x):\r\n\treturn x.n and 1 + depth(x.n)",
    "test_setup_code": "chain = Link(Link(0))",
    "test_list": ["assert depth(chain) == 1", "assert depth(Link(0)) == 0"],
    "challenge_test_list": ["assert False"],
}
HALVES = "def halves(numbers: List[float]) -> List[float]:\n    return [half(x) for x in numbers]\n"


def block(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}\n```"


def score(item, text: str) -> float:
    return item.score(Output(text=text, answer=None))


def humaneval(**changes):
    return humaneval_item(Row("humaneval.jsonl", 1, HUMANEVAL | changes))


def mbpp(**changes):
    return mbpp_item(Row("mbpp.jsonl", 1, MBPP | changes))


def test_canonical_solutions_score_1():
    item = humaneval()
    assert score(item, block(PROMPT + item.reference)) == 1.0
    assert score(mbpp(), block(mbpp().reference)) == 1.0


def test_programs_that_fail_their_tests_or_dodge_them_score_0():
    assert score(humaneval(), block("def halves(numbers):\n    return numbers")) == 0.0
    assert score(humaneval(), block(HALVES + "import os\nos._exit(0)")) == 0.0
    assert score(mbpp(), block(MBPP["code"].replace("1 +", "2 +"))) == 0.0
    assert score(mbpp(), block(MBPP["code"] + "\nraise SystemExit(0)")) == 0.0


def test_an_answer_without_a_program_scores_0():
    assert score(humaneval(), "I can't do that (yet).") == 0.0
    assert score(mbpp(), "") == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        block(HALVES),  # neither the import nor the helper
        block(f"from __future__ import annotations\ndef half(x): return x * 0.5\n{HALVES}"),
        block(BODY),
        "```python\n" + BODY.replace("\n    ", "\n").removeprefix("    "),  # dedented, and left open
        block("halves = lambda numbers: [half(x) for x in numbers]"),
    ],
    ids=["function", "future import", "body", "dedented body", "lambda"],
)
def test_what_a_function_lacks_comes_from_the_prompt(answer):
    assert score(humaneval(), answer) == 1.0


def test_an_example_of_use_behind_the_program_does_not_hide_it():
    answer = f"So:\n{block(HALVES)}\nUse it:\n{block('print(halves([1.0]))')}"
    assert score(humaneval(), answer) == 1.0


def test_questions_hold_the_prompt_or_the_tests_and_ids_are_the_rows():
    item = humaneval()
    assert item.id == "HumanEval/999"
    assert item.question.endswith(f"in one ```python block.\n\n```python\n{PROMPT.strip()}\n```")
    assert item.reference == BODY
    item = mbpp()
    assert item.id == "11"
    assert item.question == (
        "You are an expert Python programmer, and here is your task: Write a function to find the depth of a "
        "chain. Your code should pass these tests:\n\n"
        "assert depth(chain) == 1\nassert depth(Link(0)) == 0\n\n"
        "Answer with the whole program in one ```python block."
    )
    assert item.reference == MBPP["code"]


def test_our_own_field_names_are_read_as_well():
    row = {"id": "mbpp-11", "question": "Do it.", "code": "f = abs", "test_list": ["assert f(-1) == 1"]}
    item = mbpp_item(Row("mbpp.jsonl", 1, {**row, "test_setup_code": "", "challenge_test_list": []}))
    assert item.id == "mbpp-11"
    assert "your task: Do it. Your code" in item.question


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ""}, "humaneval.jsonl, line 1: prompt is empty"),
        ({"test": None}, "humaneval.jsonl, line 1: test is null"),
        ({"entry_point": "thirds"}, "line 1: entry_point is 'thirds'; expected a function that the prompt"),
        ({"entry_point": "half("}, r"line 1: entry_point is 'half\('; expected a function"),
    ],
)
def test_a_broken_humaneval_row_names_its_field(change, message):
    with pytest.raises(ConfigError, match=message):
        humaneval(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "mbpp.jsonl, line 1: question is missing"),
        ({"code": 3}, "line 1: code is a number"),
        ({"test_list": []}, "line 1: test_list is an empty list"),
    ],
)
def test_a_broken_mbpp_row_names_its_field(change, message):
    with pytest.raises(ConfigError, match=message):
        mbpp(**change)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (f"{block('a = 1')}\nor\n{block('b = 1')}", "b = 1\n"),
        (f"{block('a = 1')}\nor\n{block('b = (')}", "a = 1\n"),  # the last that parses
        (f"{block('a = 1')}\ngives\n{block('1', 'text')}", "a = 1\n"),  # the last in Python
        (f"{block('a = (', 'c')}\n{block('b = (', '')}", "b = (\n"),  # none does: the last
        (block("a = 1", "Python"), "a = 1\n"),
        ("cut off: ```python\na = 1\nb = 2", "a = 1\nb = 2"),
        ("```python\na = 1\n```python\nb = 1\n```", "b = 1\n"),  # the first was never closed
        ("1. So:\n   ```python\n   if 1:\n       a = 1\n   ```", "if 1:\n    a = 1\n"),
        ("a = 1\nb = 2", "a = 1\nb = 2"),
        ("    a = 1", "a = 1"),
        ("It is a = 1.", None),
        ("-" * 100_000 + "1", None),  # nested too deeply to be parsed
    ],
)
def test_the_program_is_the_last_block_that_can_be_one(text, program):
    assert extract_program(text) == program


def test_a_block_that_defines_what_the_tests_call_goes_before_later_ones():
    text = f"{block('def f(): pass', '')}\n{block('print(f())')}\n{block('def g(): pass')}"
    assert extract_program(text, ["f"]) == "def f(): pass\n"
    assert extract_program(text, ["f", "g"]) == "def g(): pass\n"
    assert extract_program(text, ["h"]) == "def g(): pass\n"


DOUBLE = "def double(x):\n    return 2 * x\n"
FENCED_DOCSTRING = (
    'def double(x):\n    """Twice.\n\n    ```python\n    double(2)\n    ```\n    """\n    return 2 * x\n'
)
TILDES = f"~~~python\n{DOUBLE}~~~"


@pytest.mark.parametrize(
    "text",
    [
        # cut in an example behind it
        f"```python\n{DOUBLE}\nprint(double(",
        f"```python\n{DOUBLE}\n# Example:\nassert double(2) == 4, 'it is",
        f'```python\n{DOUBLE}\nif __name__ == "__main__":\n    for x in range(3',
        f"```python\n{DOUBLE}\nprint(\n    double(1),\n    double(",
        f"{DOUBLE}\nprint(double(",
        # without a fence, in prose
        f"Here is the function:\n\n{DOUBLE}\nIt doubles x.",
        f"Sure!\n\nimport math\n\n{DOUBLE}",
        f"Sure: this is it.\n{DOUBLE}\nFor example, `double(2)` is 4.",
        "It is:\n\n    def double(x):\n        return 2 * x\n\nThat is all (really).",
        f"{DOUBLE}\nUse it so:\n```python\nprint(double(2))\n```",
        f"Import it from where you like.\nfrom what I know it's this:\n{DOUBLE}\nDone, isn't it?",
        # a fence in a docstring
        f"```python\n{FENCED_DOCSTRING}```",
        f"```\n{FENCED_DOCSTRING}```\nSo that is it.",
        f"```python\n{FENCED_DOCSTRING}\nprint(double(",
        FENCED_DOCSTRING,
        # tildes, and more marks than three
        TILDES,
        f"So:\n{TILDES}\nand then\n~~~python\nprint(double(2))\n~~~",
        f"~~~\n{DOUBLE}",
        f"````python\n{DOUBLE}````",
        f"~~~python\n{DOUBLE.rstrip()}  # not ```\n~~~",
        # a definition below another statement
        "```python\nif True:\n    def double(x):\n        return 2 * x\n```",
        "```python\ntry:\n    import numpy\nexcept ImportError:\n    def double(x): return 2 * x\n"
        "else:\n    def double(x): return 2 * x\n```\n```python\nprint(double(1))\n```",
        "```python\nimport sys\nif sys.version_info > (3,):\n    double = lambda x: 2 * x\n```",
        "```python\nimport math\ntry:\n    def double(x): return 2 * x\nfinally:\n    pass\n```",
    ],
)
def test_a_whole_function_is_found_however_it_is_given(text):
    program = extract_program(text, ["double"])
    assert program is not None
    space: dict[str, object] = {}
    exec(program, space)  # the test's own programs
    assert space["double"](4) == 8


@pytest.mark.parametrize(
    "text",
    [
        "def double(x):\n    return (2 *",
        "Define def double(x) so that it doubles.",
        "```python\ndef double(x):\n",
    ],
)
def test_a_function_that_is_cut_itself_is_not_made_whole(text):
    program = extract_program(text, ["double"])
    assert program is None or "return 2" not in program


def test_fences_without_end_take_no_time_without_end():
    start_s = time.monotonic()
    for piece in ("```\n(\n", "~~~", "def f(\n", "@a\n", "```python\n'''\n"):
        extract_program(piece * (60_000 // len(piece)), ["f"])
    assert time.monotonic() - start_s < 60  # some five seconds; a parse at every pair of fences takes hours


def test_a_program_that_parses_with_a_warning_is_a_program():
    assert extract_program(r"a = '\d'") == r"a = '\d'"
