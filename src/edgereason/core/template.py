"""Chat templates rendered under limits: a model's file brings its template, and nobody has read it.

A template runs in Jinja's sandbox, and everything that it does costs units: the nodes of what runs, each item
of a loop, each character and element of a value that is made. Filters and methods are those of a list. What
could make a large value is checked before it is made. So a hostile template ends in an error after seconds at
the most, in whatever thread it is rendered, without a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache, wraps
from itertools import islice
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from edgereason.errors import ModelFileError

MAX_SOURCE_CHARS: Final = 100_000
MAX_SIZE: Final = 200_000
"""Of one value: characters and elements, those within elements included."""
MAX_UNITS: Final = 3_000_000
MAX_TEXT_CHARS: Final = 1_000_000
"""Of what a template comes to; what messages say is not among it."""
MAX_CPU_S: Final = 2.0
"""For what the units don't see, such as comparing long texts; of the rendering thread."""
_MAX_INT_BITS: Final = 1024
_MAX_INDENT: Final = 16

DATE_VARIABLE: Final = "SOURCE_DATE_EPOCH"
"""Fixes the date that templates write into prompts (Llama 3.2): seconds since 1970, in UTC."""

# fmt: off
_FILTERS: Final = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int", "items",
    "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "safe",
    "select", "selectattr", "sort", "string", "title", "trim", "unique", "upper", "wordcount",
)
_METHODS: Final[Mapping[type, tuple[str, ...]]] = {
    str: (
        "capitalize", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal",
        "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip",
        "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit",
        "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper",
    ),
    dict: ("get", "items", "keys", "values"),
    list: ("count", "index"),
    tuple: ("count", "index"),
}
# fmt: on
_COUNTED: Final = (nodes.For, nodes.Macro, nodes.CallBlock)
_REFUSED: Final = (nodes.Block, nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)


_MARK_START, _MARK_END = "\ue000", "\ue001"
_MARK: Final = re.compile(f"({_MARK_START}[0-9]+[ja]*{_MARK_END})")


def mark(index: int) -> str:
    """Stands in a rendered template for the text of message `index`."""
    return f"{_MARK_START}{index}{_MARK_END}"


def writes_dates(source: str) -> bool:
    """Whether a template's text may differ from day to day."""
    return "strftime_now" in source


def filled(rendered: str, texts: Sequence[str]) -> list[tuple[str, bool]]:
    """A rendered template in parts, the texts where their marks stand.

    Args:
        rendered: with the marks of some of the texts.
        texts: by the numbers of their marks; inside of JSON they are escaped as the template asked.

    Returns:
        Parts and whether each is a text rather than the template's own.

    Raises:
        ModelFileError: what looks like a mark is none of these.
    """
    parts = []
    for part in re.split(_MARK, rendered):
        if not _MARK.fullmatch(part):
            if _MARK_START in part or _MARK_END in part:
                raise _no_mark()
            parts.append((part, False))
            continue
        number = re.sub("[ja]", "", part[1:-1])
        if len(number) > 9 or int(number) >= len(texts):
            raise _no_mark()
        text = texts[int(number)]
        for way in part[1 + len(number) : -1]:
            text = json.dumps(text, ensure_ascii=way == "a")[1:-1]
        parts.append((text, True))
    return parts


def has_mark(rendered: str, index: int) -> bool:
    """Whether message `index` stands in a rendered template."""
    return re.search(f"{_MARK_START}{index}[ja]*{_MARK_END}", rendered) is not None


def _no_mark() -> ModelFileError:
    return ModelFileError(
        "the model's chat template takes a message apart, or writes characters of a private use (U+E000, "
        "U+E001): use another model, or one with another template"
    )


