"""Parts of a split GGUF as one file: metadata of the first, tensors of all, bit by bit.

Source: llama.cpp's `tools/gguf-split`, for the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import numpy as np

from edgereason.core.bundle import temporary_beside
from edgereason.errors import ModelFileError
from edgereason.quant.gguf_file import Reader, reading, write_fields

_COUNT, _NUMBER, _TENSORS = "split.count", "split.no", "split.tensors.count"
_OWN = (_COUNT, _NUMBER, _TENSORS)


def require_parts(parts: Sequence[Path]) -> None:
    """Refuses a split model that is not whole.

    Raises:
        ModelFileError: a part is missing.
    """
    if missing := [part.name for part in parts if not part.is_file()]:
        raise ModelFileError(
            f"{missing[0]} is missing of a split model of {len(parts)} parts ({len(missing)} are missing in "
            f"{parts[0].parent}): get all parts"
        )


def join(parts: Sequence[Path], target: Path, progress: Callable[[int, int], None]) -> None:
    """Writes a split model as one file, whole or not at all.

    Args:
        parts: all of them, in order.
        target: the file.
        progress: told the bytes of tensors that are written, and all of them.

    Raises:
        ModelFileError: a part can't be read, or is of another model.
    """
    readers = []
    for number, part in enumerate(parts):
        with reading(part):
            readers.append(Reader(part))
            said = [
                readers[-1].fields[key].contents() if key in readers[-1].fields else None for key in _OWN[:2]
            ]
        if said != [len(parts), number]:
            raise ModelFileError(
                f"{part.name} says that it is part {said[1]} of {said[0]}, counted from 0; its name says "
                f"{number} of {len(parts)}: the parts are not of one model"
            )
    tensors = [tensor for reader in readers for tensor in reader.tensors]
    with reading(parts[0]):
        expected = readers[0].fields[_TENSORS].contents()
        arch = str(readers[0].fields["general.architecture"].contents())
    if len({tensor.name for tensor in tensors}) != expected or len(tensors) != expected:
        raise ModelFileError(
            f"the {len(parts)} parts of {parts[0].name} have {len(tensors)} tensors, and it says {expected}: "
            "the parts are not of one model"
        )
    total, done = sum(int(tensor.n_bytes) for tensor in tensors), 0
    with temporary_beside(target) as partial:
        writer = gguf.GGUFWriter(partial, arch)
        try:
            write_fields(writer, readers[0], leave_out=_OWN)
            for tensor in tensors:
                stored = tensor.data
                writer.add_tensor_info(
                    tensor.name, stored.shape, stored.dtype, int(tensor.n_bytes), tensor.tensor_type
                )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in tensors:
                writer.write_tensor_data(np.asarray(tensor.data))
                done += int(tensor.n_bytes)
                progress(done, total)
        finally:
            writer.close()
