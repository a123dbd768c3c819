"""A recipe to begin with, for a model of the catalogue, a GGUF file or a checkpoint."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from string import Template
from typing import Final

from edgereason.core.bundle import write_atomically
from edgereason.errors import ConfigError, PullError
from edgereason.hub.catalog import CATALOG, suggestion
from edgereason.hub.one_file import is_checkpoint
from edgereason.hub.snapshot import repository_of

_QUANTIZE: Final = """
[quantize]                              # the plain rule; see docs/base.md for training it
name = "$name-w4"

[quantize.storage]
head = "q8_0"

[quantize.transforms]
residual = false
keys = false
values = false
up = false
"""


def write_recipe(model: str, target: Path) -> None:
    """Writes a recipe; its comments say what can be changed.

    Args:
        model: a name of the catalogue, a GGUF file, or safetensors: a folder or OWNER/NAME of the hub.
        target: of the recipe; must not be there.

    Raises:
        PullError: the model is neither a file nor known.
        ConfigError: the target is there, or can't be written.
    """
    known = next((one for one in CATALOG if one.name == model), None)
    path = Path(model).expanduser()
    is_here = path.is_file() or (path.is_dir() and is_checkpoint(path))
    repository = None if known or is_here else repository_of(model)
    if known is None and repository is None and not is_here:
        raise PullError(f"{model!r} is neither a file nor a known model; {suggestion(model)}")
    if target.exists():
        raise ConfigError(f"{target} is there already: choose another name, or remove it")
    called = repository[0].rpartition("/")[2] if repository else path.resolve().name.removesuffix(".gguf")
    name = known.name if known else called.lower()
    is_ready = known is not None and known.made is not None
    quantize = "" if is_ready else Template(_QUANTIZE).substitute(name=name)
    text = (resources.files("edgereason.recipe") / "template.toml").read_text("utf-8")
    said = known.name if known else model if repository else path.resolve().as_posix()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(
            target,
            Template(text).substitute(model=said, name=name, file=target.name, quantize=quantize),
        )
    except OSError as error:
        raise ConfigError(f"{target} can't be written: {error.strerror}") from error
