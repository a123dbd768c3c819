"""Which model the options name, and how it is loaded in view of the user.

Owns which options go together, and what is shown while something is pulled. Does not know what is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgereason.cli.options import KV

if TYPE_CHECKING:
    from edgereason.reasoning.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model that is here, and can be loaded.

    Attributes:
        name: the caller's word for it: a GGUF calls itself what its maker's scripts happened to write.
        path: a bundle's folder, or a model's file.
        base: the bundle's base, where it was given.
    """

    name: str
    path: Path
    base: Path | None
    allow_mirror: bool

    def load(self, *, kv: KV, threads: int | None, context: int | None) -> Model:
        """The model, loaded."""
        from edgereason.cli.pull import display
        from edgereason.core.bundle import Bundle
        from edgereason.reasoning.model import load

        if not self.path.is_file():
            Bundle.read(self.path)  # so that a folder that is no bundle is not taken for the name of a model
        with display() as (report, notice):  # a bundle may name a base that has to be fetched
            return load(
                self.path,
                base=self.base,
                threads=threads,
                kv="q8_0" if kv is KV.Q8_0 else "f16",
                context_tokens=context,
                allow_mirror=self.allow_mirror,
                progress=report,
                notice=notice,
            )


def require_one(bundle: Path | None, model: str | None, base: str | None) -> None:
    """Refuses options that don't go together.

    Raises:
        typer.BadParameter: a bundle and a model, or a base without a bundle.
    """
    if bundle is not None and model is not None:
        raise typer.BadParameter("a bundle brings its model: give one of the two", param_hint="'--model'")
    if base is not None and bundle is None:
        raise typer.BadParameter("only a bundle has a base: give --bundle too", param_hint="'--base'")


def find(bundle: Path | None, model: str | None, base: str | None, *, allow_mirror: bool) -> Source:
    """The model that the options name, fetched if it is not here; by default the bundle of this package."""
    from edgereason.hub.catalog import bundle_folder

    named = bundle_folder(bundle) if model is None else Path(model)
    return Source(
        name=named.resolve().name,
        path=named if model is None else _pulled(model, allow_mirror=allow_mirror),
        base=None if base is None else _pulled(base, allow_mirror=allow_mirror),
        allow_mirror=allow_mirror,
    )


def _pulled(model: str, *, allow_mirror: bool) -> Path:
    """The file of a model, fetched in view of the user if it is not here."""
    from edgereason.cli.pull import display
    from edgereason.hub.pull import resolve

    with display() as (report, notice):
        return resolve(model, allow_mirror=allow_mirror, progress=report, notice=notice)
