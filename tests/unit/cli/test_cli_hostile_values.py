"""Numbers and names that nobody can mean: one line, an exit code, and nothing is changed or loaded."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import FAILED, USAGE, assert_refused

from edgereason.config import load_json, load_toml, read_toml
from edgereason.core.bundle import Bundle
from edgereason.core.types import Budget, Message, Request, Sampling
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import BundleError, ConfigError, ModelFileError, PullError, RequestError
from edgereason.hub.pull import resolve
from edgereason.hub.store import cache_folder
from edgereason.reasoning.model import load
from edgereason.records.context import RunContext

NINES = "9" * 5_000
HUGE = str(10**20)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ask", "q", "--budget", NINES], FAILED, "at most 2147483647"),
        (["ask", "q", "--budget", "0" * 5_000], FAILED, "must be at least 1"),
        (["ask", "q", "--budget", NINES + "s"], FAILED, "at most an hour"),
        (["ask", "q", "--budget", "-" + NINES], FAILED, "tokens, as 400"),
        (["ask", "q", "--budget", "4294967696"], FAILED, "at most 2147483647"),
        (["ask", "q", "--budget", "٤٠٠"], FAILED, "tokens, as 400"),
        (["ask", "q", "--max-tokens", HUGE], FAILED, "max_tokens must be at most 2147483647"),
        (["ask", "q", "--max-tokens", NINES], USAGE, "--max-tokens"),
        (["ask", "q", "--streams", HUGE], FAILED, "between 1 and 64"),
        (["ask", "q", "--seed", HUGE], FAILED, "seed"),
        (["ask", "q", "--temperature", "1e400"], FAILED, "between 0 and 5"),
        (["ask", "q", "--threads", "100000"], USAGE, "--threads"),
        (["ask", "q", "--threads", HUGE], USAGE, "--threads"),
        (["ask", "q", "--context", "-1"], USAGE, "--context"),
        (["ask", "--file", "x" * 5_000], FAILED, "File name too long"),
        (["ask", "--file", "\udcff"], FAILED, "No such file"),
        (["ask", "q", "--bundle", "x" * 5_000], FAILED, "File name too long"),
        (["ask", "q", "--bundle", "\udcff"], FAILED, "not a bundle"),
        (["eval", "gsm8k", "--config", "x" * 5_000], FAILED, "File name too long"),
        (["eval", "\udcff"], FAILED, "there is no task"),
        (["eval", "gsm8k", "--limit", HUGE], FAILED, "must be a number of at most 63 bits"),
        (["eval", "gsm8k", "--parallel", "4294967297"], FAILED, "parallel must be below 2³¹"),
        (["eval", "gsm8k", "--top-k", HUGE], FAILED, "at most 63 bits"),
        (["eval", "gsm8k", "--threads", "-5"], FAILED, "threads"),
        (["eval", "sweep", "x" * 5_000], FAILED, "File name too long"),
        (["eval", "compare", "x" * 5_000, "y"], FAILED, "x"),
        (["bundle", "show", "x" * 5_000], FAILED, "File name too long"),
        (["report", "x" * 5_000, "-o", "report"], FAILED, "File name too long"),
    ],
)
def test_a_value_that_nobody_can_mean_is_one_line(cli, arguments, code, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(cli(*arguments), code, says)
    assert not cli.loads
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line",
    [
        "/save /",
        "/save .",
        "/save " + "x" * 5_000,
        "/save a\0b",
        "/save /dev/null/talk.kv",
        "/save ~nobody-of-this-name/talk.kv",
        "/load /",
        "/load " + "x" * 5_000,
        "/load a\0b",
        "/load ~nobody-of-this-name/talk.kv",
        "/streams " + NINES,
        "/streams ²",
        "/streams -1",
        "/drop " + NINES,
        "/drop 99999999999",
        "/budget " + NINES,
        "/budget " + NINES + "s",
        "/mode " + "x" * 5_000,
    ],
)
def test_a_line_that_cannot_be_done_leaves_the_conversation(cli, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = cli("chat", "--mode", "think", stdin=f"What is 17 × 23?\n{line}\n/drop 1\n")
    assert ran.code == FAILED
    assert "Traceback" not in ran.err
    said = [one for one in ran.err.splitlines() if one.startswith("edgereason: ")]
    assert len(said) == 1
    assert len(said[0]) < 5_200
    assert "0 turns left" in ran.err  # the turn was still there to be dropped
    assert ran.out.strip() == "The final answer is 391."


@pytest.mark.parametrize(
    "make",
    [
        lambda: Budget(limit_tokens=10**5_000),
        lambda: Budget(limit_tokens=-(10**5_000)),
        lambda: Budget(limit_s=10**5_000),
        lambda: Budget(limit_tokens=2**31),
        lambda: Sampling(top_k=10**20),
        lambda: Sampling(top_k=2**32 + 1),
        lambda: Sampling(top_k=-(10**5_000)),
        lambda: Sampling(temperature=10**5_000),
        lambda: Sampling(top_p=-(10**400)),
        lambda: Request(messages=(Message("user", "?"),), seed=10**5_000),
        lambda: Request(messages=(Message("user", "?"),), streams=10**5_000),
        lambda: Request(messages=(Message("user", "?"),), max_tokens=10**5_000),
        lambda: Message("user", "half a character: \ud83d"),
        lambda: load("a\0b"),
        lambda: load("x" * 5_000),
        lambda: load("half a character: \ud83d"),
        lambda: load(threads=513),
        lambda: load(threads=10**20),
        lambda: load(context_tokens=2**32 + 1),
        lambda: LlamaEngine(Path("missing.gguf"), threads=100_000),
        lambda: LlamaEngine(Path("missing.gguf"), context_tokens=10**20),
        lambda: RunContext(threads=10**20),
    ],
)
def test_python_refuses_the_same_by_a_request_error(make):
    with pytest.raises(RequestError) as refused:
        make()
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("number", [31, 2**31 - 1])
def test_the_largest_number_of_32_bits_is_a_budget(number):
    limit_tokens = max(number, 32)
    assert Budget.parse(str(limit_tokens)).limit_tokens == limit_tokens
    assert Budget.parse("000" + str(limit_tokens)).limit_tokens == limit_tokens


@pytest.mark.parametrize("name", ["x" * 5_000, "x" * 256, "~nobody-of-this-name/m.gguf", "a\0b", "\udcff"])
def test_a_name_that_no_file_has_is_not_a_model(name):
    with pytest.raises(PullError):
        resolve(name)


def test_a_model_may_have_a_name_that_is_not_utf_8(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.gguf")
    path.write_bytes(b"GGUF but no more")
    with pytest.raises(ModelFileError):  # llama.cpp finds the file, and that it is not a model
        LlamaEngine(path)


@pytest.mark.parametrize("variable", ["", "~/cache"])
def test_without_a_home_the_cache_is_asked_for(monkeypatch, variable, tmp_path):
    def unknown(_user: object) -> None:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME", "EDGEREASON_CACHE"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv("EDGEREASON_CACHE", variable)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PullError, match=r"no home directory.*EDGEREASON_CACHE"):
        cache_folder()
    assert not list(tmp_path.iterdir())


DEEP = "[" * 50_000
DEEP_OBJECT = '{"a":' * 50_000


@pytest.mark.parametrize(
    "text", [DEEP, DEEP + "]" * 50_000, DEEP_OBJECT, f"[{NINES}]", '{"a": NaN', "\ud83d", ""]
)
def test_json_that_can_not_be_read_is_a_value_error(text):
    with pytest.raises(ValueError):  # whatever is said
        load_json(text)


@pytest.mark.parametrize("text", [f"a = {DEEP}", f"a = {DEEP}{']' * 50_000}", f"a = {NINES}", "a = \0"])
def test_toml_that_can_not_be_read_is_one_line(text, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ValueError):
        load_toml(text)
    with pytest.raises(ConfigError) as refused:
        read_toml(path)
    assert len(str(refused.value)) < 400


def test_a_long_name_stands_once_in_the_error():
    name = "x" * 5_000
    with pytest.raises(ConfigError) as refused:
        read_toml(Path(name))
    assert str(refused.value) == f"{name} can't be read: File name too long"


@pytest.mark.parametrize("text", [DEEP, DEEP_OBJECT, f'{{"version": {NINES}}}'])
def test_a_manifest_nested_too_deep_is_not_a_bundle(text, tmp_path, cli):
    (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match="can't be read as JSON"):
        Bundle.read(tmp_path)
    assert_refused(cli("bundle", "show", str(tmp_path)), FAILED, "can't be read as JSON")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="the system has no endless device")
@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("ask --file /dev/zero", "can't read the question from /dev/zero: it has more than"),
        ("ask - < /dev/zero", "can't read the question from standard input: it has more than"),
        ("eval gsm8k --config /dev/zero", "/dev/zero can't be read: it has more than"),
        ("report /dev/zero -o report", "/dev/zero is not JSON: it has more than"),
        ("eval compare /dev/zero /dev/zero", "/dev/zero"),
        ("bundle build --from linked -o b", "linked/bundle.json can't be read as JSON: it has more than"),
    ],
)
def test_input_without_an_end_is_one_line_and_takes_little_memory(command, says, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "bundle.json").symlink_to("/dev/zero")
    shell = f"ulimit -v 4000000; exec {sys.executable} -m edgereason {command}"
    ran = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (FAILED, "", 1), ran.stderr
    assert says in ran.stderr


def test_a_line_without_an_end_ends_a_chat(cli, monkeypatch):
    monkeypatch.setattr("edgereason.cli.chat._MOST_LINE_BYTES", 100)
    ran = cli("chat", "--mode", "think", stdin=f"What is 17 × 23?\n{'x' * 101}\n")
    assert (ran.code, ran.out.strip()) == (FAILED, "The final answer is 391.")
    assert "edgereason: a line of standard input has more than 100 bytes, or no end\n" in ran.err


def test_json_of_ordinary_depth_is_read():
    assert load_json(json.dumps([[[1]]])) == [[[1]]]
