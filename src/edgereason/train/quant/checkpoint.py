"""Where an interrupted training stands: parameters, buffers, AdamW's moments and the step, in one file.

Nothing random needs to be kept: what a step draws follows from the seed and the step. A checkpoint of another
recipe or text is refused. Written whole or not at all, every ten minutes and when a run is stopped.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgereason.core.bundle import temporary_beside
from edgereason.errors import ConfigError, TrainingError

_EVERY_S: Final = 600.0
_MOMENTS: Final = ("exp_avg", "exp_avg_sq")


class Checkpoint:
    """A file that training goes on from.

    Args:
        path: of the file.
        identity: of recipe, teacher and text; a file with another is refused.
        every_s: seconds between saves.
    """

    def __init__(self, path: Path, identity: str, every_s: float = _EVERY_S) -> None:
        self._path = path
        self._identity = identity
        self._every_s = every_s
        self._saved_s = time.monotonic()

    @property
    def exists(self) -> bool:
        """Whether there is one to go on from."""
        return self._path.is_file()

    @property
    def step(self) -> int:
        """Steps that were made when it was saved; 0 if there is none."""
        if not self.exists:
            return 0
        with safe_open(self._path, framework="pt") as file:
            return int((file.metadata() or {})["step"])

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Puts everything back and says how many steps were made; 0 if there is no file.

        Raises:
            ConfigError: the file belongs to something else.
        """
        if not self.exists:
            return 0
        with safe_open(self._path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("identity") != self._identity:
                raise ConfigError(
                    f"{self._path.name} is of another recipe, teacher or text: quantize into a new folder"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        step = int(about["step"])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors[f"parameter/{name}"])
                if f"exp_avg/{name}" in tensors:
                    optimizer.state[parameter] = {
                        "step": torch.tensor(float(step)),
                        **{moment: tensors[f"{moment}/{name}"] for moment in _MOMENTS},
                    }
        for name, values in tensors.items():
            kind, _, path = name.partition("/")
            if kind == "buffer":  # such as a search's outcome, which a new model doesn't have yet
                owner, _, leaf = path.rpartition(".")
                model.get_submodule(owner).register_buffer(leaf, values)
        return step

    def save_if_due(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Saves if the last time is long enough ago."""
        if time.monotonic() - self._saved_s >= self._every_s:
            self.save(model, optimizer, step)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Saves.

        Raises:
            TrainingError: it can't be written; one that was there stays.
        """
        tensors: dict[str, Tensor] = {}
        for name, parameter in model.named_parameters():
            tensors[f"parameter/{name}"] = parameter.detach().contiguous()
            for moment in _MOMENTS:
                if moment in (state := optimizer.state.get(parameter, {})):
                    tensors[f"{moment}/{name}"] = state[moment].contiguous()
        for name, values in model.named_buffers():
            tensors[f"buffer/{name}"] = values.contiguous()
        try:
            with temporary_beside(self._path) as partial:
                save_file(tensors, partial, metadata={"identity": self._identity, "step": str(step)})
        except (OSError, SafetensorError) as error:  # safetensors writes by itself
            why = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
            raise TrainingError(
                f"{self._path} can't be written ({why or error}); what was there before stays: make room, "
                "and give the same command again"
            ) from error
        self._saved_s = time.monotonic()

    def remove(self) -> None:
        """Forgets it: the run is over."""
        self._path.unlink(missing_ok=True)
