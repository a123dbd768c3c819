"""The road from the hub: hashes, byte ranges, stalls, refusals, and two pulls at once."""

from __future__ import annotations

import hashlib
import shutil
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from fake_hub import CONTENT, make_model

from edgereason.errors import PullError
from edgereason.hub.pull import pull

HALF = len(CONTENT) // 2


def leave_part(cache, content: bytes):
    cache.mkdir(parents=True)
    part = cache / "tiny.gguf.part"
    part.write_bytes(content)
    return part


def test_the_file_comes_from_the_pinned_revision_and_nothing_else_stays(hub, cache):
    path = pull(make_model())
    assert path == cache / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert hub.paths == ["/maker/tiny-GGUF/resolve/c0ffee/tiny.gguf"]
    assert {entry.name for entry in cache.iterdir()} <= {"tiny.gguf", "tiny.gguf.lock", ".tiny.gguf.json"}


def test_what_is_here_isnt_asked_for_again(hub):
    pull(make_model())
    pull(make_model())
    assert len(hub.paths) == 1


def test_the_name_stands_for_nothing_before_the_hash_was_checked(hub, cache):
    seen = []
    pull(make_model(), progress=lambda state: seen.append((state, (cache / "tiny.gguf").exists())))
    assert not any(exists for _, exists in seen)
    last = seen[-1][0]
    assert (last.done_bytes, last.total_bytes, last.source) == (len(CONTENT), len(CONTENT), "hub")
    counts = [state.done_bytes for state, _ in seen]
    assert counts == sorted(counts)


def test_wrong_bytes_are_deleted_and_both_hashes_named(hub, cache):
    hub.content = b"x" + CONTENT[1:]
    with pytest.raises(PullError) as error:
        pull(make_model(mirror=True))
    assert hashlib.sha256(hub.content).hexdigest() in str(error.value)
    assert hashlib.sha256(CONTENT).hexdigest() in str(error.value)
    assert not list(cache.glob("tiny.gguf*part*"))
    assert not (cache / "tiny.gguf").exists()


def test_an_interrupted_pull_continues_where_it_was(hub, cache):
    def ctrl_c(state):
        if state.done_bytes >= HALF:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(make_model(), progress=ctrl_c)
    left = (cache / "tiny.gguf.part").stat().st_size
    assert HALF <= left < len(CONTENT)

    assert pull(make_model()).read_bytes() == CONTENT
    assert hub.ranges[-1] == f"bytes={left}-"
    assert hub.sizes[-1] == len(CONTENT) - left


def test_a_part_that_is_complete_needs_only_its_hash(hub, cache):
    leave_part(cache, CONTENT)
    assert pull(make_model()).read_bytes() == CONTENT
    assert hub.paths == []


def test_a_wrong_beginning_is_found_by_the_hash_and_not_kept(hub, cache):
    part = leave_part(cache, b"\0" * HALF)
    with pytest.raises(PullError, match="SHA-256"):
        pull(make_model())
    assert not part.exists()
    assert pull(make_model()).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "misbehaviour",
    [
        {"honours_range": False},
        {"refuses_range": True},
        {"content_range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"},
        {"content_range": f"bytes {HALF}-{len(CONTENT)}/{len(CONTENT) + 1}"},
        {"content_range": "nonsense"},
    ],
    ids=["ignores ranges", "416", "another start", "another length", "nonsense"],
)
def test_a_server_that_wont_continue_starts_over(hub, cache, misbehaviour):
    leave_part(cache, CONTENT[:HALF])
    for name, value in misbehaviour.items():
        setattr(hub, name, value)
    assert pull(make_model()).read_bytes() == CONTENT
    assert hub.ranges[0] == f"bytes={HALF}-"


def test_a_stall_is_continued_and_no_byte_comes_twice(hub):
    hub.sends = lambda number: 1000 if number <= 2 else None
    assert pull(make_model(), hub_timeout_s=0.1).read_bytes() == CONTENT
    assert hub.ranges == [None, "bytes=1000-", "bytes=2000-"]
    assert sum(hub.sizes) == len(CONTENT)


