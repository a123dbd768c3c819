"""One contender in a process of its own: `python -m benchmarks.peers.worker NAME`.

A line of JSON in, a line of JSON out::

    {"op": "load", "setting": {…}}  →  {"load_s": …, "is_sequential": …, …} or {"missing": [packages]}
    {"op": "run", "case": {…}}      →  {"seconds": …, "tokens": …, "answer": …, "idle_s": …, "idle_cpu_s": …}
    anything that fails             →  {"error": "…"}, and the worker goes on

Models, thread pools and what libraries set for a whole process thus never meet. What libraries print goes to
stderr. Between two lines the worker waits, and tells the CPU time that it used meanwhile: this shows a
contender that spins while others are timed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from typing import Any, TextIO

from benchmarks.peers import contenders
from benchmarks.peers.cases import PEERS, Case, CaseResult, CaseSetting, Peer, PeerEntry
from edgereason.core.answers import read_trace
from edgereason.core.chat import split_thinking
from edgereason.core.types import Vote
from edgereason.reasoning.vote import Ballot, winner


class Worker:
    """A contender behind the protocol."""

    def __init__(self, entry: PeerEntry) -> None:
        self._entry = entry
        self._peer: Peer | None = None
        self._idle_since: tuple[float, float] | None = None

    def serve(self, requests: Iterable[str], replies: TextIO) -> None:
        """Answers line by line until there are no more."""
        for line in requests:
            try:
                reply = self._reply(json.loads(line))
            except Exception as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
        if self._peer is not None:
            self._peer.close()

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "load":
            return self._load(CaseSetting(**request["setting"]))
        return self._run(Case.from_json(request["case"]))

    def _load(self, setting: CaseSetting) -> dict[str, Any]:
        missing = [name for name in self._entry.packages if importlib.util.find_spec(name) is None]
        if missing:
            return {"missing": missing}
        start = time.perf_counter()
        peer: Peer = getattr(contenders, self._entry.contender)()
        peer.load(setting)
        load_s = time.perf_counter() - start
        self._peer = peer
        majority(["The answer is $x+1$.", "The answer is $1+x$."], "", 0)  # loads what comparing needs
        return {
            "load_s": load_s,
            "is_sequential": peer.is_sequential,
            "remarks": list(peer.remarks),
            "features": peer.features(),
            "versions": {name: _version(name) for name in self._entry.requirements},
        }

    def _run(self, case: Case) -> dict[str, Any]:
        assert self._peer is not None
        idle_s, idle_cpu_s = self._idle()
        start = time.perf_counter()
        result = self._peer.complete(case)
        answer, num_answers = result.answer, result.num_answers
        if case.votes and num_answers is None:
            answer, num_answers = majority([c.text for c in result.completions], case.question, case.seed)
        seconds = time.perf_counter() - start
        reply = {
            "seconds": seconds,
            "tokens": self._count(case, result),
            "answer": answer,
            "num_answers": num_answers,
            "idle_s": idle_s,
            "idle_cpu_s": idle_cpu_s,
        }
        self._idle_since = time.perf_counter(), time.process_time()
        return reply

    def _count(self, case: Case, result: CaseResult) -> int:
        """All tokens of a case; where they were fixed, it must have made them."""
        assert self._peer is not None
        counts = [
            self._peer.count_tokens(one.text) if one.num_tokens is None else one.num_tokens
            for one in result.completions
        ]
        if not case.votes and counts != [case.limit_tokens] * case.num_completions:
            raise RuntimeError(
                f"asked for {case.num_completions} × {case.limit_tokens} tokens in {case.name}, got {counts}"
            )
        return sum(counts)

    def _idle(self) -> tuple[float, float]:
        """Seconds since the last reply, and CPU seconds that this process used meanwhile."""
        if self._idle_since is None:
            return 0.0, 0.0
        wall, cpu = self._idle_since
        return time.perf_counter() - wall, time.process_time() - cpu


def majority(texts: list[str], question: str, seed: int) -> tuple[str | None, int]:
    """The vote that a caller of a peer must hold outside: the winning answer, and how many had one.

    By the same rules as ours: texts begin inside the thinking, and an answer is read from them as from a
    trace.
    """
    ballots = []
    for text in texts:
        thinking, answer = split_thinking(text)
        ballots.append(Ballot(read_trace(answer or "", thinking, question)))
    index = winner(ballots, Vote.MAJORITY, seed)
    chosen = ballots[index].answer if index is not None else None
    return chosen.text if chosen else None, sum(ballot.answer is not None for ballot in ballots)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main(name: str) -> None:
    """Serves the contender `name` on stdin and what was stdout."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # native libraries print on 1, and would print into the protocol
    sys.stdout = sys.stderr
    with replies:
        Worker(PEERS[name]).serve(sys.stdin, replies)


if __name__ == "__main__":
    main(sys.argv[1])
