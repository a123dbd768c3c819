"""`edgereason serve`: the model over HTTP, for programs that speak OpenAI's protocols, and for the page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from edgereason.cli.help import RARE
from edgereason.cli.options import (
    KV,
    BaseOption,
    BundleOption,
    ContextOption,
    KvOption,
    ModelOption,
    NoMirrorOption,
    ThreadsOption,
)
from edgereason.cli.terminal.echo import echo
from edgereason.core.types import Mode
from edgereason.errors import ConfigError

if TYPE_CHECKING:
    from edgereason.cli.options import ModelSource
    from edgereason.reasoning.async_model import AsyncModel

_KEY: Final = "EDGEREASON_API_KEY"
_FIELDS: Final = {
    "reasoning_content": ("reasoning_content",),
    "reasoning": ("reasoning",),
    "both": ("reasoning_content", "reasoning"),
}


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but this machine's own needs a key.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8080,
    api_key_file: Annotated[
        Path | None, typer.Option(help=f"File with an API key on each line. [{_KEY}, if it is set]")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Another name of this server, as behind a proxy; may be given several times.",
            rich_help_panel=RARE,
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Pages of this origin may ask, as https://app.example; may be given several times.",
            rich_help_panel=RARE,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="What clients call the model. [the bundle's or file's]", rich_help_panel=RARE),
    ] = None,
    reasoning: Annotated[Mode, typer.Option(help="What is done where a request does not say.")] = Mode.AUTO,
    reasoning_field: Annotated[
        str,
        typer.Option(
            metavar="|".join(_FIELDS), help="Where chat messages carry thinking.", rich_help_panel=RARE
        ),
    ] = "reasoning_content",
    parallel: Annotated[
        int, typer.Option(min=1, max=64, help="Streams that run before a request has to wait.")
    ] = 8,
    queue: Annotated[
        int, typer.Option(min=0, max=10_000, help="Requests that may wait.", rich_help_panel=RARE)
    ] = 32,
    cache_ram: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="MiB of memory for prompts that are kept. [256, or an eighth of it all]",
            rich_help_panel=RARE,
        ),
    ] = None,
    drain: Annotated[
        float,
        typer.Option(min=0, max=600, help="Seconds for answers under way at the end.", rich_help_panel=RARE),
    ] = 30,
    bundle: BundleOption = None,
    model: ModelOption = None,
    base: BaseOption = None,
    kv: KvOption = KV.F16,
    threads: ThreadsOption = None,
    context: ContextOption = None,
    no_mirror: NoMirrorOption = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log every step of the server to stderr.", rich_help_panel=RARE)
    ] = False,
) -> None:
    """Serve a model over HTTP: OpenAI chat completions and Responses, and a page to watch it think."""
    import logging

    from edgereason.cli.options import find, require_one
    from edgereason.server.app import ServerConfig, configure_log, listening, url_of
    from edgereason.server.app import serve as run
    from edgereason.server.asking import Served

    require_one(bundle, model, base)
    if reasoning_field not in _FIELDS:
        raise typer.BadParameter(
            f"one of {', '.join(_FIELDS)}, got {reasoning_field!r}", param_hint="--reasoning-field"
        )
    config = ServerConfig(
        host=host,
        port=port,
        keys=_keys(api_key_file),
        allowed_hosts=tuple(allowed_host or ()),
        cors_origins=tuple(cors_origin or ()),
        drain_s=drain,
    )
    configure_log(logging.INFO if verbose else logging.WARNING)
    with listening(config) as listener:
        source = find(bundle, model, base, allow_mirror=not no_mirror)
        echo(f"edgereason: listening at {url_of(listener)}", err=True)

        async def load() -> AsyncModel:
            return await _load(source, kv, threads, context, (parallel, queue, cache_ram))

        served = Served(name=name or source.name, mode=reasoning, reasoning_fields=_FIELDS[reasoning_field])
        run(served, load, config, listener)


def _keys(file: Path | None) -> tuple[str, ...]:
    """API keys: of a file, one on each line, or of the environment."""
    if file is None:
        key = os.environ.get(_KEY, "")
        return (key,) if key else ()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"can't read API keys from {file}: {getattr(error, 'strerror', None) or error}"
        ) from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not keys:
        raise ConfigError(f"{file} holds no API key: write one on a line of its own")
    return keys


async def _load(
    source: ModelSource, kv: KV, threads: int | None, context: int | None, sizes: tuple[int, int, int | None]
) -> AsyncModel:
    from edgereason.cli.models import display
    from edgereason.core.bundle import Bundle
    from edgereason.reasoning.async_model import AsyncModel

    if not source.path.is_file():
        Bundle.read(source.path)  # or a folder without a bundle would be taken for a model's name
    max_running, max_waiting, cache_mib = sizes
    with display() as (report, notice):
        return await AsyncModel.load(
            source.path,
            max_running=max_running,
            max_waiting=max_waiting,
            cache_mib=cache_mib,
            base=source.base,
            threads=threads,
            kv="q8_0" if kv is KV.Q8_0 else "f16",
            context_tokens=context,
            allow_mirror=source.allow_mirror,
            progress=report,
            notice=notice,
        )
