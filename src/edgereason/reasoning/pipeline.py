"""A request becomes a response: the paper on one screen.

    render the chat → prefill with the base → ask the switcher → open → fork → decode under control
    → verify → vote

`Pipeline.run` is a generator of events. Where it can't go on before the batch took a step it yields `STEP`;
whoever drives it takes the step (`runs.py`). That is all the concurrency there is: requests share native
batches, and each still reads from top to bottom.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from edgereason.core.chat import ANSWER_PREFIX, Prompt, Seams, leaves_open
from edgereason.core.types import Mode, Request, Route, Stop, Trace, Vote
from edgereason.engine import base
from edgereason.engine.base import Adapter, Engine
from edgereason.errors import ModelFileError
from edgereason.heads.base import Switcher, Verifier
from edgereason.heads.verifier import TraceMean
from edgereason.reasoning.batch import Batch, Stream
from edgereason.reasoning.calculator import Calculator
from edgereason.reasoning.control import ChatControl, Control, ThinkControl
from edgereason.reasoning.events import STEP, Answered, Event, Notice, Reading, Routed, Step
from edgereason.reasoning.pace import Deadline, Pace
from edgereason.reasoning.plan import Plan, Planner, Room, room_of
from edgereason.reasoning.prefix import Prefix
from edgereason.reasoning.prefixes import Prefixes
from edgereason.reasoning.race import Race, why_no_stages
from edgereason.reasoning.runs import Caller, Run


class Pipeline:
    """Answers requests on one engine.

    Args:
        engine: encodes and draws.
        adapter: the reasoning adapter. A base that has none thinks natively, by its own tags, or a lead-in
            elicits thinking.
        buckets: budgets that the adapter was trained with; it gets a hint if there are any.
        switcher: decides `auto`; without it, auto thinks, and says so.
        verifier: scores traces; without it, `weighted` and `best` fall back, and say so.
        calculator: whether thinking has exact results forced where a request does not say.
        clock: seconds, for timings.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        adapter: Adapter | None = None,
        buckets: tuple[int, ...] = (),
        switcher: Switcher | None = None,
        verifier: Verifier | None = None,
        calculator: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not engine.info.chat_template:
            raise ModelFileError(
                f"{engine.info.file_name} carries no chat template: use an instruct model's GGUF"
            )
        self._engine = engine
        self._adapter = adapter
        self._switcher = switcher
        self._verifier = verifier
        self._calculator = calculator
        self.clock = clock
        self._pace = Pace(engine.info.size_bytes)
        self._template = engine.info.template
        self._native = self._template.native()
        self._seams = (
            Seams.of(engine.tokenize)
            if self._native is None or adapter is not None
            else Seams.native(engine.tokenize, self._native)
        )
        for ids, text in (
            (self._seams.opening, self._seams.tags.opening),
            (self._seams.closing, self._seams.tags.closing),
            (self._seams.answer_prefix, ANSWER_PREFIX),
        ):
            if b"".join(map(engine.piece, ids)).decode() != text:
                raise ModelFileError(
                    f"{engine.info.file_name}'s vocabulary can't write {text!r} by itself: use another model"
                )
        self._planner = Planner(
            engine=engine,
            seams=self._seams,
            adapter=adapter,
            buckets=buckets,
            can_choose=switcher is not None,
            verifier=verifier,
            pace=self._pace,
        )

    @property
    def engine(self) -> Engine:
        """What encodes and draws."""
        return self._engine

    @property
    def switcher(self) -> Switcher | None:
        """What decides `auto`, if anything does."""
        return self._switcher

    @property
    def closing_tag(self) -> str:
        """What ends thinking: the model's own tag where it thinks natively, and no adapter does."""
        return self._seams.tags.closing_tag

    @property
    def verifier(self) -> Verifier | None:
        """What scores traces, if anything does."""
        return self._verifier

    @property
    def buckets(self) -> tuple[int, ...]:
        """Budgets that the adapter's hints were trained with, in tokens."""
        return self._planner.buckets

    def run(
        self,
        request: Request,
        batch: Batch,
        caller: Caller | None = None,
        *,
        prefix: Prefix | Prefixes | None = None,
        prompt: Prompt | None = None,
    ) -> Run:
        """Answers one request.

        Args:
            request: what is asked.
            batch: the engine's batch; the run adds its streams to it.
            caller: looked at between steps; by default one who waits for the end.
            prefix: where the prompt's KV is kept from one run to the next; by default it goes with the run.
            prompt: the request's, where it is known already (`prompt`).

        Yields:
            Events, the last of them `Answered`; and `STEP` whenever the batch must take one.

        Raises:
            RequestError: the request can't be served; nothing was encoded.
        """
        engine, caller = self._engine, caller or Caller()
        accepted_s = self.clock() if caller.accepted_s is None else caller.accepted_s
        batch.tell(self._pace, self.clock)
        prompt = prompt or self.prompt(request)
        missing_tokens = len(prompt) if prefix is None else prefix.missing(prompt.ids)
        plans = self._plans(
            request, prompt, unencoded_tokens=missing_tokens, waited_s=self.clock() - accepted_s
        )
        with ExitStack() as held:
            if prefix is None:
                prefix = held.enter_context(self.prefix(reads=len(plans) > 1))
            elif isinstance(prefix, Prefixes):
                prefix = held.enter_context(prefix.lent(prompt.ids))
            held.enter_context(prefix.reserved(room_of(plans)))
            is_whole = yield from self._read(request, prefix, prompt, batch, caller)
            p_think = prefix.p_think if is_whole and len(plans) > 1 else None
            plan = self._choose(plans, p_think)
            verifier = self._verifier if plan.route is Route.THINK else None
            vote, notices = self._settle(request, plan, verifier)
            deadline = self._deadline(request, plan, verifier, batch, accepted_s)
            if deadline is not None:
                batch.deadlines.add(deadline)
                held.callback(batch.deadlines.discard, deadline)
            race = Race(request, vote, verifier, batch, deadline, self.clock)

            # No event from here to the last stream's first draw: whoever takes one may use the engine, and
            # these logits would be gone. Streams of later stages draw here too, and wait on their forks.
            opened = self._open(held, prefix, plan, deadline) if is_whole else prefix.sequence
            prefilled_s = self.clock()
            for index in range(plan.num_streams if is_whole else 0):
                fork = _hold(held, engine, engine.fork(opened))
                stream = self._stream(held, request, plan, index, fork, deadline, prompt)
                if verifier is not None and verifier.layers:
                    stream.means = TraceMean(verifier.layers, engine.info.hidden_size)
                batch.draw_first(stream)
                race.add(stream)
            first_token_s, shared_cells = self.clock(), opened.length
            yield from map(Notice, notices)
            limit_s = request.budget.limit_s if request.budget else None
            yield Routed(plan.route, p_think, len(prompt), plan.num_streams, plan.limit_tokens, limit_s)
            yield from race.run(caller)

            response = race.response(
                route=plan.route,
                p_think=p_think,
                prompt_tokens=len(prompt),
                cached_tokens=len(prompt) - prefix.fresh_tokens,
                kv_bytes=race.num_cells(shared_cells) * engine.info.kv_bytes_per_cell,
                ttft_s=first_token_s - accepted_s,
                decode_s=self.clock() - prefilled_s,
                total_s=self.clock() - accepted_s,
            )
        yield Answered(replace(response, notices=notices + race.notices))

    def truncate(self, request: Request, trace: Trace, limits_tokens: Sequence[int], batch: Batch) -> Run:
        """What a recorded trace would have answered under harder limits: only the answers are generated.

        Each limit gets a stream that says what the trace said for as long as its control lets it; where
        that is less than all, closing and answer prefix are forced and the answer is drawn. Streams share
        the cells of what they have in common.

        Args:
            request: as the trace's was, on the think route, with a stream for each limit, none stopped early.
            trace: with its tokens.
            limits_tokens: none above the request's.
            batch: as for `run`.

        Yields:
            As `run`; in the response, candidate i is what came out under limit i.

        Source: paper section 5, hard budgets at evaluation: cut, then made to answer.
        """
        engine, accepted_s = self._engine, self.clock()
        prompt = self.prompt(request)
        plan = self._plans(request, prompt)[-1]
        race = Race(request, Vote.MAJORITY, None, batch)
        with ExitStack() as held:
            held.enter_context(engine.reserve(**room_of([plan])._asdict()))
            spoken = prefix = _hold(held, engine, engine.new_sequence())
            # How much of the trace each stream says that then goes on otherwise.
            cuts: list[tuple[int, Stream]] = []
            for index, limit_tokens in enumerate(limits_tokens):
                limited = replace(plan, limit_tokens=limit_tokens, cut=Stop.BUDGET)
                stream = self._stream(held, request, limited, index, prefix, None, prompt)
                race.add(stream)
                said = stream.replay(trace.token_ids, trace.forced, engine.piece)
                if stream.is_running:
                    cuts.append((said, stream))
            if cuts:
                engine.encode(prefix, prompt.ids)
                spoken = self._behind_opening(held, prefix, plan)
            shared_cells, encoded = spoken.length, 0
            for said, stream in sorted(cuts, key=lambda cut: cut[0]):
                if said > encoded:
                    engine.encode(spoken, trace.token_ids[encoded:said])
                    encoded = said
                stream.sequence = _hold(held, engine, engine.fork(spoken))
                stream.unencoded = stream.token_ids[said:]
                batch.resume(stream)
            yield from race.run(Caller())
            response = race.response(
                route=plan.route,
                p_think=None,
                prompt_tokens=len(prompt),
                cached_tokens=0,
                kv_bytes=engine.info.kv_bytes_per_cell * (shared_cells + encoded),
                ttft_s=0.0,
                decode_s=self.clock() - accepted_s,
                total_s=self.clock() - accepted_s,
            )
        yield Answered(response)

    def prompt(self, request: Request) -> Prompt:
        """A request's prompt, on any thread: the same on both routes, where a switcher is to choose."""
        enable_thinking = request.enable_thinking
        if enable_thinking is None and self._native is not None and self._adapter is None:
            enable_thinking = request.mode is not Mode.CHAT and request.think_budget() is not None
        return self._template.prompt(request.messages, self._engine.tokenize, enable_thinking=enable_thinking)

    def calculates(self, request: Request) -> bool:
        """Whether a request's thinking has exact results forced; in chat, whether its answer has."""
        if request.mode is Mode.CHAT:
            return bool(request.calculator)
        return self._calculator if request.calculator is None else request.calculator

    def _chat_opening(self, request: Request) -> str:
        """What the template writes of thinking where the model chats: natively reasoning ones are not to."""
        enable_thinking = request.enable_thinking
        if enable_thinking is None and self._native is not None:
            enable_thinking = False
        return self._template.chat_opening(request.messages, enable_thinking=enable_thinking)

    def _plans(
        self, request: Request, prompt: Prompt, *, unencoded_tokens: int = 0, waited_s: float = 0.0
    ) -> list[Plan]:
        return self._planner.plans(
            request,
            len(prompt),
            unencoded_tokens=unencoded_tokens,
            waited_s=waited_s,
            chat_opening=tuple(self._engine.tokenize(self._chat_opening(request), special=True)),
        )

    def prefix(self, *, reads: bool = True) -> Prefix:
        """Where a prompt's KV is kept; closed by the caller. The switcher reads along unless it needn't."""
        return Prefix(self._engine, self._switcher if reads else None)

    def prefixes(self, most_bytes: int) -> Prefixes:
        """Where the KV of many prompts is kept, for as many bytes; closed by the caller."""
        return Prefixes(self.prefix, most_bytes)

    def room(self, request: Request, prompt: Prompt | None = None) -> Room:
        """KV cells and sequences that a request reserves while it runs; on any thread.

        Raises:
            RequestError: the request can't be served.
        """
        return room_of(self._plans(request, prompt or self.prompt(request)))

    def require_time(self, request: Request, unencoded_tokens: int, waited_s: float) -> None:
        """Refuses a request that has waited for so long that nobody could answer it in its seconds.

        Raises:
            RequestError: as `Planner.require_time`.
        """
        self._planner.require_time(request, unencoded_tokens, waited_s)

    def _read(
        self, request: Request, prefix: Prefix, prompt: Prompt, batch: Batch, caller: Caller
    ) -> Generator[Event | Step, None, bool]:
        """Encodes the prompt, in chunks; beside streams of others in small ones, between which they step.

        Nothing is yielded behind the last chunk, whose logits are fresh.

        Returns:
            Whether all of it is encoded.

        Raises:
            QueueFull: the request's seconds are over, since others took them.
        """
        total, cached, spent_s = len(prompt), -1, 0.0
        with batch.reading():
            start_s = self.clock()
            for done in prefix.chunks(prompt, lambda: batch.read_tokens):
                chunk_s = self.clock() - start_s
                is_before_all = cached < 0
                if is_before_all:
                    cached = done
                else:
                    spent_s += chunk_s
                if done == total:
                    break
                if not is_before_all or total - done > batch.read_tokens:
                    yield Reading(done, total, cached)
                if not is_before_all:
                    if caller.should_stop():
                        return False
                    yield from self._pause(request, total - done, batch, caller, chunk_s)
                start_s = self.clock()
        self._pace.note_encoding(prefix.fresh_tokens, spent_s)
        return True

    def _pause(
        self, request: Request, unencoded_tokens: int, batch: Batch, caller: Caller, chunk_s: float
    ) -> Iterator[Step]:
        """Lets the streams of others step for as long as a chunk took, if the request has the time."""
        if batch.chunk_tokens is None:
            return
        start_s = self.clock()
        if caller.accepted_s is not None:
            waited_s = start_s - caller.accepted_s
            self.require_time(request, unencoded_tokens, waited_s)
            if request.budget is not None and request.budget.limit_s is not None:
                spare_s = request.budget.limit_s - waited_s - self._pace.encode_s(unencoded_tokens)
                chunk_s = min(chunk_s, spare_s / 4)
        while True:
            yield STEP
            if not batch.num_running or (self.clock() - start_s >= chunk_s and batch.may_read):
                return

    def _settle(
        self, request: Request, plan: Plan, verifier: Verifier | None
    ) -> tuple[Vote, tuple[str, ...]]:
        """The vote that can be held, and what the caller of this request should be told."""
        notices = []
        if (why := self._planner.why_auto_chats(request)) is not None:
            notices.append(why)
        vote = request.vote or (Vote.WEIGHTED if verifier else Vote.MAJORITY)
        if self._switcher is None and request.mode is Mode.AUTO and plan.route is Route.THINK:
            notices.append("no switcher head is loaded, so auto thinks on every question")
        if verifier is None and vote is not Vote.MAJORITY:
            if plan.num_streams > 1:
                why = "chat answers are not verified" if self._verifier else "no verifier head is loaded"
                instead = "majority" if vote is Vote.WEIGHTED else "the first stream"
                notices.append(f"{why}, so the {vote} vote falls back to {instead}")
            vote = Vote.MAJORITY if vote is Vote.WEIGHTED else vote
        if (why := why_no_stages(request, vote, plan.num_streams)) is not None:
            notices.append(why)
        return vote, tuple(notices)

    def _choose(self, plans: list[Plan], p_think: float | None) -> Plan:
        if len(plans) == 1 or p_think is None or self._switcher is None:
            return plans[-1]
        return plans[p_think >= self._switcher.threshold]

    def _deadline(
        self, request: Request, plan: Plan, verifier: Verifier | None, batch: Batch, accepted_s: float
    ) -> Deadline | None:
        if request.budget is None or request.budget.limit_s is None:
            return None
        return Deadline(
            accepted_s + request.budget.limit_s,
            self._pace,
            num_streams=plan.num_streams,
            verifying_tokens=len(verifier.prompt_ids) if verifier else 0,
            in_step=lambda: batch.num_running,
            clock=self.clock,
        )

    def _open(self, held: ExitStack, prefix: Prefix, plan: Plan, deadline: Deadline | None) -> base.Sequence:
        """Where streams fork from: the prompt itself, or a fork of it behind what opens the route."""
        if not plan.opening:
            return prefix.sequence_to_sample()
        if plan.route is Route.CHAT:
            opened = _hold(held, self._engine, self._engine.fork(prefix.sequence))
            self._engine.encode(opened, plan.opening)
            return opened
        is_new = deadline is not None and not self._pace.has_seen_steps
        opened = self._behind_opening(held, prefix.sequence, plan, is_new=is_new)
        if deadline is not None:  # what there is time for is known now
            limit_tokens = min(plan.limit_tokens, deadline.left_steps())
            if preamble := self._planner.preamble(limit_tokens):
                self._engine.encode(opened, preamble)
        return opened

    def _behind_opening(
        self, held: ExitStack, prompt: base.Sequence, plan: Plan, *, is_new: bool = False
    ) -> base.Sequence:
        """A fork of the prompt, behind the opening; timed where no step was yet."""
        opened = _hold(held, self._engine, self._engine.fork(prompt))
        self._engine.cross(opened, self._adapter)
        if not is_new or len(plan.opening) == 1:
            self._engine.encode(opened, plan.opening)
        else:  # the first token pays for the switch to the adapter, and the rest stands for a step
            self._engine.encode(opened, plan.opening[:1])
            start_s = self.clock()
            self._engine.encode(opened, plan.opening[1:])
            self._pace.note_stand_in(len(plan.opening) - 1, self.clock() - start_s)
        return opened

    def _stream(
        self,
        held: ExitStack,
        request: Request,
        plan: Plan,
        index: int,
        sequence: base.Sequence,
        deadline: Deadline | None,
        prompt: Prompt,
    ) -> Stream:
        # A question that the switcher sends to chat is answered as any chat is.
        is_computed = self.calculates(request) and (plan.route is Route.THINK or request.mode is Mode.CHAT)
        calculator = Calculator(self._engine.tokenize) if is_computed else None
        control: Control = (
            ChatControl(
                plan.limit_tokens,
                plan.cut,
                deadline,
                seams=self._seams,
                is_open=leaves_open(self._chat_opening(request)),
                calculator=calculator,
            )
            if plan.route is Route.CHAT
            else ThinkControl(self._seams, plan.limit_tokens, plan.cut, deadline, calculator=calculator)
        )
        seed = request.seed + index
        sampler = self._engine.sampler(request.sampling, seed)
        stream = Stream(index, seed, sequence, sampler, control, request.want_logprobs, stop=request.stop)
        held.callback(stream.cancel)
        return stream


def _hold(held: ExitStack, engine: Engine, sequence: base.Sequence) -> base.Sequence:
    held.callback(engine.release, sequence)
    return sequence
