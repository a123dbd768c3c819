"""The model behind the endpoints: whether it can answer, what is under way, and how all of it ends.

::

    loading ─→ ready ─→ draining                   a request: admitted ─→ batches of events ─→ Answered
       └─ failed ←┘  (the engine)                             └─ refused    └─ its client left: ended at once
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

from edgereason.core.types import Response
from edgereason.errors import EdgeReasonError, Unavailable
from edgereason.reasoning.async_model import AsyncEvents, AsyncModel
from edgereason.reasoning.events import Answered, Event, Reading, Routed, Text
from edgereason.reasoning.model import Model
from edgereason.reasoning.worker import Load
from edgereason.server import limits
from edgereason.server.answering import Collected, Facts
from edgereason.server.asking import Ask, Served
from edgereason.server.fields import Refused
from edgereason.server.metrics import Metrics
from edgereason.server.problems import LOG, NotNow

Loader = Callable[[], Awaitable[AsyncModel]]

_WHY: Final = {
    "loading": "the model is still being loaded",
    "draining": "the server is about to end",
    "failed": "the model has failed: start the server again",
}


class Service:
    """Answers requests on one model.

    Args:
        served: what is offered.
        load: loads the model.
    """

    def __init__(self, served: Served, load: Loader) -> None:
        self.served = served
        self.metrics = Metrics(self._load_figures)
        self._load = load
        self._model: AsyncModel | None = None
        self._facts: Facts | None = None
        self._is_draining = False
        self._under_way: dict[str, Asked] = {}

    async def start(self) -> None:
        """Loads the model; requests are refused until it is there.

        Raises:
            EdgeReasonError: it can't be loaded.
        """
        model = await self._load()
        self._facts, self._model = facts_of(model.model), model

    @property
    def state(self) -> str:
        """loading, ready, draining or failed."""
        if self._is_draining:
            return "draining"
        if self._model is None:
            return "loading"
        return "failed" if self._model.load_figures().failed else "ready"

    @property
    def model(self) -> AsyncModel:
        """The model.

        Raises:
            Unavailable: it can't answer now.
        """
        state = self.state
        if state != "ready" or self._model is None:
            raise NotNow(state, _WHY[state])
        return self._model

    @property
    def facts(self) -> Facts:
        """What there is to know of the model.

        Raises:
            Unavailable: it is not loaded yet.
        """
        if self._facts is None:
            raise NotNow("loading", _WHY["loading"])
        return self._facts

    async def ask(self, ask: Ask, request_id: str, client: str) -> Asked:
        """Begins to answer: planned and in the queue, or refused.

        Args:
            ask: what is asked.
            request_id: under which it can be told to answer now.
            client: who asks; clients take turns.

        Raises:
            EdgeReasonError: it can't be served.
        """
        model, facts = self.model, self.facts
        if request_id in self._under_way:
            raise Refused("a request of this id is being answered: give it another", "id", "id_in_use")
        asked = Asked(model.run(ask.request, client=client), Collected(ask, facts), self.metrics)
        self._under_way[request_id] = asked
        asked.on_close = lambda: self._under_way.pop(request_id, None)
        try:
            await asked.events.admitted()
        except BaseException:
            asked.is_over = True  # refused, so nobody leaves it
            await asked.aclose()
            raise
        return asked

    async def prompt_tokens(self, ask: Ask) -> int:
        """Tokens of a request's prompt."""
        return await self.model.prompt_tokens(ask.request)

    def answer_now(self, request_id: str) -> bool:
        """Makes a request answer with what it has; False if it is not under way."""
        asked = self._under_way.get(request_id)
        if asked is None:
            return False
        asked.events.answer_now()
        return True

    async def drain(self, drain_s: float) -> None:
        """Takes nothing more, makes what is under way answer, and frees the model."""
        self._is_draining = True
        if self._model is not None:
            await self._model.close(drain_s)

    def _load_figures(self) -> Load | None:
        return None if self._model is None else self._model.load_figures()


class Asked:
    """A request that is being answered; closed by whoever asked.

    Attributes:
        collected: what its events told so far.
        on_close: called once it is over.
        is_over: whether it was answered, or failed.
    """

    def __init__(self, events: AsyncEvents, collected: Collected, metrics: Metrics) -> None:
        self.events = events
        self.collected = collected
        self.on_close: Callable[[], Any] = lambda: None
        self._metrics = metrics
        self._start_s = time.monotonic()
        self._queue_s: float | None = None
        self.is_over = False

    async def batches(self, *, paced: bool) -> AsyncGenerator[list[Event], None]:
        """Events as they come, to the end; texts in a row are one event.

        Args:
            paced: whether texts wait for each other, so that there are not more batches a second than a
                client can use.

        Raises:
            EdgeReasonError: it can't be answered to its end.
        """
        loop = asyncio.get_running_loop()
        hurry = loop.call_later(limits.REQUEST_S, self.events.answer_now)
        end_s = loop.time() + limits.REQUEST_S + limits.GRACE_S
        try:
            while batch := await self._take(end_s):
                self._note(batch)
                yield batch
                if self.is_over:
                    return
                if paced and any(isinstance(event, Text) for event in batch):
                    await self.events.pause(1 / limits.FRAMES_PER_S)
        except EdgeReasonError:
            self.is_over = True
            raise
        finally:
            hurry.cancel()

    async def _take(self, end_s: float) -> list[Event]:
        try:
            async with asyncio.timeout_at(end_s):
                return await self.events.take()
        except TimeoutError:
            raise NotNow(
                "timeout", f"a request may take {limits.REQUEST_S:g} s, and this one took longer"
            ) from None

    async def response(self) -> Response:
        """The response, once it is there; `collected` has been told everything then."""
        async for batch in self.batches(paced=False):
            for event in batch:
                self.collected.take(event)
                if isinstance(event, Answered):
                    return event.response
        raise Unavailable("the model was closed before the answer was there")

    async def aclose(self) -> None:
        """Ends it; what it holds is given back at the next step. Closing twice is harmless."""
        self.on_close()
        if not self.is_over:
            self._metrics.note_cancelled()
        self.is_over = True
        await self.events.aclose()

    def _note(self, batch: list[Event]) -> None:
        for event in batch:
            if self._queue_s is None and isinstance(event, Reading | Routed):
                self._queue_s = time.monotonic() - self._start_s
                self._metrics.note_queue(self._queue_s)
            if isinstance(event, Answered):
                self.is_over = True
                self.on_close()
                self._metrics.note_response(event.response, self._queue_s or 0.0)


def facts_of(model: Model) -> Facts:
    """What the page and `/v1/models` tell of a model."""
    switcher, verifier = model.pipeline.switcher, model.pipeline.verifier
    LOG.info("loaded %s", model.info.file_name)
    return Facts(
        base=model.info.file_name,
        is_bundle=model.bundle is not None,
        context_tokens=min(model.engine.context_tokens, model.info.train_context_tokens),
        buckets=model.buckets,
        threshold=None if switcher is None else float(switcher.threshold),
        has_verifier=verifier is not None,
        closing_tag=model.pipeline.closing_tag,
    )
