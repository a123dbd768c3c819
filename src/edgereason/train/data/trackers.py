"""Where a training may report its figures: trackers of transformers, by the packages that they need."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from edgereason.config import nearest
from edgereason.errors import ConfigError

TRACKERS: Final = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}
"""Packages of each, of which one is enough."""


def require_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that nobody knows, or whose package is missing, before anything is loaded.

    Raises:
        ConfigError: naming the tracker.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"[training] report_to: there is no {name!r}: {nearest(name, TRACKERS)}")
        if not any(find_spec(package) for package in TRACKERS[name]):
            raise ConfigError(
                f"[training] report_to: {name} is not installed: pip install {TRACKERS[name][0]}"
            )
