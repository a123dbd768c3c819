"""Files damaged at random but reproducibly, and a process for each that shows how it ends."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import struct
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

import gguf

_VALUES: Final = (
    *range(13),
    16,
    24,
    31,
    32,
    64,
    255,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63,
    2**64 - 1,
)
_NUMBERS: Final = (0.0, -1.0, float("nan"), float("inf"), 1e38, 1e-45)


def spots(path: Path) -> list[int]:
    """Where a GGUF's types, values and shapes stand: what a parser believes. Metadata as often as tensors."""
    reader = gguf.GGUFReader(path)
    fields = [field for field in reader.fields.values() if not field.name.startswith("GGUF.")]
    fields *= 1 + len(reader.tensors) // len(fields)
    every = (*fields, *(tensor.field for tensor in reader.tensors))
    behind = [field.offset + 8 + len(field.name.encode()) for field in every]
    return [at + further for at in behind for further in (0, 4, 4, 8)]


def mutate(data: bytes, seed: int, at_best: Sequence[int]) -> bytes:
    """`data` with one to three changes, most of them at the given places."""
    rng = random.Random(seed)
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 3))):
        if not found:
            break
        is_best = at_best and rng.random() < 0.8
        at = rng.choice(at_best) if is_best else rng.randrange(len(found))
        at = max(0, min(at, len(found) - 8))
        kind = rng.randrange(5 if is_best else 8)
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at] = rng.randrange(256)
        elif kind == 2:
            found[at : at + 4] = struct.pack("<I", rng.choice(_VALUES) % 2**32)
        elif kind == 3:
            found[at : at + 8] = struct.pack("<Q", rng.choice(_VALUES))
        elif kind == 4:
            found[at : at + 4] = struct.pack("<f", rng.choice(_NUMBERS))
        elif kind == 5:
            del found[at : at + rng.randrange(1, 64)]
        elif kind == 6:
            found[at:at] = rng.randbytes(rng.randrange(1, 64))
        else:
            del found[max(8, at) :]
    return bytes(found)


def change_value(data: bytes, key: str, value: bytes, *, skip: int = 4) -> bytes:
    """A GGUF with other bytes behind a key: over its value, or with `skip` 0 over its type."""
    at = data.index(key.encode()) + len(key) + skip
    return data[:at] + value + data[at + len(value) :]


def ending(carry_out: Callable[[], object]) -> str:
    """How a process of its own ends that carries something out: "well", a signal's name or an exception's.

    To be called where no other thread runs.
    """
    child = os.fork()
    if child == 0:
        code = 0
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            signal.alarm(60)
            carry_out()
        except BaseException:
            code = 1
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return "well" if os.WEXITSTATUS(status) == 0 else "exception"


