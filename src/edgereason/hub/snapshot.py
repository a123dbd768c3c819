"""A checkpoint of the Hugging Face hub as a folder, by huggingface_hub: its cache, its resumption, its token.

The package comes with what trains and quantizes. Where it is missing, only names of repositories are refused.
Pickled weights are never fetched.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from edgereason.errors import PullError

_NAME: Final = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
_FILES: Final = [
    *("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.*"),
    *("model*.safetensors", "model.safetensors.index.json"),
]
_WAIT_S: Final = 10.0
_CLOSING: Final = "; a folder that holds the checkpoint can be given instead"


def repository_of(name: str) -> tuple[str, str | None] | None:
    """Repository and revision that a name means: OWNER/NAME or OWNER/NAME@REVISION; None for another name.

    A path is no repository, even if it is wrong: its folder is there, or it ends as a file of a model does.
    """
    found = _NAME.fullmatch(name)
    if found is None or name.endswith(".gguf") or Path(name).parent.is_dir():
        return None
    return found[1], found[2]


def snapshot(repository: str, revision: str | None, notice: Callable[[str], None]) -> Path:
    """The folder of a repository at a revision, fetched as far as it is not in huggingface_hub's cache.

    Without a network, what the cache has of the revision is used.

    Raises:
        PullError: huggingface_hub is not installed, or the hub does not give the files.
    """
    hub: Any = import_hub("checkpoints of the hub are fetched")
    errors: Any = importlib.import_module("huggingface_hub.errors")
    try:
        info = hub.HfApi().model_info(repository, revision=revision, timeout=_WAIT_S)
        names = {one.rfilename for one in info.siblings or ()}
        if not any(name.endswith(".safetensors") and "/" not in name for name in names):
            raise PullError(
                f"{repository} has no safetensors: expected a checkpoint with model.safetensors; pickled "
                "weights are never loaded, and of a repository of GGUF files give the file"
            )
        notice(f"fetching {repository} at {info.sha}, as far as it is not in huggingface_hub's cache")
        return Path(hub.snapshot_download(repository, revision=info.sha, allow_patterns=_FILES))
    except PullError:
        raise
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise _refused(repository, error) from error
    except Exception as error:  # of an HTTP library that changes from release to release
        try:
            folder = hub.snapshot_download(
                repository, revision=revision, allow_patterns=_FILES, local_files_only=True
            )
        except Exception:
            raise _refused(repository, error) from error
        notice(f"the hub can't be reached: {repository} is taken from huggingface_hub's cache")
        return Path(folder)


def _refused(repository: str, error: BaseException) -> PullError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return PullError(f"can't fetch {repository} from the hub: {reason}{_CLOSING}")


def import_hub(why: str) -> Any:
    """The package huggingface_hub.

    Args:
        why: what needs it, with its verb.

    Raises:
        PullError: it is not installed.
    """
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise PullError(
            f"{why} by the package huggingface-hub, which is not installed: "
            f"pip install 'edgereason[hub]'{_CLOSING}"
        ) from error
