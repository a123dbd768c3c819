"""The file of what was learned: there and back, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest
from tiny_gguf import QWEN2, random_transforms, write_out

from edgereason.errors import BundleError
from edgereason.quant.blocks import Grid, Ranges
from edgereason.quant.learned import Learned, StorageConfig

STORAGE = StorageConfig(
    linears=Grid.Q8_0, head=Grid.Q4_0, embedding=Grid.Q4_0, ranges=Ranges.MIN_MAX, per_row=True, tied=True
)


@pytest.fixture
def learned():
    """Something of every kind, nothing at its default."""
    tensors = random_transforms(QWEN2, 1) | {
        "blk.0.attn_q.weight.rows": np.linspace(0.5, 1.5, 64).astype(np.float16),
        "blk.0.attn_q.weight.left": np.linspace(-1, 1, 64 * 3).reshape(64, 3).astype(np.float16),
        "blk.0.attn_q.weight.right": np.linspace(-2, 2, 3 * 64).reshape(3, 64).astype(np.float16),
        "blk.0.attn_q.bias": np.linspace(-1, 1, 64).astype(np.float32),
    }
    return Learned(name="Tiny-W4", teacher_sha256="ab" * 32, storage=STORAGE, tensors=tensors)


@pytest.mark.parametrize("storage", [StorageConfig(), STORAGE])
def test_what_is_written_is_read_again(tmp_path, learned, storage):
    learned = replace(learned, storage=storage)
    learned.write(tmp_path / "learned.gguf")
    again = Learned.read(tmp_path / "learned.gguf")
    assert (again.name, again.teacher_sha256, again.storage) == ("Tiny-W4", "ab" * 32, storage)
    assert again.tensors.keys() == learned.tensors.keys()
    for name, values in learned.tensors.items():
        assert again.tensors[name].dtype == values.dtype
        assert np.array_equal(again.tensors[name], values)


def test_rules_alone_are_a_file_too(tmp_path):
    rules = Learned(name="Plain", teacher_sha256="00" * 32)
    rules.write(tmp_path / "learned.gguf")
    assert Learned.read(tmp_path / "learned.gguf") == rules
    assert rules.get("rotation") is None


def test_the_same_content_gives_the_same_bytes_in_whatever_order_it_was_learned(tmp_path, learned):
    backwards = dict(reversed(learned.tensors.items()))
    strided = {name: np.asfortranarray(values) for name, values in backwards.items()}
    learned.write(tmp_path / "a.gguf")
    replace(learned, tensors=strided).write(tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_what_was_read_does_not_hang_on_the_file(tmp_path, learned):
    learned.write(tmp_path / "learned.gguf")
    again = Learned.read(tmp_path / "learned.gguf")
    (tmp_path / "learned.gguf").write_bytes(b"\0" * (tmp_path / "learned.gguf").stat().st_size)
    assert np.array_equal(again.tensors["rotation"], learned.tensors["rotation"])


def test_a_tensor_that_can_not_be_written_leaves_nothing_behind(tmp_path, learned):
    with pytest.raises(ValueError, match="F16"):
        replace(learned, tensors={"a": np.ones(3, np.uint16)}).write(tmp_path / "learned.gguf")
    assert not list(tmp_path.iterdir())


def test_another_type_of_file_is_refused(tmp_path, teachers):
    with pytest.raises(BundleError, match=r"general\.type is not 'learned'"):
        Learned.read(teachers["qwen2"])


def write_bare(path, *, version):
    """A file of that version without storage or tensors."""
    writer = gguf.GGUFWriter(path, "edgereason")
    writer.add_type("learned")
    writer.add_uint32("edgereason.version", version)
    return write_out(writer, path)


def test_another_version_is_refused_with_both(tmp_path):
    path = write_bare(tmp_path / "learned.gguf", version=2)
    with pytest.raises(BundleError, match="version 2, this edgereason reads version 1"):
        Learned.read(path)


def test_a_file_that_is_no_gguf_or_cut_off_is_refused(tmp_path, learned):
    path = tmp_path / "learned.gguf"
    with pytest.raises(BundleError, match="can't be read as GGUF"):
        Learned.read(path)
    learned.write(path)
    data = path.read_bytes()
    for length in (*range(0, 2048, 37), *range(2048, len(data), 10_007)):
        path.write_bytes(data[:length])
        with pytest.raises(BundleError, match="can't be read as GGUF"):
            Learned.read(path)


def test_a_file_that_lacks_its_storage_or_garbles_it_is_refused(tmp_path):
    path = write_bare(tmp_path / "bare.gguf", version=1)
    with pytest.raises(BundleError, match=r"lacks or garbles 'edgereason\.storage"):
        Learned.read(path)