_WORDS: Final = (
    b"null", b"[]", b"{}", b'"x"', b'""', b"1e999", b"NaN", b"Infinity", b"-1", b"0", b"1.5", b"true",
    b"10000000000000000000000", b'"\\ud800"', b"[" * 50_000,
)  # fmt: skip
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9.e+-]+|true|false|null|\{|\[')


def mutate_text(data: bytes, seed: int) -> bytes:
    """JSON or TOML with another value in the place of one, or damaged as `mutate` does."""
    rng = random.Random(seed)
    if rng.random() < 0.3:
        return mutate(data, seed, range(max(1, len(data) - 8)))
    tokens = list(_TOKEN.finditer(data))
    values = [one for one in tokens if data[one.end() : one.end() + 1] != b":"]
    found = rng.choice(values if rng.random() < 0.8 else tokens)
    return data[: found.start()] + rng.choice(_WORDS) + data[found.end() :]


def mutate_heads(data: bytes, seed: int) -> bytes:
    """A safetensors file of heads, damaged in its header or in the JSON inside it."""
    end = 8 + int.from_bytes(data[:8], "little")
    if seed % 4 == 0:
        return mutate(data, seed, range(end))
    header = mutate_text(data[8:end], seed)
    if seed % 2:
        values = json.loads(data[8:end])
        inner = values["__metadata__"]["edgereason-heads"].encode()
        values["__metadata__"]["edgereason-heads"] = mutate_text(inner, seed).decode("utf-8", "replace")
        header = json.dumps(values).encode()
    return len(header).to_bytes(8, "little") + header + data[end:]


_PIECE: Final = re.compile(r"\{%-?.*?-?%\}|\{\{.*?\}\}|[^{]+|\{", re.DOTALL)
_WORD: Final = re.compile(r"\w+|[^\w\s]")
_EXPRESSIONS: Final = (
    "messages", "messages[0]", "messages[-1].content", "none", "undefined_name", "''", "'x' * 10**9",
    "10**10**5", "-1", "1.5", "[]", "{}", "range(10**9)", "namespace(a=1)", "loop", "messages | tojson",
    "'%s' % messages", "messages[0].content[::-1]", "messages * 999", "lipsum()", "cycler", "self",
    "().__class__", "'\ue0000\ue001'", "raise_exception('no')", "messages | map('upper') | list",
    "bos_token ~ eos_token", "1 / 0", "'\ud800'",
)  # fmt: skip
_STATEMENTS: Final = (
    "{% for i in range(99999) %}", "{% endfor %}", "{% if messages %}", "{% endif %}", "{% else %}",
    "{% break %}", "{% include 'x' %}", "{% macro m(a) %}", "{% endmacro %}", "{{ m(m) }}",
    "{% set messages = [] %}", "{% raw %}", "{% generation %}", "{% endgeneration %}", "{# ",
    "{% set ns = namespace(s='x') %}", "{% block b %}", "{{", "{% for a in messages recursive %}",
    "{% call m() %}", "{% filter upper %}", "%}", "{% extends 'x' %}", "\0",
)  # fmt: skip


def mutate_template(source: str, seed: int) -> str:
    """A chat template with pieces dropped, repeated, moved or replaced by what no model's maker writes."""
    rng = random.Random(seed)
    pieces = _PIECE.findall(source)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, kind = rng.randrange(len(pieces)), rng.randrange(6)
        if kind == 0 and len(pieces) > 1:
            del pieces[at]
        elif kind == 1:
            pieces[at:at] = [pieces[at]] * rng.choice((1, 2, 200))
        elif kind == 2:
            pieces.insert(at, rng.choice(_STATEMENTS))
        elif kind == 3:
            pieces.insert(at, "{{ " + rng.choice(_EXPRESSIONS) + " }}")
        elif kind == 4:
            other = rng.randrange(len(pieces))
            pieces[at], pieces[other] = pieces[other], pieces[at]
        elif words := list(_WORD.finditer(pieces[at])):
            word = rng.choice(words)
            new = rng.choice((*_EXPRESSIONS, "(", "not", "+", "|"))
            pieces[at] = pieces[at][: word.start()] + new + pieces[at][word.end() :]
    return "".join(pieces)


_ARGUMENTS: Final = (
    "", " ", "0", "-1", "1", "3.5", "1e999", "nan", "-inf", str(2**31), str(2**32 + 1), str(10**20),
    "9" * 5000, "٤٠٠", "²", "true", "none", "-", "--", "--help", "😀", "a\nb", "\x1b[31mred\x1b[0m",
    "\udcff", "x" * 300, "x" * 5000, "/", ".", "..", "~nobody-of-this-name/x", "/dev/null", "/dev/zero",
    "/dev/full", "missing", "missing/x.gguf", "/dev/null/x", "reasoning-gym:no_such",
    "reasoning-gym:chain_sum:0", "hf:x/y", "chat", "high",
)  # fmt: skip


def mutate_arguments(
    arguments: Sequence[str], seed: int, *, others: Sequence[str], calm: Collection[str] = ()
) -> list[str]:
    """A command line with one or two arguments that nobody means.

    Args:
        arguments: that are sound.
        seed: of the changes.
        others: more arguments that take the place of one, such as files of another kind.
        calm: options whose number is how much is to be done: a large one is long work, not a fault.
    """
    rng = random.Random(seed)
    found = list(arguments)
    for _ in range(rng.choice((1, 1, 2))):
        values = [number for number, one in enumerate(found) if number > 0 and not one.startswith("-")]
        is_value = bool(values) and rng.random() < 0.7
        at, kind = rng.choice(values or [0]), rng.randrange(6 if is_value else 10)
        if not is_value:
            at = rng.randrange(len(found))
        strange = rng.choice((*_ARGUMENTS, *others))
        if found[at - 1] in calm and strange[:1] in "123456789":
            strange = "-3"
        if kind < 6:
            found[at] = strange
        elif kind == 6 and len(found) > 1:
            del found[at]
        elif kind == 7:
            found.insert(at, strange if found[at - 1] not in calm else "0")
        elif kind == 8:
            found.insert(at, found[at])
        else:
            other = rng.randrange(len(found))
            found[at], found[other] = found[other], found[at]
    return found
