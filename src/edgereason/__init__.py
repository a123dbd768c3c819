"""edgereason: a reasoning mode for small language models that fits on a device, and the runtime for it.

    import edgereason

    with edgereason.load() as model:
        response = model.ask("What is 17 × 23?", mode="think", budget=200, streams=4)
        print(response.answer)

Importing this is cheap: the engine and everything else load when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgereason.core.types import Budget, Message, Request, Response, Sampling
    from edgereason.errors import EdgeReasonError
    from edgereason.reasoning.async_model import AsyncModel
    from edgereason.reasoning.model import Model, load
    from edgereason.reasoning.session import Session

__version__ = "0.1.0"
__all__ = [
    "AsyncModel",
    "Budget",
    "EdgeReasonError",
    "Message",
    "Model",
    "Request",
    "Response",
    "Sampling",
    "Session",
    "__version__",
    "load",
]

_HOMES = {
    "AsyncModel": "reasoning.async_model",
    "Budget": "core.types",
    "EdgeReasonError": "errors",
    "Message": "core.types",
    "Model": "reasoning.model",
    "Request": "core.types",
    "Response": "core.types",
    "Sampling": "core.types",
    "Session": "reasoning.session",
    "load": "reasoning.model",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgereason' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgereason.{_HOMES[name]}"), name)
