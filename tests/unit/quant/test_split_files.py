"""A model that is split over several files is joined where one is named; a part is never taken for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from typer.testing import CliRunner

import edgereason
from edgereason.cli.main import app
from edgereason.core.bundle import require_one_file
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import ModelFileError
from edgereason.hub.pull import resolve
from edgereason.quant.gguf_file import GgufModel
from tests.unit.tiny_bundle import write_base
from tests.unit.tiny_gguf import QWEN2, random_weights, shaped_writer, write_gguf, write_out

RECIPES = Path(__file__).parents[3] / "configs"
NAMED = "tiny-00001-of-00003.gguf"
ADVICE = r"one of the 3 parts .* put all parts in one folder .* NAME-00001-of-00003\.gguf"
MISSING = r"tiny-00002-of-00003\.gguf is missing of a split model of 3 parts \(2 are missing"


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


@pytest.mark.parametrize("open_", [LlamaEngine, GgufModel])
def test_what_opens_one_file_refuses_a_part_with_what_to_do(part: Path, open_) -> None:
    with pytest.raises(ModelFileError, match=ADVICE):
        open_(part)


@pytest.mark.parametrize("open_", [resolve, edgereason.load])
def test_a_missing_part_is_refused_by_name(part: Path, open_) -> None:
    with pytest.raises(ModelFileError, match=MISSING):
        open_(str(part))


def split(path: Path, counts: list[int]) -> list[Path]:
    """The model at `path` as llama-gguf-split writes it, with so many tensors in each part."""
    reader = GGUFReader(path)
    tensors, parts = list(reader.tensors), []
    for number, count in enumerate(counts):
        part = path.with_name(f"tiny-{number + 1:05d}-of-{len(counts):05d}.gguf")
        writer = GGUFWriter(part, QWEN2.arch)
        if number == 0:
            for field in reader.fields.values():
                if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                    items = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
                    writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=items)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", len(counts))
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in tensors[:count]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        del tensors[:count]
        parts.append(write_out(writer, part))
    assert not tensors
    return parts


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole model that can be asked; what is joined goes to a cache beside it."""
    monkeypatch.setenv("EDGEREASON_CACHE", str(tmp_path / "cache"))
    return write_base(tmp_path / "whole.gguf")


def test_parts_are_joined_once_to_the_model_that_was_split(whole: Path) -> None:
    # GIVEN a first part without tensors, as llama-gguf-split can write it
    parts = split(whole, [0, 10, 17])
    # WHEN any part is named
    notices: list[str] = []
    path = resolve(str(parts[1]), notice=notices.append)
    assert resolve(str(parts[0]), notice=notices.append) == path
    # THEN
    assert notices == [f"joining the 3 parts of tiny, once: {path}"]
    assert path.name == "tiny.gguf"
    assert path.read_bytes() == whole.read_bytes()


def test_parts_of_two_models_are_refused(whole: Path, tmp_path: Path) -> None:
    parts = split(whole, [9, 9, 9])
    for source, words in ((parts[0], "says that it is part 0 of 3, counted from 0; its name says 1 of 3"),):
        before = parts[1].read_bytes()
        shutil.copyfile(source, parts[1])
        with pytest.raises(ModelFileError, match=words):
            resolve(str(parts[0]))
        parts[1].write_bytes(before)
    parts[2].write_bytes(parts[2].read_bytes()[:-4000])
    with pytest.raises(ModelFileError, match="can't be read as GGUF"):
        resolve(str(parts[0]))
    assert not list((tmp_path / "cache").rglob("*.gguf"))


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
def test_a_command_refuses_a_model_that_is_not_whole_and_makes_none(part: Path, command: list[str]) -> None:
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
    assert "tiny-00002-of-00003.gguf is missing" in str(result.exception)
    assert not list(out.glob("*.gguf"))


@pytest.mark.parametrize("count", ["three", "ten" * 9])
def test_a_number_of_parts_that_is_none_is_refused(tmp_path: Path, count: str) -> None:
    writer = shaped_writer(tmp_path / "tiny.gguf", QWEN2, context=128)
    writer.add_string("split.count", count)
    path = write_out(writer, tmp_path / "tiny.gguf", random_weights(QWEN2, 0))
    with pytest.raises(ModelFileError, match="can't be read as GGUF"):
        GgufModel(path)
