"""An adapter for PEFT on a model of the hub: what its configuration names, and that PEFT loads it."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from tiny_bundle import OPENING, SHAPE, write_base
from tiny_checkpoint import FF, HIDDEN, write_tiny_checkpoint

from edgereason.bundles.build import Parts, build
from edgereason.core.bundle import Bundle, file_sha256
from edgereason.errors import ConfigError, PullError
from edgereason.hub.pull import resolve
from edgereason.quant.adapter_file import AdapterGrid, Product, read_adapter, write_adapter
from edgereason.quant.gguf_file import GgufModel
from edgereason.train.lora.publish import export_peft, push
from edgereason.train.quant.load import load_torch

REVISION = "c0ffee" + "0" * 34


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "tiny.gguf")


@pytest.fixture
def bundle(base: Path, tmp_path: Path) -> Bundle:
    products = {f"blk.{n}.ffn_up.weight": product(SHAPE.ff, SHAPE.hidden, seed=n) for n in range(2)}
    return bundle_of(tmp_path, base, products)


def product(outputs: int, inputs: int, seed: int = 0) -> Product:
    random = np.random.default_rng(seed)
    return Product(
        *(random.standard_normal(size).astype(np.float32) for size in ((32, inputs), (outputs, 32)))
    )


def bundle_of(folder: Path, base: Path, products: dict[str, Product]) -> Bundle:
    about = {"base_sha256": file_sha256(base), "invocation": OPENING}
    write_adapter(folder / "a.gguf", GgufModel(base), products, alpha=32.0, grid=AdapterGrid.Q8_0, **about)
    return build(folder / "mine", Parts(base=base, adapter=folder / "a.gguf"))


def test_peft_loads_what_ships_on_the_model_that_is_named(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    # WHEN
    out = tmp_path / "out"
    made = export_peft(bundle.folder, base, out, hub_base=f"maker/Base@{REVISION}")
    # THEN
    assert (made["base_model"], made["revision"]) == ("maker/Base", REVISION)
    config = PeftConfig.from_pretrained(out)
    assert (config.base_model_name_or_path, config.revision) == ("maker/Base", REVISION)
    assert tuple(config.alora_invocation_tokens) == OPENING
    torch_base = load_torch(GgufModel(base), file_sha256(base), tmp_path / "cache")
    loaded = dict(PeftModel.from_pretrained(torch_base, out).named_parameters())
    shipped = read_adapter(bundle.folder / "reasoning.gguf")[0]
    for n in range(2):
        for side, expected in zip("AB", shipped[f"blk.{n}.ffn_up.weight"], strict=True):
            found = loaded[f"base_model.model.model.layers.{n}.mlp.up_proj.lora_{side}.default.weight"]
            assert np.array_equal(found.detach().numpy(), expected)
    card = (out / "README.md").read_text()
    assert f'AutoModelForCausalLM.from_pretrained("maker/Base", revision="{REVISION}")' in card
    assert card.startswith("---\nbase_model: maker/Base\n")


def test_a_base_of_unknown_origin_needs_a_name(bundle: Bundle, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"which model of the hub tiny.gguf was made of: .*--hub-base"):
        export_peft(bundle.folder, base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_adapters_and_bundles_name_the_checkpoint_that_their_base_was_converted_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a base that was converted from a snapshot of the hub
    monkeypatch.setenv("EDGEREASON_CACHE", str(tmp_path / "cache"))
    snapshot = tmp_path / "models--maker--Tiny" / "snapshots" / REVISION
    base = resolve(str(write_tiny_checkpoint(snapshot)))
    # WHEN
    bundle = bundle_of(tmp_path, base, {"blk.0.ffn_up.weight": product(FF, HIDDEN)})
    export_peft(bundle.folder, base, tmp_path / "out")
    # THEN all of them say the same
    sha256 = GgufModel(base).text("edgereason.checkpoint.sha256")
    expected = {"sha256": sha256, "name": "maker/Tiny", "revision": REVISION}
    assert bundle.provenance["checkpoint"] == expected
    reader = gguf.GGUFReader(bundle.folder / "reasoning.gguf")
    assert {key: reader.fields[f"edgereason.checkpoint.{key}"].contents() for key in expected} == expected
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", "np") as file:
        metadata = file.metadata()
    assert {key: metadata[f"edgereason.checkpoint.{key}"] for key in expected} == expected
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("maker/Tiny", REVISION)
    card = (bundle.folder / "README.md").read_text()
    assert "maker/Tiny" in card
    assert REVISION[:12] in card


def test_a_push_without_the_hub_is_refused_and_the_export_stays(
    bundle: Bundle, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    export_peft(bundle.folder, base, tmp_path / "out", hub_base="maker/Base")
    with pytest.raises(PullError, match=r"can't push to me/mine: .*; the export is in .*hf upload me/mine"):
        push(tmp_path / "out", "me/mine")
    assert (tmp_path / "out" / "adapter_config.json").is_file()
