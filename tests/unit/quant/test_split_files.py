"""A model that is split over several files is refused by every entrance, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import edgereason
from edgereason.cli.main import app
from edgereason.core.bundle import require_one_file
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import ModelFileError
from edgereason.hub.pull import resolve
from edgereason.quant.gguf_file import GgufModel
from tests.unit.tiny_gguf import QWEN2, random_weights, shaped_writer, write_gguf, write_out

RECIPES = Path(__file__).parents[3] / "configs"
NAMED = "tiny-00001-of-00003.gguf"
ADVICE = r"one of the 3 parts .* llama-gguf-split --merge tiny-00001-of-00003\.gguf tiny\.gguf"


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """The first of three parts by its name; whole within, so that nothing else is wrong with it."""
    return write_gguf(tmp_path / NAMED, QWEN2, random_weights(QWEN2, 0))


@pytest.fixture
def renamed(tmp_path: Path) -> Path:
    """A part that only its metadata give away."""
    writer = shaped_writer(tmp_path / "tiny.gguf", QWEN2, context=128)
    writer.add_uint16("split.count", 3)
    writer.add_uint16("split.no", 0)
    return write_out(writer, tmp_path / "tiny.gguf", random_weights(QWEN2, 0))


@pytest.mark.parametrize(
    "name",
    [
        "x-00001-of-00002.gguf", "x-00002-of-00002.gguf", "x-00003-of-00003.gguf", "x-00001-of-00010.gguf",
        "qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf", "X-00001-OF-00002.GGUF", "-00001-of-00002.gguf",
        "a b-00001-of-00002.gguf", "x-00000-of-00002.gguf", "x-00001-of-99999.gguf",
    ],
)  # fmt: skip
def test_a_part_is_known_by_its_name(name: str) -> None:
    with pytest.raises(ModelFileError, match="parts of a split model"):
        require_one_file(Path("models") / name)


@pytest.mark.parametrize(
    "name",
    [
        "x.gguf", "x-00001-of-00001.gguf", "x-1-of-2.gguf", "x-00001-of-00002.gguf.json", "x-of-00002.gguf",
        "00001-of-00002-x.gguf", "x-00001-of-00002", "x-q4_0.gguf", "part-1-of-3.gguf",
        "x-00001-of-000020.gguf",
    ],
)  # fmt: skip
def test_a_whole_model_is_not_taken_for_a_part(name: str) -> None:
    require_one_file(Path(name))


@pytest.mark.parametrize("open_", [LlamaEngine, GgufModel, resolve, edgereason.load])
def test_every_entrance_refuses_a_part_with_what_to_do(part: Path, open_) -> None:
    with pytest.raises(ModelFileError, match=ADVICE):
        open_(str(part) if open_ is resolve else part)


@pytest.mark.parametrize("open_", [LlamaEngine, GgufModel])
def test_a_renamed_part_is_known_by_its_metadata(renamed: Path, open_) -> None:
    with pytest.raises(ModelFileError, match="split"):
        open_(renamed)


@pytest.mark.parametrize(
    "command",
    [
        ["ask", "q", "--model", "MODEL"],
        ["quantize", "MODEL", "--recipe", "RECIPE", "--text", "TEXT", "-o", "OUT"],
        ["eval", "gsm8k", "--model", "MODEL", "--data", "TEXT", "-o", "OUT"],
        ["train", "traces", "--from", "TEXT", "--format", "worked", "--model", "MODEL", "-o", "OUT"],
    ],
)
def test_a_command_refuses_a_part_and_makes_no_model(part: Path, command: list[str]) -> None:
    pytest.importorskip("torch")
    text, out, recipe = (
        part.with_name("t.jsonl"),
        part.with_name("out"),
        RECIPES / "quantize-smollm2-135m.toml",
    )
    text.write_text('{"question": "2+2?", "answer": "#### 4", "text": "It is."}\n')
    places = {"MODEL": str(part), "TEXT": str(text), "OUT": str(out), "RECIPE": str(recipe)}
    result = CliRunner().invoke(app, [places.get(word, word) for word in command])
    assert isinstance(result.exception, ModelFileError)  # which the command line prints in one line
    assert not list(out.glob("*.gguf"))


@pytest.mark.parametrize("count", ["three", "ten" * 9])
def test_a_number_of_parts_that_is_none_is_refused(tmp_path: Path, count: str) -> None:
    writer = shaped_writer(tmp_path / "tiny.gguf", QWEN2, context=128)
    writer.add_string("split.count", count)
    path = write_out(writer, tmp_path / "tiny.gguf", random_weights(QWEN2, 0))
    with pytest.raises(ModelFileError, match="can't be read as GGUF"):
        GgufModel(path)
