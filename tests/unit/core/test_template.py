"""Templates of strangers: what they may do, what it costs them, and that they write the question."""

from __future__ import annotations

import json
import time
import tracemalloc
from itertools import product
from pathlib import Path

import pytest
from jinja2 import TemplateError

from edgereason.core.chat import ChatTemplate
from edgereason.core.template import filled, mark, render
from edgereason.core.types import Message
from edgereason.errors import ModelFileError, RequestError

ASKED = 'What is "2+2"?\nSagen Sie\'s – bitte.'
HELLO = [Message("system", "Be brief."), Message("user", ASKED)]


def tokenize(text: str, *, special: bool = False) -> list[int]:
    """Bytes, those of the template's own words told apart from those of contents."""
    return [1000 * special + byte for byte in text.encode()]


def prompt(source: str, messages: list[Message] = HELLO) -> str:
    ids = ChatTemplate(source, "<s>", "</s>").encode(messages, tokenize)
    return bytes(one % 1000 for one in ids).decode()


LOOP = "{% for m in messages %}{{ m.role }}: "
PARTS = "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"


@pytest.mark.parametrize(
    "content",
    [
        PARTS,
        "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}",
        "{{ m.content[0].text }}",
        "{{ m.content[0]['text'] }}",
        "{{ m.content | map(attribute='text') | join('') }}",
        "{{ m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | first }}",
        "{% for p in m.content | rejectattr('type', 'equalto', 'image') %}{{ p.text | trim }}{% endfor %}",
        "{% if m.content is string %}{{ m.content }}{% else %}" + PARTS + "{% endif %}",
        "{% if m.content is not string %}" + PARTS + "{% endif %}",
        "{% if m.content is string %}{{ raise_exception('parts, please') }}{% endif %}" + PARTS,
        "{% set n = namespace(t='') %}{% for p in m.content %}{% set n.t = n.t ~ p.text %}{% endfor %}"
        "{{ n.t }}",
        "{% macro show(c) %}{% for p in c %}{{ p.text }}{% endfor %}{% endmacro %}{{ show(m.content) }}",
        "{{ m.content }}",
        "{% generation %}{{ m.content }}{% endgeneration %}",
        "{% for c in m.content %}{{ c.text or c }}{% endfor %}",
    ],
)
def test_contents_are_written_whether_a_template_takes_texts_or_parts(content: str) -> None:
    expected = f"system: Be brief.|user: {ASKED}|"
    assert prompt(LOOP + content + "|{% endfor %}") == expected


@pytest.mark.parametrize(
    ("source", "is_ascii", "indent"),
    [
        ("{{ messages | tojson }}", False, None),
        ("{{ messages | tojson(ensure_ascii=False) }}", False, None),
        ("{{ messages | tojson(ensure_ascii=True) }}", True, None),
        ("{{ messages | tojson(indent=2) }}", False, 2),
        ("{{ messages | tojson(indent=4, ensure_ascii=true) }}", True, 4),
        ("{% set all = messages | tojson %}{{ all | trim }}", False, None),
        ("{{ messages | list | tojson(ensure_ascii=false, sort_keys=false) }}", False, None),
        ("{{ (messages | tojson) ~ '' }}", False, None),
        ("{{ messages[:1000] | tojson | safe }}", False, None),
        ("{% filter trim %} {{ messages | tojson }} {% endfilter %}", False, None),
    ],
)
def test_messages_in_json_are_what_python_would_write(
    source: str, is_ascii: bool, indent: int | None
) -> None:
    expected = [{"role": one.role, "content": one.content} for one in HELLO]
    assert prompt(source) == json.dumps(expected, ensure_ascii=is_ascii, indent=indent)


def test_json_inside_of_json_is_escaped_twice() -> None:
    inner = json.dumps({"content": ASKED}, ensure_ascii=False)
    source = "{{ {'said': {'content': messages[-1].content} | tojson} | tojson }}"
    assert prompt(source, HELLO[1:]) == json.dumps({"said": inner}, ensure_ascii=False)


