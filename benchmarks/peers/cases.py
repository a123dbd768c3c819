"""What the benchmark and its contenders say to each other: who takes part, a case, and its result.

A case is always *N completions over one prompt*; a first token is one completion of one token. Everything
goes as JSON between two processes, whose interpreters may differ, so there are plain values here only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from edgereason.core.types import Sampling

SAMPLING: Final = Sampling()
"""The product's default, and every peer's in a bench."""

OURS: Final = "edgereason"
UPSTREAM_KERNELS: Final = "edgereason-upstream-kernels"
"""Ours again, with llama.cpp's own kernels."""


@dataclass(frozen=True, slots=True)
class PeerEntry:
    """A contender: the class that speaks for it, and what must be installed for that.

    Attributes:
        contender: name of a `Peer` in `contenders.py`.
        packages: importable names that it needs.
        requirements: how pip calls them; versions of these stand in the record.
        max_rounds: where it is so slow that few must do.
        slowness: rough time of a case over ours, for the time left.
        reads_file: weights stay as the file has them, so that its bytes are what a token must read.
    """

    contender: str
    packages: tuple[str, ...]
    requirements: tuple[str, ...]
    max_rounds: int | None = None
    slowness: float = 1.0
    reads_file: bool = True

    @property
    def install(self) -> str:
        """The line that installs it."""
        return f"pip install {' '.join(self.requirements)}"


PEERS: Final[Mapping[str, PeerEntry]] = {
    OURS: PeerEntry("Edgereason", ("edgereason",), ("edgereason", "llama-cpp-python")),
    UPSTREAM_KERNELS: PeerEntry("Edgereason", ("edgereason",), ("edgereason", "llama-cpp-python")),
    "llama-cpp-python": PeerEntry("LlamaCppPython", ("llama_cpp",), ("llama-cpp-python",)),
    "ik-llama-cpp-python": PeerEntry(
        "IkLlamaCppPython", ("ik_llama_cpp",), ("ik-llama-cpp-python",), slowness=2.0
    ),
    "xllamacpp": PeerEntry("Xllamacpp", ("xllamacpp",), ("xllamacpp",), slowness=1.5),
    "openvino-genai": PeerEntry("OpenvinoGenai", ("openvino_genai",), ("openvino-genai",)),
    "transformers": PeerEntry(
        "Transformers",
        ("transformers", "torch", "gguf", "accelerate"),
        ("transformers", "torch", "gguf", "accelerate"),
        max_rounds=1,
        slowness=5.0,
        reads_file=False,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSetting:
    """How every peer is to load the model.

    Attributes:
        model: the GGUF file.
        context_tokens: cells of the KV cache, f16, where a peer's has a fixed size.
        streams: most completions at a time.
    """

    model: str
    threads: int
    context_tokens: int
    streams: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """N completions over one prompt.

    Attributes:
        question: the user's message.
        prompt_ids: the rendered prompt, for APIs that take ids; in `votes`, with the opening and what elicits
            thinking behind it.
        votes: turns may end, and the majority of the answers is wanted. Otherwise every completion must have
            `limit_tokens`, whatever token would end a turn.
        stop_early: a vote may stop the completions that can't change it.
    """

    name: str
    question: str
    prompt_ids: tuple[int, ...]
    num_completions: int
    limit_tokens: int
    votes: bool = False
    stop_early: bool = False
    seed: int = 0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """A case as JSON brought it."""
        return cls(**{**values, "prompt_ids": tuple(values["prompt_ids"])})


@dataclass(frozen=True, slots=True)
class Completion:
    """What one completion said; `num_tokens` is None where the API does not tell."""

    text: str
    num_tokens: int | None


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What a contender made of a case.

    Attributes:
        answer: where its own API votes; None for a peer, whose texts are voted on outside.
        num_answers: how many completions had an answer, likewise.
    """

    completions: list[Completion]
    answer: str | None = None
    num_answers: int | None = None


class Peer(ABC):
    """A runtime as its users run it.

    Attributes:
        is_sequential: several completions are made one after another: its API has no batch.
        remarks: in what it differs from the others, for the record.
    """

    is_sequential: bool = False
    remarks: tuple[str, ...] = ()

    @abstractmethod
    def load(self, setting: CaseSetting) -> None:
        """Loads the model."""

    @abstractmethod
    def complete(self, case: Case) -> CaseResult:
        """Answers a case, its prompt encoded anew: all of this is timed."""

    @abstractmethod
    def close(self) -> None:
        """Frees what it holds."""

    def features(self) -> list[str] | None:
        """What its llama.cpp was built with and found; None if there is none in it."""
        return None

    def count_tokens(self, text: str) -> int:
        """Tokens of a completion that the API did not count; not timed."""
        raise NotImplementedError(f"{type(self).__module__} leaves completions uncounted: {text[:40]!r}")