class TemplateLimit(ModelFileError):
    """A template does more than a chat template has to.

    Args:
        why: what it does.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"the model's chat template {why}: use another model, or one with another template")


class _Meter:
    """What one rendering may still spend."""

    def __init__(self) -> None:
        self._left_units = MAX_UNITS
        self._end_s = time.thread_time() + MAX_CPU_S

    def spend(self, units: int) -> None:
        self._left_units -= units
        if self._left_units < 0 or time.thread_time() > self._end_s:
            raise TemplateLimit("takes more steps than any chat template needs")


_METER: Final[ContextVar[_Meter]] = ContextVar("_METER")


def render(source: str, **values: Any) -> str:
    """The template's text for these values.

    Args:
        source: Jinja, as transformers takes it.
        values: plain values that the template sees.

    Raises:
        ModelFileError: it is not valid Jinja, refuses these values, fails, or goes beyond the limits.
    """
    try:
        with _metered():
            text = _compile(source).render(values)
            if len(text) > MAX_TEXT_CHARS:
                raise TemplateLimit("writes more than any chat template needs")
            return text
    except ModelFileError:
        raise
    # Whatever a stranger's program raises: arithmetic on text, recursion, a missing loader.
    except Exception as error:
        raise ModelFileError(
            f"the model's chat template does not render this conversation: {_words(error)}"
        ) from error


@contextmanager
def _metered() -> Iterator[None]:
    token = _METER.set(_Meter())
    try:
        yield
    finally:
        _METER.reset(token)


@lru_cache(maxsize=8)
def _compile(source: str) -> jinja2.Template:
    if len(source) > MAX_SOURCE_CHARS:
        raise TemplateLimit(f"has {len(source)} characters, expected at most {MAX_SOURCE_CHARS}")
    environment = _Environment()
    try:
        tree = environment.parse(source)
        _instrument(tree)
        return environment.from_string(tree)
    except TemplateLimit:
        raise
    # Python compiles what Jinja writes: a break outside of a loop, too deep a nesting, too long a number.
    except Exception as error:
        raise ModelFileError(f"the model's chat template is not valid Jinja: {_words(error)}") from error


def _words(error: Exception) -> str:
    """What an error says, in one short line that can be shown."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    return (
        text[:200]
        if isinstance(error, jinja2.TemplateError) and text
        else f"{type(error).__name__} {text[:200]}"
    )


def _instrument(tree: nodes.Template) -> None:
    """Lets everything that a template repeats or makes count."""
    _replace_values(tree)
    for loop in tree.find_all(nodes.For):
        if loop.recursive:
            raise jinja2.TemplateAssertionError("recursive loops are not supported", loop.lineno)
        loop.iter = _filter("!items", loop.iter)
    bodies: list[Any] = [tree, *tree.find_all(_COUNTED)]
    for body in bodies:
        units = nodes.Const(_weight(body), lineno=body.lineno)
        body.body.insert(0, nodes.ExprStmt(_filter("!spend", units), lineno=body.lineno))


def _replace_values(node: nodes.Node) -> None:
    """Puts a filter around what makes a value without a call: literals, joined texts, slices."""
    for name, value in [*node.iter_fields()]:
        if isinstance(value, list):
            setattr(node, name, [_checked(one) if isinstance(one, nodes.Node) else one for one in value])
        elif isinstance(value, nodes.Node):
            setattr(node, name, _checked(value))


def _checked(node: nodes.Node) -> nodes.Node:
    if isinstance(node, _REFUSED):
        raise jinja2.TemplateAssertionError("blocks and other templates are not supported", node.lineno)
    _replace_values(node)
    if isinstance(node, nodes.Concat):
        return _filter("!concat", nodes.List(node.nodes, lineno=node.lineno))
    if isinstance(node, nodes.List | nodes.Dict) or (isinstance(node, nodes.Tuple) and node.ctx == "load"):
        return _filter("!made", node)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _filter("!cut", node)
    return node


