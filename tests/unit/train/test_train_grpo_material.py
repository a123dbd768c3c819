"""What GRPO takes from an engine, and that it can travel."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgereason.engine.scripted import END, ScriptedEngine
from edgereason.errors import ConfigError
from edgereason.train.data.questions import Question
from edgereason.train.grpo.material import material_of, read_material, write_material

QUESTIONS = [
    Question(id="q1", text="What is 2+2?", reference="4", source="sums", place="here"),
    Question(id="q2", text="And 3×3?", reference="9", source="sums", place="here"),
]


def test_questions_are_prompts_in_the_models_own_template_without_anything_that_makes_it_think() -> None:
    material = material_of(ScriptedEngine(), QUESTIONS, (64, 128))
    (first, second) = material.problems
    assert material.vocabulary.text(first.prompt) == "user\nWhat is 2+2?\nassistant\n"  # markers say nothing
    assert material.vocabulary.text(second.prompt) == "user\nAnd 3×3?\nassistant\n"
    assert (first.id, first.reference) == ("q1", "4")
    assert bytes(material.opening) == b"<think>\n"
    assert {n: bytes(ids) for n, ids in material.hints.items()} == {
        64: b"Budget: 64 tokens.\n",
        128: b"Budget: 128 tokens.\n",
    }
    assert material.vocabulary.ends == {END}


def test_material_comes_back_as_it_was_written(tmp_path: Path) -> None:
    material = material_of(ScriptedEngine(), QUESTIONS, (64,))
    write_material(tmp_path / "m.json", material)
    assert read_material(tmp_path / "m.json") == material


def test_a_file_that_is_no_material_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"problems": []}')
    with pytest.raises(ConfigError, match="no material"):
        read_material(tmp_path / "m.json")