def test_a_download_that_stays_stalled_is_an_error_that_can_be_continued(hub, cache):
    hub.sends = lambda number: HALF if number == 1 else 0
    with pytest.raises(PullError, match=r"stopped at 0\.5 MB of 1\.0 MB.*pull again to continue"):
        pull(make_model(mirror=True), hub_timeout_s=0.05)
    assert (cache / "tiny.gguf.part").read_bytes() == CONTENT[:HALF]
    assert len(hub.paths) == 1 + 3  # three more attempts brought nothing


@pytest.mark.parametrize(
    ("code", "said"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "no such file"), (503, "HTTP 503")]
)
def test_a_refusal_is_said_clearly(hub, code, said):
    hub.status = code
    with pytest.raises(PullError, match=said):
        pull(make_model())


def test_another_file_is_noticed_by_its_length_before_a_byte_is_kept(hub, cache):
    hub.content = b"<html>please log in</html>"
    with pytest.raises(PullError, match=f"26 bytes, expected {len(CONTENT)}"):
        pull(make_model())
    assert not (cache / "tiny.gguf.part").exists()


def test_name_resolution_that_hangs_is_given_up_in_time(monkeypatch):
    released = threading.Event()

    def hang(*_args, **_kwargs):
        released.wait(10)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    start = time.monotonic()
    with pytest.raises(PullError, match="no answer in time"):
        pull(make_model(), hub_timeout_s=0.1)
    assert time.monotonic() - start < 1.5
    released.set()


def test_the_token_goes_to_the_hub_and_to_no_host_it_redirects_to(hub, start_hub, monkeypatch):
    other = start_hub()
    hub.redirect_to = other.url + "/blob"
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert pull(make_model()).read_bytes() == CONTENT
    assert hub.tokens == ["Bearer secret"]
    assert other.tokens == [None]


def test_an_endpoint_that_is_no_address_is_named(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    with pytest.raises(PullError, match=r"HF_ENDPOINT is 'mirror\.example'"):
        pull(make_model())


def test_a_full_disk_is_noticed_before_anything_is_asked(hub, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=500_000))
    with pytest.raises(PullError, match=r"1\.0 MB needed, 0\.5 MB free"):
        pull(make_model())
    assert hub.paths == []


def test_only_the_missing_bytes_need_space(hub, cache, monkeypatch):
    leave_part(cache, CONTENT[:-1000])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert pull(make_model()).read_bytes() == CONTENT


def test_a_file_of_the_wrong_size_is_pulled_again(hub, cache):
    cache.mkdir(parents=True)
    (cache / "tiny.gguf").write_bytes(CONTENT[:-1])
    assert pull(make_model()).read_bytes() == CONTENT


def test_damage_of_the_right_size_is_found_by_verify_only(hub, cache):
    notices: list[str] = []
    cache.mkdir(parents=True)
    (cache / "tiny.gguf").write_bytes(b"x" + CONTENT[1:])
    pull(make_model(), notice=notices.append)
    assert (hub.paths, notices) == ([], [])
    assert pull(make_model(), verify=True, notice=notices.append).read_bytes() == CONTENT
    assert len(hub.paths) == len(notices) == 1
    pull(make_model(), verify=True)
    assert len(hub.paths) == 1


def test_of_two_pulls_at_once_one_downloads_and_the_other_waits(hub):
    # GIVEN a first pull that is held up after half of the file until the second has said that it waits
    second_waits, first_is_half = threading.Event(), threading.Event()
    paths, notices = [], []

    def hold(state):
        if state.done_bytes >= HALF:
            first_is_half.set()
            assert second_waits.wait(5)

    def say(line):
        notices.append(line)
        second_waits.set()

    first = threading.Thread(target=lambda: paths.append(pull(make_model(), progress=hold)))
    first.start()
    assert first_is_half.wait(5)
    # WHEN a second one comes
    paths.append(pull(make_model(), notice=say))
    first.join()
    # THEN both have the file and it came once
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == CONTENT
    assert len(hub.paths) == 1
    assert len(notices) == 1
    assert "waiting" in notices[0]