def _filter(name: str, node: nodes.Node) -> nodes.Filter:
    assert isinstance(node, nodes.Expr)
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _weight(body: nodes.Node) -> int:
    """Of one run: its nodes and its text, without the bodies that count by themselves."""
    units, rest = 1, [*body.iter_child_nodes()]
    while rest:
        node = rest.pop()
        units += 1 + (len(node.data) // 8 if isinstance(node, nodes.TemplateData) else 0)
        if not isinstance(node, _COUNTED):
            rest += node.iter_child_nodes()
    return units


class _Environment(ImmutableSandboxedEnvironment):
    """The settings that transformers renders chat templates with, and the limits."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            finalize=_with_context(_text),
        )
        self.filters = {name: _limited(self.filters[name]) for name in _FILTERS}
        own: dict[str, Callable[..., Any]] = {
            "indent": _indent, "join": _join, "replace": _replaced, "round": _round, "tojson": _tojson,
        }  # fmt: skip
        self.filters |= {name: _limited(function) for name, function in own.items()}
        # No template can write these names. With the context at hand, they don't run while it is compiled.
        inner: dict[str, Callable[[Any], Any]] = {
            "!items": _items,
            "!spend": _spend,
            "!concat": _concat,
            "!made": _made,
            "!cut": _cut,
        }
        self.filters |= {name: _with_context(function) for name, function in inner.items()}
        self.globals = {
            "range": _range,
            "dict": _dict,
            "namespace": _Names,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A call in a template: of a macro, of one of our functions, or of a method on the list."""
        _METER.get().spend(1)
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if type(owner) is str and name == "replace":
            return _replaced(owner, *args, **kwargs)
        if type(owner) is str and name == "join":
            return _join(args[0], owner)
        if type(owner) in _METHODS and name in _METHODS[type(owner)]:
            return _made(_listed(super().call(context, obj, *args, **kwargs)))
        is_ours = any(obj is one for one in self.globals.values())
        if is_ours or isinstance(obj, Macro | jinja2.Undefined) or isinstance(owner, LoopContext):
            return super().call(context, obj, *args, **kwargs)
        raise jinja2.TemplateRuntimeError(f"{name or type(obj).__name__} can't be called in a chat template")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operation that could make a large value."""
        if operator == "+":
            _bound(_length(left) + _length(right))
        elif operator == "%" and isinstance(left, str) and re.search(r"%[^a-z%]", left):
            raise TemplateLimit("has widths in formats, which are not supported")
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(times, int) and not isinstance(many, int | float):
                    _bound(_length(many) * times)
        elif operator == "**" and not _is_small_power(left, right):
            raise TemplateLimit("takes a power that is too large or of texts")
        return _made(super().call_binop(context, operator, left, right))


class _Generation(Extension):
    """``{% generation %}`` marks what an assistant says for those who train on it; here it is its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Names(Namespace):
    """Jinja's namespace; shown without what it holds, which could be itself."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 1


def _is_small_power(base: Any, exponent: Any) -> bool:
    if not (isinstance(base, int) and isinstance(exponent, int)):
        return isinstance(base, int | float) and isinstance(exponent, int | float)
    return abs(exponent) * max(base.bit_length(), 1) <= _MAX_INT_BITS


def _bound(size: int) -> None:
    """Refuses a value of this size before it is made."""
    if size > MAX_SIZE:
        raise TemplateLimit("makes a larger value than any chat template needs")


def _made(value: Any) -> Any:
    """The same value, its size spent."""
    size, rest = 0, [value]
    while rest:
        one = rest.pop()
        size += 1 + _length(one)
        _bound(size)
        if isinstance(one, list | tuple):
            rest += one
        elif isinstance(one, dict):
            rest += one.keys()
            rest += one.values()
        elif isinstance(one, int) and one.bit_length() > _MAX_INT_BITS:
            raise TemplateLimit("makes a larger number than any chat template needs")
    _METER.get().spend(size)
    return value


def _cut(value: Any) -> Any:
    """A slice, which shares its elements with what it is cut from."""
    _METER.get().spend(1 + _length(value))
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        _made(value)  # bounds what it is shown as, too: a few characters for each element
    text = str(value)
    _bound(len(text))
    _METER.get().spend(1 + len(text))
    return text


def _listed(value: Any) -> Any:
    """A list instead of what would be worked out later; everything else as it is."""
    if isinstance(value, str | Mapping | jinja2.Undefined) or not isinstance(value, Iterable):
        return value
    if isinstance(value, list | tuple | range):
        return value
    return list(islice(value, MAX_SIZE + 1))


def _items(value: Any) -> list[Any]:
    """What a loop runs over."""
    found = list(islice(value, MAX_SIZE + 1))
    _bound(len(found))
    _METER.get().spend(len(found))
    return found


def _spend(units: int) -> None:
    _METER.get().spend(max(0, units))  # `map` takes names that no template can write: nothing is given back


def _concat(values: Sequence[Any]) -> str:
    texts = [_text(value) for value in values]
    _bound(sum(map(len, texts)))
    return "".join(texts)


def _with_context(function: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return jinja2.pass_context(lambda _context, value: function(value))


def _limited(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that costs what it makes, and makes it at once."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _METER.get().spend(1 + sum(map(_length, args)))
        result = _made(_listed(function(*args, **kwargs)))
        return (
            str(result) if isinstance(result, str) else result
        )  # no Markup: it escapes what it is joined to

    return call


def _join(value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        raise TemplateLimit("joins by attribute, which is not supported")
    texts = [_text(one) for one in islice(value, MAX_SIZE + 1)]
    _bound(sum(map(len, texts)) + len(d) * len(texts))
    return d.join(texts)


def _replaced(text: str, old: str, new: str, count: int | None = None) -> str:
    text, old, new = str(text), str(old), str(new)
    _bound(len(text) + text.count(old) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    before = width if isinstance(width, str) else " " * min(width, MAX_SIZE)
    text = str(text)
    _bound(len(text) + (text.count("\n") + 1) * len(before))
    first_line, *rest = text.split("\n") if blank else text.splitlines() or [""]
    lines = [before + line if line or blank else line for line in rest]
    return "\n".join([before + first_line if first else first_line, *lines])


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if method != "common" or not 0 <= precision <= 15:
        raise TemplateLimit("rounds in a way that is not supported")
    return round(float(value), precision)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: nothing is escaped for HTML."""
    if (indent is not None and not 0 <= indent <= _MAX_INDENT) or any(
        len(one) > 8 for one in separators or ()
    ):
        raise TemplateLimit("has an indent or separators of JSON that are not supported")
    _made(value)
    text = json.dumps(
        value,
        ensure_ascii=False,
        indent=indent,
        separators=(separators[0], separators[1]) if separators else None,
        sort_keys=sort_keys,
    )
    parts = re.split(_MARK, text)
    return "".join(_json_part(part, ensure_ascii=ensure_ascii) for part in parts)


def _json_part(part: str, *, ensure_ascii: bool) -> str:
    """A part of a JSON text: a mark notes how its text is to be written, other characters are escaped."""
    if part.startswith(_MARK_START):
        return part[:-1] + ("a" if ensure_ascii else "j") + _MARK_END
    return "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in part) if ensure_ascii else part


def _range(*args: int) -> list[int]:
    numbers = range(*args)
    _bound(len(numbers))
    _METER.get().spend(len(numbers))
    return list(numbers)


def _dict(*args: Any, **kwargs: Any) -> Any:
    return _made(dict(*args, **kwargs))


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    if len(form) > 64 or re.search(r"%[^a-zA-Z%-]", form):
        raise TemplateLimit("has a format of the date that is not supported")
    try:
        fixed_s = float(os.environ[DATE_VARIABLE])
        return datetime.fromtimestamp(fixed_s, UTC).strftime(form)
    except KeyError:
        return datetime.now().astimezone().strftime(form)
    except (ValueError, OverflowError, OSError) as error:
        raise ModelFileError(
            f"{DATE_VARIABLE} is {os.environ[DATE_VARIABLE]!r}; expected seconds since 1970"
        ) from error