@pytest.mark.parametrize(
    "source",
    [
        "Hello",
        "",
        "{{ messages[0].role }}",
        "{{ messages | length }}",
        "{{ messages[0].content }}",  # the system's alone
        "{{ messages[1].content }}",  # not the system's
        "{{ messages[-1].content[:1] }}{{ messages[0].content }}",
        "{% for m in messages %}{{ m.text }}{% endfor %}",
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{% endif %}{% endfor %}",
        LOOP + "{% for p in m.content %}{% if p.type == 'image' %}{{ p }}{% endif %}{% endfor %}{% endfor %}",
        "{% for m in messages %}{{ m.content | replace(m.content, 'something else') }}{% endfor %}",
        "{% for m in messages %}{{ m.content | length }}{% endfor %}",
        "{% for m in messages %}{{ m.content | reverse }}{% endfor %}",
        "{% for m in messages[:0] %}{{ m.content }}{% endfor %}",
        "{# {{ messages[0].content }}{{ messages[1].content }} #}",
    ],
)
def test_a_template_that_drops_what_was_said_is_refused(source: str) -> None:
    what = r"chat template (does not write message|takes a message apart)"
    with pytest.raises((ModelFileError, RequestError), match=what):
        prompt(source)


@pytest.mark.parametrize(
    "wrong", ["\ue0007\ue001", "\ue000", "\ue001", "\ue000x\ue001", "\ue0000", "\ue000\ue001"]
)
def test_a_mark_that_stands_for_no_message_is_refused(wrong: str) -> None:
    with pytest.raises(ModelFileError, match="private use"):
        prompt("{{ messages[0].content }}{{ messages[1].content }}" + wrong)


def test_what_a_message_says_is_never_taken_for_a_mark() -> None:
    said = "look: \ue0000\ue001 and \ue0009\ue001"
    assert prompt("{{ messages[0].content }}", [Message("user", said)]) == said


def test_marks_are_filled_by_number_with_the_text_as_it_is() -> None:
    rendered = f"a{mark(1)}b{mark(0)}{mark(1)}"
    assert filled(rendered, ["x", "y"]) == [
        ("a", False), ("y", True), ("b", False), ("x", True), ("", False), ("y", True), ("", False),
    ]  # fmt: skip


def grown(start: str, step: str) -> str:
    """A template that puts a value into a larger one of its kind, 60 times."""
    loop = f"{{% for i in range(60) %}}{{% set ns.s = {step} %}}{{% endfor %}}"
    return f"{{% set ns = namespace(s={start}) %}}{loop}{{{{ ns.s }}}}"


def nested(loop: str, inside: str) -> str:
    """Loops in loops, four deep."""
    return f"{{% for a in {loop} %}}" * 4 + inside + "{% endfor %}" * 4


ENDLESS = [
    nested("range(99999)", ""),
    nested("'x' * 9999", "x"),
    nested("range(99999)", "{{ [-10**9] | map('!spend') | list }}"),
    nested("range(99999) if 'x' * 99999 == 'x' * 99998 ~ 'y'", "") + nested("range(999)", ""),
    "{% set ns = namespace(n=0) %}" + nested("range(99)", "{% set ns.n = ns.n + 1 %}{{ ns.n }}"),
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% macro f(n) %}{{ caller() }}{% call f(n) %}{{ n }}{% endcall %}{% endmacro %}"
    "{% call f(9) %}{% endcall %}",
    "{% for x in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
    "{% for i in range(10**12) %}{% endfor %}",
    "{% for i in range(99999) %}" + "x" * 50_000 + "{% endfor %}",
]
LARGE = [
    grown("'xy'", "ns.s + ns.s"),
    grown("'xy'", "ns.s ~ ns.s"),
    grown("'xy'", "ns.s.replace('', ns.s)"),
    grown("'xy'", "ns.s | replace('x', ns.s)"),
    grown("'xy'", "ns.s.join(ns.s)"),
    grown("'xy'", "ns.s | join(ns.s)"),
    grown("'xy'", "[ns.s, ns.s] | string"),
    grown("[1]", "[ns.s, ns.s]"),
    grown("[1]", "ns.s + ns.s"),
    grown("{}", "{'a': ns.s, 'b': ns.s}"),
    grown("{}", "dict(a=ns.s, b=ns.s)"),
    grown("3", "ns.s * ns.s"),
    "{% set n = namespace(s='xy') %}"
    "{% for i in range(60) %}{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
    "{{ [0] * 10**9 }}",
    "{{ 10**9 * [0] }}",
    "{{ 'x' * 10**10 }}",
    "{{ (1, 2) * 10**9 }}",
    "{{ 10**10**10 }}",
    "{{ 2**(2**40) }}",
    "{{ range(10**9) | list }}",
    "{{ 'x' | center(10**9) }}",
    "{{ 'x'.center(10**9) }}",
    "{{ 'x'.zfill(10**9) }}",
    "{{ 'x'.ljust(10**9) }}",
    "{{ '\t'.expandtabs(10**9) }}",
    "{{ 'x' | indent(10**9, true) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ [1] | tojson(indent=10**9) }}",
    "{{ [1, 2] | tojson(separators=('x' * 99999, ':')) }}",
    "{{ [1] | batch(10**9, 0) | list }}",
    "{{ [1] | slice(10**9) | list }}",
    "{{ lipsum(n=10**6) }}",
    "{{ 1.5 | round(10**9, 'ceil') }}",
    "{{ strftime_now('%1000000000Y') }}",
    "{{ messages }}" * 50_000,
]
WRONG = [
    # deep
    "{{ " + "(" * 30_000 + "1" + ")" * 30_000 + " }}",
    "{{ " + "not " * 20_000 + "1 }}",
    "{{ " + "[" * 5_000 + "]" * 5_000 + " }}",
    "{% if 1 %}" * 4_000 + "{% endif %}" * 4_000,
    "{% for a in [1] %}" * 40 + "{% endfor %}" * 40,
    "{{ " + "1 + " * 9_000 + "1 }}",
    "{{ " + "9" * 9_000 + " }}",
    # not valid, or of other templates
    "{% break %}",
    "{% continue %}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "{% do x %}",
    "{% if %}",
    "{{ }}",
    "{{ x | nothing }}",
    "{{ x is nothing }}",
    # what a text or a number can't do
    "{{ 'a' + 1 }}",
    "{{ 'a' - 'b' }}",
    "{{ 1 / 0 }}",
    "{{ 1 % 0 }}",
    "{{ 1.0 ** 'x' }}",
    "{{ 10.0 ** 400 }}",
    "{{ messages.nothing.more }}",
    "{{ messages() }}",
    "{{ nothing() }}",
    "{{ messages[0].content() }}",
    "{{ [3, 'a'] | sort }}",
    "{{ namespace | tojson }}",
    "{{ {[1]: 2} }}",
    "{{ 'x'.split('') }}",
    "{% for i in 5 %}{% endfor %}",
    "{{ 'abc'.index('z') }}",
    "{{ raise_exception('no') }}",
    # out of the sandbox
    "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ raise_exception.__globals__.json.dumps(1) }}",
    "{{ ('{0.__class__.__init__}').format(messages) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'system'}) }}",
    "{{ cycler.__init__.__globals__.os }}",
]
ABOUT = "the model's chat template"


