"""`edgereason export`: what is printed, what is refused, and with which exit code."""

from __future__ import annotations

import json
import sys

import pytest
from refusals import FAILED, USAGE, assert_refused
from tiny_bundle import write_base, write_tiny_adapter

from edgereason.bundles.build import Parts, build


@pytest.fixture
def run(cli, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: cli("export", "onnx", *map(str, arguments))


@pytest.fixture
def bundle(tmp_path):
    """One called `b`, its base in it."""
    return build(tmp_path / "b", Parts(base=write_base(tmp_path / "tiny.gguf"), include_base=True))


def test_every_file_is_named_with_its_size(run, bundle, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    ran = run("b", "-o", "out", "--context", 64, "--prefill", 8)
    assert ran.code == 0, ran.err
    said = [line.partition(":")[0] for line in ran.out.splitlines()]
    assert said == [
        f"out/{path.name}" for path in sorted((tmp_path / "out").iterdir()) if path.stem != "manifest"
    ]
    ran = run("b", "-o", "other", "--context", 64, "--prefill", 8, "--target", "onnxruntime", "--json")
    assert json.loads(ran.out)["targets"].keys() == {"onnxruntime"}
    assert {path.name for path in (tmp_path / "other").iterdir()} == {
        *("manifest.json", "model.onnx", "model.weights", "tokenizer.json", "tokenizer_config.json")
    }
    assert_refused(run("b", "-o", "out"), FAILED, "out is there already: give a new folder (-o)")
    refused = run("b", "-o", "third", "--target", "onnxruntime", "--calibrate", "rows.jsonl")
    assert_refused(refused, USAGE, "onnxruntime finds ranges by itself")
    refused = run("b", "-o", "third", "--target", "tpu")
    assert_refused(refused, USAGE, "'tpu' is not a valid Target; expected onnxruntime or npu")


def test_without_onnx_the_installation_that_brings_it_is_named(run, bundle, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert_refused(run("b", "-o", "out"), FAILED, "pip install 'edgereason[export]'")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def thinking(tmp_path):
    """A bundle with an adapter, its base in it."""
    base = write_base(tmp_path / "tiny.gguf")
    adapter = write_tiny_adapter(tmp_path / "a.gguf", base)
    return build(tmp_path / "b", Parts(base=base, adapter=adapter, include_base=True))


def test_an_adapter_is_written_for_llama_cpps_server(cli, thinking, tmp_path):
    ran = cli("export", "gguf", str(thinking.folder), "-o", str(tmp_path / "out"))
    assert ran.code == 0, ran.err
    names = ("README.md", "chat_template.jinja", "reasoning.gguf")
    assert [line.partition(":")[0] for line in ran.out.splitlines()] == [
        str(tmp_path / "out" / n) for n in names
    ]
    again = cli("export", "gguf", str(thinking.folder), "-o", str(tmp_path / "out"))
    assert_refused(again, FAILED, "out is there already: give a new folder (-o)")


@pytest.mark.torch
def test_an_adapter_for_peft_needs_the_name_of_a_model_and_a_push_needs_the_hub(
    cli, thinking, tmp_path, monkeypatch
):
    pytest.importorskip("peft")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    command = ("export", "peft", str(thinking.folder), "-o", str(tmp_path / "out"))
    assert_refused(cli(*command), FAILED, "name it, as in --hub-base Qwen/Qwen2.5-7B-Instruct")
    ran = cli(*command, "--hub-base", "maker/Base", "--push", "me/mine")
    assert_refused(ran, FAILED, "can't push to me/mine: ")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "maker/Base"
