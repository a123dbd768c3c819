"""Whether two formulas mean the same, by math-verify, from any thread and within bounded work.

Owns the only use of math-verify. It knows LaTeX strings and nothing about answers, kinds or votes.

math-verify bounds itself with ``signal.alarm``, which exists in the main thread only. Its alarms are off
here (a timeout of None), and two guards take their place: `_is_tame` refuses, before anything is parsed,
what would be one endless native operation (``9**9**9``), and `_bounded` counts Python calls, of which the
rest of sympy's work consists. A count, unlike a clock, gives the same verdict on a slow machine.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import accumulate
from math import prod
from types import FrameType
from typing import Any

_LIMIT_CHARS = 300
_LIMIT_DIGITS = 40  # in one number
_LIMIT_EXPONENT = 1000
_LIMIT_COMBINATORIAL = 1000  # in a string that has a factorial, a binomial, a sum, …
# About a second of work; parsing a first formula takes a quarter of it.
_LIMIT_CALLS = 1_000_000

_COMBINATORIAL = re.compile(r"!|\\(?:[dt]?binom|choose|sum|prod|int|lim)(?![a-zA-Z])")


class _OutOfWork(BaseException):
    """Not an Exception, because sympy and math-verify swallow those and go on."""


def are_equal(left: str, right: str) -> bool:
    """Whether math-verify takes one formula for the other, in either direction.

    It is asked both ways because it is not symmetric: an equation for a reference is reduced differently
    from an equation for a prediction.

    Args:
        left: LaTeX without delimiters.
        right: the same.

    Returns:
        False also when either can't be parsed or would take too much work.
    """
    pair = _pair(left, right)
    if pair is None:
        return False
    if (known := _known.get(pair)) is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        known = _known[pair] = _are_equal(*pair)
    return known


def is_known(left: str, right: str) -> bool:
    """Whether `are_equal` has compared the two lately, and so takes no time."""
    pair = _pair(left, right)
    return pair is None or pair in _known


def comparison_s() -> float:
    """Seconds that a comparison may well take; the first one of a process loads math-verify."""
    return _COMPARING_S if _math_verify.cache_info().currsize else _LOADING_S


_COMPARING_S = 0.25
_LOADING_S = 4.0  # measured beside two busy loops on two cores; alone it is one

_MOST_KNOWN = 4096
_known: dict[tuple[str, str], bool] = {}


def _pair(left: str, right: str) -> tuple[str, str] | None:
    """The two as math-verify gets them, in one order; None where their lists differ in kind."""
    left_shape, right_shape = _list_shape(left), _list_shape(right)
    if left_shape == "," and right_shape[:1] in ("(", "["):
        left = right_shape[0] + left + right_shape[1]
    elif right_shape == "," and left_shape[:1] in ("(", "["):
        right = left_shape[0] + right + left_shape[1]
    elif left_shape and right_shape and "," not in (left_shape, right_shape) and left_shape != right_shape:
        return None
    return (left, right) if left <= right else (right, left)


def _list_shape(latex: str) -> str:
    """The brackets around a whole list ("()", "[)", "{}", …), "," for a bare list, "" for no list.

    math-verify takes (1, 2) for {1, 2} and for 2, 1. Here a bare list may mean either, but in its order.
    """
    bare = latex.replace("\\{", "{").replace("\\}", "}")
    depths = list(accumulate((character in "([{") - (character in ")]}") for character in bare))
    at_depth = {depth for depth, character in zip(depths, bare, strict=True) if character == ","}
    if 0 in at_depth:
        return ","
    is_whole = bare[:1] in ("(", "[", "{") and bare[-1:] in (")", "]", "}") and 0 not in depths[:-1]
    return bare[0] + bare[-1] if is_whole and 1 in at_depth else ""


def _are_equal(left: str, right: str) -> bool:
    if not (_is_tame(left) and _is_tame(right)):
        return False
    parsed_left, parsed_right = _parse(left), _parse(right)
    if not parsed_left or not parsed_right:
        return False
    verify = _math_verify()[1]
    return any(
        _bounded(partial(verify, list(a), list(b), timeout_seconds=None)) is True
        for a, b in ((parsed_left, parsed_right), (parsed_right, parsed_left))
    ) and (_bounded(partial(_is_close, parsed_left[0], parsed_right[0])) is not False)


# math-verify takes a difference below 1e-15 for nothing, however small the two are themselves.
_RELATIVE = 1e-12


def _is_close(left: Any, right: Any) -> bool:
    """Whether two formulas that math-verify takes for equal agree at their own scale.

    Lists, sets, intervals and matrices are compared element by element. Variables get values of their own.
    What has no value, such as an equation that is not solved, is taken for close.
    """
    import sympy

    if hasattr(left, "flat") and hasattr(right, "flat"):  # matrices
        return all(map(_is_close, left.flat(), right.flat()))
    # Of equations, only those for one letter have a value beside them.
    left, right = (
        side.rhs if isinstance(side, sympy.Eq) and side.lhs.is_Symbol else side for side in (left, right)
    )
    if isinstance(left, sympy.Interval) and isinstance(right, sympy.Interval):
        return _is_close(left.start, right.start) and _is_close(left.end, right.end)
    if isinstance(left, sympy.FiniteSet) and isinstance(right, sympy.FiniteSet):
        # In whatever order: every element has its partner on the other side.
        return all(
            any(_is_close(a, b) for b in others.args)
            for these, others in ((left, right), (right, left))
            for a in these.args
        )
    if isinstance(left, sympy.Tuple) and isinstance(right, sympy.Tuple):
        return all(map(_is_close, left, right))
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return True
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    values = {symbol: sympy.Rational(2 * n + 3, 8) for n, symbol in enumerate(symbols)}
    a, b = left.subs(values), right.subs(values)
    try:
        size = max(abs(a).evalf(), abs(b).evalf())
        return bool(abs(a - b).evalf() <= _RELATIVE * size)
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return True


@lru_cache(maxsize=4096)
def _parse(latex: str) -> tuple[object, ...]:
    parse = _math_verify()[0]
    return tuple(_bounded(partial(parse, f"${latex}$")) or ())


@lru_cache(maxsize=1)
def _math_verify() -> tuple[Callable[[str], list[object]], Callable[..., bool]]:
    """Import math-verify (most of a second) and give its parser, as set up here, and its comparison."""
    from dataclasses import replace

    import math_verify

    # It warns once that its timeouts are off, which is our decision, and logs what it can't parse.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    latex = math_verify.LatexExtractionConfig()
    # Its units include letters: 2t would become 2. Ours are gone by now.
    latex = replace(latex, normalization_config=replace(latex.normalization_config, units=False))

    def parse(text: str) -> list[object]:
        found: list[object] = math_verify.parse(
            text, [latex], fallback_mode="no_fallback", parsing_timeout=None
        )
        return found

    parse("$1$")  # builds the grammar's tables once, outside of any bound
    return parse, math_verify.verify


def _bounded(work: Callable[[], Any]) -> Any:
    """Do `work`, or give None once it has made `_LIMIT_CALLS` Python calls.

    The trace hook belongs to the current thread alone, so this works in all of them. Where a debugger or a
    coverage tool holds the hook, the work goes unbounded.
    """
    if sys.gettrace() is not None:
        return work()
    calls_left = _LIMIT_CALLS

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls_left
        calls_left -= 1
        if calls_left < 0:
            raise _OutOfWork

    sys.settrace(count)
    try:
        return work()
    except _OutOfWork:
        return None
    finally:
        sys.settrace(None)


def _is_tame(latex: str) -> bool:
    """Whether no single operation on the formula's numbers can be endless."""
    if len(latex) > _LIMIT_CHARS:
        return False
    # A digit string with a base: math-verify drops the base, and 40_9 is not 40_8.
    if re.search(r"\d_", latex):
        return False
    if re.search(rf"\d{{{_LIMIT_DIGITS}}}|\d[eE][-+]?\d{{3}}", latex):
        return False
    numbers = [int(digits) for digits in re.findall(r"\d+", latex)]
    if _COMBINATORIAL.search(latex):
        return ("^" not in latex and "!!" not in latex and not re.search(r"[)}\]]\s*!", latex)) and all(
            number <= _LIMIT_COMBINATORIAL for number in numbers
        )
    exponents = [_exponent_at(latex, match.end()) for match in re.finditer(r"\^", latex)]
    # Within one exponent, factors multiply and powers are worse: 10^{10*10*10}, 9^{9^9}.
    if any(re.search(r"[\d)}\]]\s*\^", exponent) for exponent in exponents):
        return False
    sizes = [prod(max(1, int(digits)) for digits in re.findall(r"\d+", exponent)) for exponent in exponents]
    if re.search(r"[)}\]]\s*\^|\^\s*\S\s*\^", latex):  # powers of powers multiply as well
        return prod(max(1, size) for size in sizes) <= _LIMIT_EXPONENT
    return all(size <= _LIMIT_EXPONENT for size in sizes)


def _exponent_at(latex: str, start: int) -> str:
    """The exponent that begins at `start`: a group in brackets, or all up to the next blank or sign."""
    depth = 0
    for position in range(start, len(latex)):
        character = latex[position]
        if character in "{([":
            depth += 1
        elif character in "})]":
            depth -= 1
        if depth < 0 or (depth == 0 and position > start and character in "+-*/=<>, "):
            return latex[start:position]
        if depth == 0 and character in "})]":
            return latex[start : position + 1]
    return latex[start:]
