"""A bundle's adapter for llama.cpp's server: keys that llama.cpp reads, and a template that turns it on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llama_cpp
import pytest
from jinja2 import Environment
from tiny_bundle import OPENING, TEMPLATE, write_base, write_tiny_adapter

from edgereason.bundles.build import Parts, build
from edgereason.core.bundle import Bundle
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import BundleError
from edgereason.export.llama_server import export_adapter_for_server, opening_template

MESSAGES = [{"role": "user", "content": "What do 7 pens cost?"}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "tiny.gguf")


@pytest.fixture
def bundle(base: Path, tmp_path: Path) -> Bundle:
    adapter = write_tiny_adapter(tmp_path / "a.gguf", base)
    return build(tmp_path / "mine", Parts(base=base, adapter=adapter))


def test_llama_cpp_reads_the_ids_that_turn_the_adapter_on(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    made = export_adapter_for_server(bundle, base, tmp_path / "out")
    assert [*made["files"]] == ["README.md", "chat_template.jinja", "reasoning.gguf"]
    with LlamaEngine(base) as engine:
        engine.load_adapter(tmp_path / "out" / "reasoning.gguf")
    model = llama_cpp.llama_model_load_from_file(str(base).encode(), llama_cpp.llama_model_default_params())
    adapter = llama_cpp.llama_adapter_lora_init(model, str(tmp_path / "out" / "reasoning.gguf").encode())
    count = llama_cpp.llama_adapter_get_alora_n_invocation_tokens(adapter)
    ids = llama_cpp.llama_adapter_get_alora_invocation_tokens(adapter)
    assert tuple(ids[n] for n in range(count)) == OPENING
    llama_cpp.llama_model_free(model)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "llama-server -m tiny.gguf --lora reasoning.gguf --jinja --chat-template-file" in card
    assert bundle.base.sha256 in card


def test_a_prompt_of_the_template_ends_in_them_and_begins_as_before(
    bundle: Bundle, base: Path, tmp_path: Path
) -> None:
    export_adapter_for_server(bundle, base, tmp_path / "out")
    source = (tmp_path / "out" / "chat_template.jinja").read_text()
    render = Environment().from_string(source).render
    before = Environment().from_string(TEMPLATE).render(messages=MESSAGES, add_generation_prompt=True)
    assert render(messages=MESSAGES, add_generation_prompt=True) == before + "<think>\n"
    without = render(messages=MESSAGES, add_generation_prompt=False)
    assert without == before.removesuffix("<|im_start|>assistant\n")
    with LlamaEngine(base) as engine:
        assert tuple(engine.tokenize(before + "<think>\n", special=True))[-len(OPENING) :] == OPENING


def test_what_the_server_would_not_find_is_refused(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    with LlamaEngine(base) as engine, pytest.raises(BundleError, match=r"would not find the ids \[1, 2\]"):
        opening_template(engine, (1, 2))
    with pytest.raises(BundleError, match="turn it on, and the bundle"):
        export_adapter_for_server(replace(bundle, opening_ids=(1, 2)), base, tmp_path / "out")
    with pytest.raises(BundleError, match="has no adapter"):
        export_adapter_for_server(replace(bundle, adapter=None), base, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(BundleError, match="is there already"):
        export_adapter_for_server(bundle, base, tmp_path / "out")


def test_a_template_that_opens_thinking_itself_is_left_as_it_is(base: Path) -> None:
    source = TEMPLATE.replace("assistant\n", "assistant\n<think>\n")
    with LlamaEngine(base) as engine:
        info = replace(engine.info, chat_template=source)
        same: Any = SimpleNamespace(info=info, tokenize=engine.tokenize)
        assert opening_template(same, OPENING) == source
