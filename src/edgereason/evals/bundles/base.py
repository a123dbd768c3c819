"""A bundle's base: where it is on this machine, and what a bundle must know of it.

::

    base.gguf in the bundle → a file in the cache → a name of the catalogue, which can be pulled → not found

Knows bundles, the catalogue and the engine; does not know adapters or heads. Fetches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgereason.core.bundle import BASE_FILE, Base, Bundle
from edgereason.core.chat import Seams
from edgereason.engine.llama import LlamaEngine
from edgereason.hub.catalog import CATALOG, CatalogModel
from edgereason.hub.store import is_here, model_path
from edgereason.reasoning.model import describe_base


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBase:
    """Where a base is.

    Attributes:
        path: of its file; None if it is not here. Its hash is not checked.
        is_inside: whether the bundle brings it.
        model: of the catalogue, if it has these bytes.
    """

    path: Path | None
    is_inside: bool
    model: CatalogModel | None

    @property
    def place(self) -> str:
        """Where it is, in a few words."""
        if self.is_inside:
            return "in the bundle"
        if self.path is not None:
            return "pulled"
        return "can be pulled" if self.model else "neither here nor in the catalogue"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseFile:
    """A base that was loaded once: what a bundle says of it, and the ids of the opening in its vocabulary."""

    path: Path
    base: Base
    opening_ids: tuple[int, ...]


def catalog_model(sha256: str) -> CatalogModel | None:
    """The model of the catalogue that has these bytes."""
    return next((model for model in CATALOG if model.sha256 == sha256), None)


def find_base(bundle: Bundle) -> FoundBase:
    """Where the base of a bundle is."""
    model, inside = catalog_model(bundle.base.sha256), bundle.folder / BASE_FILE
    if inside.is_file():
        return FoundBase(path=inside, is_inside=True, model=model)
    is_cached = model is not None and is_here(model)
    return FoundBase(path=model_path(model) if model and is_cached else None, is_inside=False, model=model)


def read_base(path: Path, name: str | None = None) -> BaseFile:
    """Loads a base and says what a bundle must know of it.

    Args:
        path: of the file.
        name: what it is called; by default as in the catalogue, else as its file.

    Raises:
        ModelFileError: it can't be loaded.
    """
    with LlamaEngine(path) as engine:
        base, opening_ids = describe_base(engine, path), Seams.of(engine.tokenize).opening
    model = catalog_model(base.sha256)
    called = name or (model.file_name if model else path.name)
    return BaseFile(path=path, base=replace(base, name=called), opening_ids=opening_ids)
