"""Run files: what is understood is kept, what is not is refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest
import tomli_w

from edgereason.config import TomlTables, parse, read_toml, to_table
from edgereason.errors import ConfigError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Settings:
    name: str
    rate: float = 0.5
    steps: int | None = None
    colour: Colour = Colour.RED
    kv: Literal["f16", "q8_0"] = "f16"
    ranks: tuple[int, ...] = ()
    is_fast: bool = False


def test_a_dataclass_survives_the_way_through_toml(tmp_path: Path) -> None:
    settings = Settings(name="a", rate=2.0, colour=Colour.BLUE, ranks=(8, 16), is_fast=True)
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps({"eval": to_table(settings)}))
    assert parse(Settings, read_toml(path)["eval"], "run.toml [eval]") == settings


def test_an_unknown_key_is_refused_and_the_nearest_one_named() -> None:
    with pytest.raises(ConfigError, match=r"no setting 'step': did you mean 'steps'\?"):
        parse(Settings, {"name": "a", "step": 3}, "run.toml [eval]")


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("steps", "3", "must be a whole number, got '3'"),
        ("steps", True, "must be a whole number, got True"),
        ("rate", "fast", "must be a number"),
        ("colour", "green", "must be one of red, blue, got 'green'"),
        ("kv", "f32", "must be one of 'f16', 'q8_0', got 'f32'"),
        ("ranks", 8, "must be a list, got 8"),
        ("ranks", [8, "x"], r"ranks\[1\] must be a whole number, got 'x'"),
        ("is_fast", 1, "must be true or false, got 1"),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: object, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse(Settings, {"name": "a", key: value}, "run.toml")


def test_a_setting_without_default_must_be_there() -> None:
    with pytest.raises(ConfigError, match="lacks name"):
        parse(Settings, {}, "run.toml")


def test_an_integer_will_do_for_a_float() -> None:
    rate = parse(Settings, {"name": "a", "rate": 1}, "run.toml").rate
    assert rate == 1.0
    assert isinstance(rate, float)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"broken\.toml is not TOML"):
        read_toml(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    seed: int = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class File(TomlTables):
    one: Settings
    other: Rest = field(default_factory=Rest)

    @property
    def not_a_table(self) -> str:
        return "said of the tables"


def test_a_file_is_a_dataclass_of_tables_and_what_is_left_out_has_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('[one]\nname = "a"\nsteps = 3\n')
    file = File.read(path)
    assert file == File(one=Settings(name="a", steps=3), other=Rest(seed=7))
    assert file.to_tables()["other"] == {"seed": 7}
    path.write_text(tomli_w.dumps(file.to_tables()))
    assert File.read(path) == file


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "[one]\nname = 'a'\n[othre]\nseed = 1",
            r"recipe.toml has an unknown table \[othre\]: did you mean 'other'",
        ),
        ("[one]\nname = 'a'\n[other]\nsed = 1", r"recipe.toml \[other\] has no setting 'sed'"),
        ("[other]\nseed = 1", r"recipe.toml \[one\] lacks name"),
    ],
)
def test_a_table_or_setting_that_does_not_fit_is_named_with_its_file(
    tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        File.read(tmp_path / "recipe.toml")
