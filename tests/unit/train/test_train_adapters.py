"""Adapters saved, loaded as PEFT and llama.cpp load them, and refused where they don't belong."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from tiny_gguf import write_out
from tiny_lora import OPENING, base_model, lora_model, random_rows

from edgereason.errors import BundleError, ConfigError
from edgereason.quant.adapter_file import AdapterGrid, base_of
from edgereason.quant.gguf_file import GgufModel
from edgereason.train.lora.adapters import (
    LoraSettings,
    adapter_sha256,
    export_adapter,
    import_adapter,
    load_adapter,
    new_adapter,
    save_adapter,
    settings_of,
)
from edgereason.train.lora.masked_lora import MaskedLora, ResponseBatch

SHA256, OTHER = "ab" * 32, "cd" * 32
SETTINGS = LoraSettings(rank=4)


def save(model, folder):
    save_adapter(model, folder, base_name="tiny", base_sha256=SHA256, opening=OPENING)
    return folder


@pytest.fixture
def saved(tmp_path):
    return save(lora_model(), tmp_path / "adapter")


def test_a_fresh_adapter_changes_nothing_and_follows_its_seed():
    ids = torch.tensor([[1, 2, 3]])
    expected = base_model()(input_ids=ids).logits
    one, same, other = (new_adapter(base_model(), SETTINGS, seed) for seed in (0, 0, 1))
    assert torch.equal(one(input_ids=ids).logits, expected)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    a, b, c = (dict(model.named_parameters())[name] for model in (one, same, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert one.peft_config["default"].lora_alpha == 8  # 2 r


def test_the_same_weights_are_the_same_file(tmp_path):
    # So that a bundle's adapter, which is unpacked anew every time, begins the same run.
    hashes = {adapter_sha256(save(lora_model(), tmp_path / str(n))) for n in range(12)}
    assert len(hashes) == 1


def test_peft_loads_it_as_an_activated_lora_that_says_what_ours_says(saved):
    # PEFT's own loading and its own forward, on rows that hold the invocation once
    reference = PeftModel.from_pretrained(base_model(), saved)
    assert reference.peft_config["default"].alora_invocation_tokens == list(OPENING)
    (row,) = random_rows()[:1]
    prompt, response, _ = row
    logits = reference(input_ids=torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    at = torch.arange(len(prompt) + 1, len(prompt) + len(response) - 1)
    expected = logits[at, torch.tensor(response[2:])]
    found = MaskedLora(lora_model())(ResponseBatch.of([row]))[0, 2:]
    assert torch.allclose(found, expected, atol=1e-5)


def test_what_was_saved_is_loaded_again(saved):
    fresh = new_adapter(base_model(), SETTINGS, 5)
    load_adapter(fresh, saved, base_sha256=SHA256)
    batch = ResponseBatch.of(random_rows())
    assert torch.equal(MaskedLora(fresh)(batch), MaskedLora(lora_model())(batch))
    assert fresh.peft_config["default"].alora_invocation_tokens is None  # plain while it is trained


def test_an_adapter_for_another_base_is_refused_with_both_hashes(saved):
    with pytest.raises(BundleError, match=f"(?=.*{SHA256})(?=.*{OTHER})"):
        load_adapter(new_adapter(base_model(), SETTINGS, 0), saved, base_sha256=OTHER)


def test_an_adapter_of_another_shape_or_a_broken_one_is_refused(saved, tmp_path):
    for settings in (LoraSettings(rank=8), LoraSettings(rank=4, targets=("q_proj",))):
        with pytest.raises(BundleError, match="another shape"):
            load_adapter(new_adapter(base_model(), settings, 0), saved, base_sha256=SHA256)
    (saved / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(BundleError, match="can't be read"):
        load_adapter(new_adapter(base_model(), SETTINGS, 0), saved, base_sha256=SHA256)


def write_base(path, arch):
    """Names and shapes of the tiny model as a GGUF; its numbers don't matter here."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
    shapes |= {"ffn_gate": (48, 32), "ffn_up": (48, 32), "ffn_down": (32, 48)}
    writer.add_tensor("token_embd.weight", np.zeros((64, 32), np.float32))
    for n in range(2):
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{n}.{name}.weight", np.zeros(shape, np.float32))
    return GgufModel(write_out(writer, path))


