"""`edgereason serve` as a process: it listens at once, answers as the library does, and ends in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import edgereason
from served import USER, Site

SIGTERM = signal.SIGTERM


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], Site]]:
    """The command with these arguments, listening."""
    command = [sys.executable, "-m", "edgereason", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert "listening at http://127.0.0.1:" in line, line + process.stderr.read()
        yield process, Site(int(line.rsplit(":", 1)[1]), None, None)  # type: ignore[arg-type]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def wait_until_ready(site: Site) -> None:
    end_s = time.monotonic() + 60
    while site.ask("/health").status != 200:
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_a_served_model_answers_as_the_library_does_and_ends_in_order(smollm2: Path) -> None:
    with edgereason.load(smollm2) as model:
        expected = model.ask("2+2?", mode="think", budget=40, seed=3)
    with started("--model", str(smollm2), "--name", "tiny", "--cache-ram", "64") as (process, site):
        wait_until_ready(site)
        assert site.ask("/v1/models").json["data"][0]["id"] == "tiny"
        reply = site.chat(seed=3, think=True, thinking_budget_tokens=40)
        assert reply.said() == expected.text
        assert reply.json["edgereason"]["answer"] == expected.answer
        process.send_signal(SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM")
def test_streams_under_way_are_answered_before_the_server_ends(smollm2: Path) -> None:
    with started("--model", str(smollm2), "--drain", "60") as (process, site):
        wait_until_ready(site)
        body = {"messages": USER, "stream": True, "think": True, "thinking_budget_tokens": 4000, "seed": 1}
        with site.open(body) as first, site.open({**body, "seed": 2}) as second:
            for client in (first, second):
                client.read_until(b"reasoning_content")
            process.send_signal(SIGTERM)
            for client in (first, second):
                assert client.read_all().rstrip().endswith(b"data: [DONE]\n\n\r\n0")
                assert client.said()
        assert process.wait(62) == 0


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "edgereason", "serve", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment}
    )
    return done.returncode, done.stderr


def test_a_public_address_without_a_key_is_refused(tmp_path: Path) -> None:
    code, said = run("--host", "0.0.0.0", "--model", str(tmp_path / "none.gguf"))
    assert (code, "set an API key" in said, said.count("\n")) == (
        1,
        True,
        1,
    )  # before the model is looked for


@pytest.mark.parametrize(
    ("content", "says"),
    [("", "holds no API key"), ("two words", "printable ASCII"), (None, "can't read API keys")],
)
def test_a_file_without_a_usable_key_is_refused(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    code, said = run("--api-key-file", str(path))
    assert (code, says in said, said.count("\n")) == (1, True, 1)


def test_every_website_may_ask_only_with_a_key() -> None:
    code, said = run("--cors-origin", "*")
    assert code == 1
    assert "set an API key" in said
    code, said = run("--reasoning-field", "thoughts", EDGEREASON_API_KEY="secret")
    assert code == 2
    assert "reasoning_content" in said
