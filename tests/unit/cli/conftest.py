"""The command line over a scripted engine: arguments in; exit code, stdout and stderr out."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgereason.cli.main import main
from edgereason.engine.scripted import ScriptedEngine
from edgereason.reasoning.model import Model


@dataclass
class Ran:
    code: int
    out: str
    err: str


class Terminal(io.StringIO):
    """Standard input with a person at its other end, who types some lines or nothing."""

    def isatty(self) -> bool:
        return True


class InterruptedEngine(ScriptedEngine):
    """Ctrl-C is pressed in the middle of its steps, at those named; it notes the prompts that it encodes."""

    interrupt_at: tuple[int, ...] = ()
    num_steps = 0

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.prompts: list[str] = []

    def encode(self, sequence, tokens, **options):
        is_whole = super().encode(sequence, tokens, **options)
        text = b"".join(map(self.piece, self.tokens(sequence))).decode()
        if text.endswith("assistant\n"):
            self.prompts.append(text)
        return is_whole

    def step(self, feeds):
        self.num_steps += 1
        if self.num_steps in self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        return super().step(feeds)


@dataclass
class Cli:
    """Runs `edgereason ARGUMENTS`; what it loads is an engine that recites `replies`."""

    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    file: Path
    replies: tuple[str, ...] = ("17 · 23 = 391\n</think>\n\nThe final answer is 391.",)
    interrupt_at: tuple[int, ...] = ()
    context_tokens: int | None = None
    loads: list[dict[str, object]] = field(default_factory=list)
    engines: list[InterruptedEngine] = field(default_factory=list)
    num_resolved: int = 0

    def __call__(
        self, *arguments: str, stdin: str | bytes | None = None, in_terminal: bool = False, typed: str = ""
    ) -> Ran:
        content = stdin.encode() if isinstance(stdin, str) else stdin
        source = Terminal(typed) if content is None else io.TextIOWrapper(io.BytesIO(content))
        self.monkeypatch.setattr(sys, "stdin", source)
        self.monkeypatch.setattr(sys, "argv", ["edgereason", *arguments])
        self.monkeypatch.setattr(sys.stdout, "isatty", lambda: in_terminal)
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Ran(code, *self.capsys.readouterr())

    def load(self, source: object, **options: object) -> Model:
        self.loads.append({"source": source, **options})
        engine = InterruptedEngine(self.replies, context_tokens=self.context_tokens)
        engine.interrupt_at = self.interrupt_at
        self.engines.append(engine)
        return Model(engine)

    def resolve(self, name: str, **_options: object) -> Path:
        self.num_resolved += 1
        return self.file  # hashed and named, never loaded


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Ran]:
    file = tmp_path_factory.mktemp("models") / "some.gguf"
    file.write_bytes(b"a model")
    cli = Cli(capsys, monkeypatch, file)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")
    monkeypatch.setattr("edgereason.reasoning.model.load", cli.load)
    monkeypatch.setattr("edgereason.hub.pull.resolve", cli.resolve)
    return cli