def short(source: str) -> str:
    return source[:60]


@pytest.mark.parametrize("source", ENDLESS, ids=short)
def test_a_template_without_an_end_ends_after_seconds(source: str) -> None:
    start_s = time.thread_time()
    with pytest.raises(ModelFileError, match=ABOUT):
        prompt(source)
    assert time.thread_time() - start_s < 10  # about 2 at the most


@pytest.mark.parametrize("source", LARGE, ids=short)
def test_a_template_that_would_fill_the_memory_takes_little(source: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=ABOUT):
            prompt(source)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 200e6


@pytest.mark.parametrize("source", WRONG, ids=short)
def test_a_template_that_fails_is_an_error_in_one_short_line(source: str) -> None:
    with pytest.raises(ModelFileError, match=ABOUT) as caught:
        prompt(source)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_namespace_that_holds_itself_is_shown_without_what_it_holds() -> None:
    source = grown("namespace()", "namespace(a=ns.s, b=ns.s)") + "{{ messages[0].content }}"
    assert prompt(source, HELLO[1:]) == f"<Namespace>{ASKED}"


def test_an_error_of_a_template_is_shown_without_control_characters() -> None:
    with pytest.raises(ModelFileError) as caught:
        prompt("{{ raise_exception('\x1b[2J\x07 bad\nnews' ~ 'x' * 9999) }}")
    assert "bad news" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_long_conversation_is_far_from_the_limits() -> None:
    said = [Message("user", "Hi?"), Message("assistant", "Yes.")] * 1000 + [Message("user", "Hi?")]
    source = LOOP + "{% if loop.first %}{{ bos_token }}{% endif %}{{ m.content | trim }}{% endfor %}"
    assert prompt(source, said).count("Hi?") == 1001


def test_real_templates_render_as_in_transformers() -> None:
    trl = pytest.importorskip("trl")
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    paths = sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))
    assert paths
    for path, roles in product(paths, (["user"], ["system", "user"], ["user", "assistant", "user"])):
        messages = [{"role": role, "content": f"words of {role} {n}"} for n, role in enumerate(roles)]
        values = {
            "messages": messages,
            "add_generation_prompt": True,
            "bos_token": "<s>",
            "eos_token": "</s>",
        }
        source = path.read_text("utf-8")
        try:
            expected = utils._compile_jinja_template(source).render(**values)
        except TemplateError:
            with pytest.raises(ModelFileError):
                render(source, **values)
        else:
            assert render(source, **values) == expected, path.name
