"""Where a bundle's base is on this machine, or can be had from.

::

    base.gguf in the bundle → a file in the cache → a name of the catalogue, which can be pulled → nowhere

Knows bundles, the catalogue and the cache; does not know engines, nor whether the file is what it should be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgereason.core.bundle import BASE_FILE, Bundle
from edgereason.errors import BundleError
from edgereason.hub.catalog import CatalogModel, find_by_sha256
from edgereason.hub.store import is_here, model_path


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


def find_base(bundle: Bundle) -> FoundBase:
    """Where the base of a bundle is; fetches nothing."""
    model, inside = find_by_sha256(bundle.base.sha256), bundle.folder / BASE_FILE
    if inside.is_file():
        return FoundBase(path=inside, is_inside=True, model=model)
    path = model_path(model) if model is not None and is_here(model) else None
    return FoundBase(path=path, is_inside=False, model=model)


def base_file(bundle: Bundle, fetch: Callable[[str], Path]) -> Path:
    """The file of a bundle's base.

    Args:
        bundle: says which.
        fetch: gives a model's file by its name in the catalogue, if it is not here.

    Raises:
        BundleError: it is neither in the bundle nor in the catalogue.
    """
    found = find_base(bundle)
    if found.path is not None:
        return found.path
    if found.model is not None:
        return fetch(found.model.name)
    raise BundleError(
        f"the base {bundle.base.name} of {bundle.title} is neither in the bundle nor in the catalogue: "
        "say where it is (base=…, or --base)"
    )
