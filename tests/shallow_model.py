"""A real model cut to its first layers: true vocabulary, weights and kernels at a fraction of the work."""

from __future__ import annotations

from pathlib import Path

import gguf

from edgereason.quant.gguf_file import Reader


def write_shallow(source: Path, target: Path, *, layers: int) -> Path:
    """Writes a GGUF of the first layers of `source`, with its embedding, final norm and head as they are."""
    reader = Reader(source)
    arch = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, arch)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = layers if field.name == f"{arch}.block_count" else field.contents()
        items = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, field.types[0], sub_type=items)
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.") or int(tensor.name.split(".")[1]) < layers:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
