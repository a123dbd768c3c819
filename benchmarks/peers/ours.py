"""Ours as a contender: requests through `Model.run`, as a caller of the Python API makes them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.cases import (
    SAMPLING,
    Case,
    Completion,
    Outcome,
    Peer,
    Setting,
    llama_features,
)
from edgereason.core.types import Budget, Message, Mode, Request
from edgereason.engine.llama import LlamaEngine
from edgereason.engine.native import C
from edgereason.reasoning.model import Model, last_response


class Contender(Peer):
    """A `Peer`; see `cases.py`."""

    remarks = ("forces an answer within the tokens of each stream",)

    def load(self, setting: Setting) -> None:
        self._engine = _TurnsEndOnDemand(
            Path(setting.model), threads=setting.threads, context_tokens=setting.context_tokens
        )
        self._model = Model(self._engine)

    def features(self) -> list[str]:
        return llama_features(C.llama_print_system_info().decode())

    def complete(self, case: Case) -> Outcome:
        self._engine.turns_end = case.votes
        request = Request(
            messages=(Message("user", case.question),),
            mode=Mode.THINK if case.votes else Mode.CHAT,
            budget=Budget(limit_tokens=case.limit_tokens) if case.votes else None,
            max_tokens=case.limit_tokens,
            streams=case.num_completions,
            sampling=SAMPLING,
            seed=case.seed,
            stop_early=case.stop_early,
        )
        response = last_response(self._model.run(request))
        candidates = response.candidates
        return Outcome(
            [Completion(one.trace.text, one.trace.num_tokens) for one in candidates],
            response.answer if response.winner is not None else None,
            sum(one.answer is not None for one in candidates),
        )

    def close(self) -> None:
        self._model.close()


class _TurnsEndOnDemand(LlamaEngine):
    """The engine; where turns must not end, as in the other benches, the end is drawn like any token."""

    turns_end = True

    def is_end(self, token: int) -> bool:
        return super().is_end(token) and self.turns_end
