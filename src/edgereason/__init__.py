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
    from edgereason.core.bundle import Bundle
    from edgereason.core.types import (
        Budget,
        Candidate,
        Effort,
        Message,
        Mode,
        Request,
        Response,
        Route,
        Sampling,
        Stop,
        Timing,
        Trace,
        Usage,
        Vote,
    )
    from edgereason.engine.scripted import ScriptedEngine
    from edgereason.errors import (
        AdapterCrossing,
        BundleError,
        ConfigError,
        ContextOverflow,
        EdgeReasonError,
        EngineError,
        ModelFileError,
        NoRoomNow,
        PullError,
        QueueFull,
        RequestError,
        TrainingError,
        Unavailable,
    )
    from edgereason.reasoning.async_model import AsyncEvents, AsyncModel, AsyncSession
    from edgereason.reasoning.control import Phase
    from edgereason.reasoning.events import (
        Answered,
        Ended,
        Event,
        Notice,
        Queued,
        Reading,
        Routed,
        Tallied,
        Text,
    )
    from edgereason.reasoning.model import Model, load
    from edgereason.reasoning.request import AskOptions
    from edgereason.reasoning.runs import Events
    from edgereason.reasoning.session import Session
    from edgereason.reasoning.worker import Load

__version__ = "0.2.0"
__all__ = [
    "AdapterCrossing",
    "Answered",
    "AskOptions",
    "AsyncEvents",
    "AsyncModel",
    "AsyncSession",
    "Budget",
    "Bundle",
    "BundleError",
    "Candidate",
    "ConfigError",
    "ContextOverflow",
    "EdgeReasonError",
    "Effort",
    "Ended",
    "EngineError",
    "Event",
    "Events",
    "Load",
    "Message",
    "Mode",
    "Model",
    "ModelFileError",
    "NoRoomNow",
    "Notice",
    "Phase",
    "PullError",
    "QueueFull",
    "Queued",
    "Reading",
    "Request",
    "RequestError",
    "Response",
    "Route",
    "Routed",
    "Sampling",
    "ScriptedEngine",
    "Session",
    "Stop",
    "Tallied",
    "Text",
    "Timing",
    "Trace",
    "TrainingError",
    "Unavailable",
    "Usage",
    "Vote",
    "__version__",
    "load",
]

_MODULES = {
    "core.bundle": "Bundle",
    "core.types": "Budget Candidate Effort Message Mode Request Response Route Sampling Stop Timing Trace "
    "Usage Vote",
    "engine.scripted": "ScriptedEngine",
    "errors": "AdapterCrossing BundleError ConfigError ContextOverflow EdgeReasonError EngineError "
    "ModelFileError NoRoomNow PullError QueueFull RequestError TrainingError Unavailable",
    "reasoning.async_model": "AsyncEvents AsyncModel AsyncSession",
    "reasoning.control": "Phase",
    "reasoning.events": "Answered Ended Event Notice Queued Reading Routed Tallied Text",
    "reasoning.model": "Model load",
    "reasoning.request": "AskOptions",
    "reasoning.runs": "Events",
    "reasoning.session": "Session",
    "reasoning.worker": "Load",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgereason' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgereason.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
