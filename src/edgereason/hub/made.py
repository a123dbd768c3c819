"""A base made on this machine, of another model's file and what was learned about it, which ships with us.

::

    teacher.gguf + bases/NAME.learned.gguf ─ quant.apply ─→ NAME.gguf, if its SHA-256 is the catalogue's

Making is exact: the same two files give the same bytes on every machine, so the hash is as strict here as for
a download. Takes a minute or two, numpy and gguf, no torch. Does not know how bases are learned.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from edgereason.core.bundle import file_sha256
from edgereason.errors import BundleError, PullError
from edgereason.hub.catalog import CatalogModel, MadeSource
from edgereason.hub.part import Progress
from edgereason.hub.store import file_errors, require_space

LEARNED: Final = Path(__file__).parent / "bases"


def make(
    model: CatalogModel,
    made: MadeSource,
    teacher: Path,
    target: Path,
    report: Callable[[Progress], None],
    notice: Callable[[str], None],
) -> None:
    """Makes `model` in place.

    Raises:
        PullError: the bytes are not the catalogue's, the teacher is not what it should be, or no space.
    """
    from edgereason.quant.apply import apply  # numpy's and gguf's import takes longer than finding a file
    from edgereason.quant.learned import Learned

    require_space(target.parent, model.size_bytes)
    notice(f"making {model.name} from {made.teacher}: once, a minute or two")
    trial = target.with_name(f"{target.name}.made")
    total = model.size_bytes

    def show(done: int, weights: int) -> None:
        item = f"from {teacher.name}"
        report(Progress(done_bytes=total * done // weights, total_bytes=total, source="made", item=item))

    with file_errors(target):
        try:
            apply(teacher, Learned.read(LEARNED / made.learned), trial, progress=show)
            got = file_sha256(trial)
            if got != model.sha256:
                raise PullError(
                    f"{model.name} came out with SHA-256 {got} instead of {model.sha256}: please report this "
                    "with your versions of numpy and gguf"
                )
            trial.replace(target)
        except BundleError as error:
            raise PullError(f"can't make {model.name}: {error}") from error
        finally:
            trial.unlink(missing_ok=True)
