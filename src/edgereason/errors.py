"""Every error that edgereason raises, in one tree.

::

    EdgeReasonError
    ├─ ConfigError            a run file or a setting is wrong
    ├─ BundleError            an artefact is missing, corrupt or made for another base
    │  └─ ModelFileError      a GGUF is missing, truncated or not one we can run
    ├─ PullError              a model can't be fetched, stored or verified
    ├─ RequestError           the caller's fault: an empty question, a budget out of range
    │  ├─ ContextOverflow     more tokens than the context holds; carries both numbers
    │  ├─ NoRoomNow           it would fit, but not beside the requests that still run
    │  └─ QueueFull           too many wait already; says when to try again
    ├─ Unavailable            the model is closed, about to be, or has failed
    ├─ TrainingError          training can't go on; its last checkpoint is whole
    └─ EngineError            a native call failed
       └─ AdapterCrossing     KV of one adapter would be continued under another

A message says what was got, what was expected and what to do. Foreign errors are mapped once, where
they enter (`raise … from`). The command line prints the message in one line and nothing else.
"""

from __future__ import annotations


class EdgeReasonError(Exception):
    """Root of the tree; catching it catches everything that edgereason raises on purpose."""


class ConfigError(EdgeReasonError):
    """A run file or a setting is wrong."""


class BundleError(EdgeReasonError):
    """An artefact is missing, corrupt or made for another base."""


class ModelFileError(BundleError):
    """A GGUF file is missing, truncated or not one that the engine can run."""


class PullError(EdgeReasonError):
    """A model can't be fetched, stored or verified."""


class RequestError(EdgeReasonError):
    """The request can't be served as it stands; the caller can mend it."""


class ContextOverflow(RequestError):
    """A request needs more KV cells than the context holds.

    Args:
        needed_tokens: cells that the request would occupy.
        available_tokens: cells that there are for it.
        what: what needs them, for the message ("the prompt", "4 streams of 200 tokens").
        advice: what the caller can do.
    """

    def __init__(
        self,
        needed_tokens: int,
        available_tokens: int,
        what: str = "the request",
        advice: str = "shorten the prompt, lower the budget or the streams, or load with a larger context",
    ) -> None:
        self.needed_tokens = needed_tokens
        self.available_tokens = available_tokens
        super().__init__(
            f"{what} needs {needed_tokens} tokens of context and {available_tokens} are available: {advice}"
        )


class NoRoomNow(RequestError):
    """A request has to wait until others have given back their cells and sequences."""


class QueueFull(RequestError):
    """A request can't wait its turn: too many wait already, or its seconds don't last until then.

    Args:
        message: which of the two.
        retry_after_s: seconds after which it is worth another try.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Unavailable(EdgeReasonError):
    """The model answers nobody any more: it is closed, about to be, or has failed."""


class TrainingError(EdgeReasonError):
    """Training can't go on; its last checkpoint is whole."""


class EngineError(EdgeReasonError):
    """A native call failed; the message carries what llama.cpp logged."""


class AdapterCrossing(EngineError):
    """A sequence encoded under one adapter would be continued under another.

    Only base → adapter is legal, and only once: KV made by an adapter is never read without it.
    """