def products_of(path):
    tensors = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
    names = {name.rpartition(".")[0] for name in tensors}
    return {name: tensors[f"{name}.lora_b"] @ tensors[f"{name}.lora_a"] for name in names}


def test_an_exported_adapter_adds_what_the_trained_one_adds(saved, tmp_path):
    base = write_base(tmp_path / "base.gguf", "qwen2")
    target = tmp_path / "reasoning.gguf"
    export_adapter(saved, base, target, base_sha256=SHA256, grid=AdapterGrid.F16)
    found = products_of(target)
    assert len(found) == 2 * 7
    q = lora_model().get_base_model().model.layers[1].self_attn.q_proj
    expected = (q.lora_B["default"].weight @ q.lora_A["default"].weight).detach().numpy()
    assert np.abs(found["blk.1.attn_q.weight"] - expected).max() < 2e-3 * np.abs(expected).max()
    fields = gguf.GGUFReader(target).fields
    assert fields["adapter.lora.alpha"].contents() == 8.0
    assert fields["adapter.alora.invocation_tokens"].contents() == list(OPENING)
    assert base_of(target) == SHA256


def test_rows_of_queries_and_keys_stand_in_the_order_of_the_bases_family(saved, tmp_path):
    # llama's GGUF pairs rows 2i and 2i + 1 of a head where transformers pairs i and i + d/2.
    plain, paired = tmp_path / "plain.gguf", tmp_path / "paired.gguf"
    for target, arch in ((plain, "qwen2"), (paired, "llama")):
        base = write_base(tmp_path / f"{arch}.gguf", arch)
        export_adapter(saved, base, target, base_sha256=SHA256, grid=AdapterGrid.F16)
    before, after = products_of(plain), products_of(paired)
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight"):
        for head in range(len(before[name]) // 8):
            rows, turned = (values[name][8 * head : 8 * head + 8] for values in (before, after))
            assert np.array_equal(turned, rows[[0, 4, 1, 5, 2, 6, 3, 7]])
    assert np.array_equal(before["blk.0.attn_v.weight"], after["blk.0.attn_v.weight"])


@pytest.mark.parametrize("arch", ["qwen2", "llama"])
def test_what_ships_is_trained_further_as_it_is(tmp_path, arch):
    base = write_base(tmp_path / "base.gguf", arch)
    settings = LoraSettings(rank=32, alpha=48.0, targets=("q_proj", "o_proj"))
    model = new_adapter(base_model(), settings, 3)
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights)
    save_adapter(model, tmp_path / "first", base_name="b", base_sha256=SHA256, opening=OPENING)
    shipped, again = tmp_path / "shipped.gguf", tmp_path / "again.gguf"
    export_adapter(tmp_path / "first", base, shipped, base_sha256=SHA256, grid=AdapterGrid.Q8_0)
    imported = tmp_path / "imported"
    import_adapter(shipped, base, imported, base_name="b", base_sha256=SHA256, opening=OPENING)
    assert settings_of(imported) == settings
    load_adapter(new_adapter(base_model(), settings, 5), imported, base_sha256=SHA256)
    export_adapter(imported, base, again, base_sha256=SHA256, grid=AdapterGrid.Q8_0)
    assert again.read_bytes() == shipped.read_bytes()  # nothing is rounded twice
    with pytest.raises(BundleError, match=f"(?=.*{SHA256})(?=.*{OTHER})"):
        import_adapter(shipped, base, tmp_path / "no", base_name="b", base_sha256=OTHER, opening=OPENING)
    assert not (tmp_path / "no").exists()


def test_a_rank_that_q8_0_can_not_hold_is_refused_and_f16_is_named(saved, tmp_path):
    base = write_base(tmp_path / "base.gguf", "qwen2")
    with pytest.raises(ConfigError, match=r"rank 4 .*F16"):
        export_adapter(saved, base, tmp_path / "no.gguf", base_sha256=SHA256, grid=AdapterGrid.Q8_0)
    assert not (tmp_path / "no.gguf").exists()


def test_files_say_where_they_belong_and_hold_no_optimizer(saved):
    with safe_open(saved / "adapter_model.safetensors", "pt") as file:
        assert file.metadata()["edgereason.base.sha256"] == SHA256
        assert all("lora_" in name for name in file.keys())  # noqa: SIM118
    config = json.loads((saved / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 8, "tiny")


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"dropout": 1.0}, {"targets": ()}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        LoraSettings(**wrong)
