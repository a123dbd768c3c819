"""One thread, so that sums have one order; teachers in torch. Without torch nothing here is collected."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tiny_torch import Teacher

if not (find_spec("torch") and find_spec("transformers")):  # the extra "train" is not installed
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def loaded(teachers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Teacher]:
    """The tiny teachers, loaded as training loads them."""
    from tiny_torch import load

    cache = tmp_path_factory.mktemp("conversions")
    return {arch: load(path, cache) for arch, path in teachers.items()}
