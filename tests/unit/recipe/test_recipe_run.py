"""Which stages of a recipe are carried out: kept, resumed, stale, chosen. Stages here write a line each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from recipes import MINIMAL, recipe_of

from edgereason.core.bundle import file_sha256
from edgereason.errors import ConfigError, EngineError
from edgereason.recipe.run import Choice, Standing, carry_out, look, require_fresh
from edgereason.recipe.stages import ALL, Stage
from edgereason.recipe.work import Work, publish
from edgereason.records.context import RunContext


class Bench:
    """A folder, stages a → b → c with a setting each, and a list of what was carried out."""

    def __init__(self, root: Path, tmp_path: Path) -> None:
        self.ran: list[str] = []
        self.notices: list[str] = []
        self.stops_at = self.fails_at = ""
        self.settings: dict[str, dict] = {name: {"value": 1} for name in "abc"}
        self.says = dict.fromkeys("abc", "")
        self.keeps: dict[str, tuple[str, ...]] = {}
        context = RunContext(notice=self.notices.append)
        self.work = Work(recipe=recipe_of(MINIMAL, tmp_path), root=root, sources={}, context=context)

    def stages(self) -> list[Stage]:
        needs: dict[str, Iterable[str]] = {"a": (), "b": ("a",), "c": ("b",)}
        return [
            Stage(
                name=name,
                needs=dict.fromkeys(needs[name], ALL),
                config=self.settings[name],
                products=("*.txt",),
                run=lambda work, folder, name=name: self._run(name, folder),
                keeps=self.keeps.get(name, ()),
            )
            for name in "abc"
        ]

    def _run(self, name: str, folder: Path) -> dict | None:
        self.ran.append(name)
        with (folder / "journal").open("a") as file:
            file.write(f"{name}\n")
        if name == self.fails_at:
            raise EngineError("it broke")
        if name == self.stops_at:
            return None
        said = self.says[name] or str(self.settings[name]["value"])
        (folder / "made.txt").write_text(said)
        return {}

    def make(self, **choice: object) -> list[str] | None:
        """Which stages were carried out; None if it was stopped."""
        self.ran = []
        done = carry_out(self.stages(), self.work, Choice(**choice))
        return None if done is None else self.ran

    def standings(self) -> str:
        stages = self.stages()
        return " ".join(str(one.standing) for one in look(stages, self.work.root, stages))

    def file(self, place: str) -> str:
        return (self.work.root / place).read_text()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "out", tmp_path)


def test_finished_stages_are_kept(bench: Bench) -> None:
    assert bench.make() == ["a", "b", "c"]
    assert bench.make() == []
    assert bench.standings() == "finished finished finished"


def test_a_changed_setting_is_refused_and_names_what_is_stale_and_what_may_follow(bench: Bench) -> None:
    bench.make()
    bench.settings["b"] = {"value": 2}
    assert bench.standings() == "finished stale waiting"
    stages = bench.stages()
    says = r"stale are b \(config.value: 1 there, 2 now\), and with them perhaps c: --redo makes them again"
    with pytest.raises(ConfigError, match=says):
        require_fresh(look(stages, bench.work.root, stages), Choice())
    with pytest.raises(ConfigError, match=says.partition(", and")[0]):
        bench.make()
    assert bench.ran == []
    assert bench.file("stages/b/made.txt") == "1"


def test_redo_makes_stale_stages_again_and_loses_nothing(bench: Bench) -> None:
    bench.make()
    bench.settings["b"] = {"value": 2}
    assert bench.make(redo=True) == ["b", "c"]  # c needs another b now
    assert bench.file("stages/b/made.txt") == "2"
    assert (bench.file("earlier/b-1/made.txt"), bench.file("earlier/c-1/made.txt")) == ("1", "1")
    assert '"value": 1' in bench.file("earlier/b-1.json")
    bench.settings["b"] = {"value": 3}
    bench.make(redo=True)
    assert bench.file("earlier/b-2/made.txt") == "2"
    assert bench.make(redo=True) == []  # so that the same command can be given after a kill


def test_what_follows_stays_if_a_stage_comes_out_the_same(bench: Bench) -> None:
    bench.says["b"] = "the same"
    bench.make()
    bench.settings["b"] = {"value": 2}
    assert bench.make(redo=True) == ["b"]
    assert bench.standings() == "finished finished finished"


@pytest.mark.parametrize("name", ["parallel", "micro_rows", "checkpoint_minutes", "threads", "label"])
def test_a_setting_that_changes_no_result_makes_nothing_stale(bench: Bench, name: str) -> None:
    bench.settings["b"] = {"value": 1, "training": {name: 1}}
    bench.make()
    bench.settings["b"] = {"value": 1, "training": {name: 2}}
    assert bench.make() == []


def test_a_switch_that_was_unknown_makes_nothing_stale_while_it_is_off(bench: Bench) -> None:
    bench.make()
    bench.settings["b"] = {"value": 1, "calculator": False}
    assert bench.make() == []
    bench.settings["b"] = {"value": 1, "calculator": True}
    assert bench.standings() == "finished stale waiting"


def test_a_stage_whose_files_are_gone_or_changed_is_stale(bench: Bench) -> None:
    bench.make()
    (bench.work.root / "stages/b/made.txt").write_text("by hand")
    with pytest.raises(ConfigError, match=r"b \(what it made was changed or removed\)"):
        bench.make()
    (bench.work.root / "stages/b/made.txt").unlink()
    assert bench.make(redo=True) == ["b"]
    assert bench.file("stages/b/made.txt") == "1"


def test_a_stopped_run_goes_on_in_the_folder_of_the_stage_that_it_stopped_in(bench: Bench) -> None:
    bench.stops_at = "b"
    assert bench.make() is None
    assert (bench.ran, bench.standings()) == (["a", "b"], "finished begun missing")
    bench.stops_at = ""
    assert bench.make() == ["b", "c"]
    assert bench.file("stages/b/journal") == "b\nb\n"
    assert not (bench.work.root / "earlier").exists()


def test_a_failed_stage_leaves_those_before_it_and_says_where_it_was(bench: Bench) -> None:
    bench.fails_at = "b"
    with pytest.raises(EngineError, match="it broke"):
        bench.make()
    assert bench.notices == ["b failed; the stages before it stay as they are"]
    bench.fails_at = ""
    assert bench.make() == ["b", "c"]


def test_a_stage_that_was_only_begun_with_other_settings_is_stale_too(bench: Bench) -> None:
    bench.stops_at = "b"
    bench.make()
    bench.settings["b"] = {"value": 2}
    assert bench.standings() == "finished stale missing"
    bench.stops_at = ""
    assert bench.make(redo=True) == ["b", "c"]
    assert bench.file("stages/b/journal") == "b\n"
    assert bench.file("earlier/b-1/journal") == "b\n"


def test_rows_that_still_count_are_gone_on_with_and_what_was_made_of_them_is_kept(bench: Bench) -> None:
    bench.keeps["b"] = ("config.value:",)
    bench.make()
    bench.settings["b"] = {"value": 2}
    assert bench.make(redo=True) == ["b", "c"]
    assert bench.file("stages/b/journal") == "b\nb\n"
    assert (bench.file("stages/b/made.txt"), bench.file("earlier/b-1/made.txt")) == ("2", "1")
    bench.settings["b"] = {"value": 2, "model": "another"}
    bench.make(redo=True)
    assert bench.file("stages/b/journal") == "b\n"  # its rows are of another model


def test_until_stops_behind_a_stage(bench: Bench) -> None:
    assert bench.make(until="b") == ["a", "b"]
    assert bench.make() == ["c"]


def test_only_carries_out_one_stage_and_refuses_it_before_those_that_it_needs(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"c needs b \(missing\): carry them out first"):
        bench.make(only="c")
    assert bench.make(until="b") == ["a", "b"]
    assert bench.make(only="c") == ["c"]
    bench.settings["a"] = {"value": 2}
    with pytest.raises(ConfigError, match=r"a \(config.value: 1 there, 2 now\)"):
        bench.make(only="a")
    with pytest.raises(ConfigError, match=r"b needs a \(stale\)"):
        bench.settings["b"] = {"value": 2}
        bench.make(only="b", redo=True)


def test_a_stage_that_is_not_there_is_named_with_the_nearest() -> None:
    stages = [Stage(name=name, products=(), run=lambda work, folder: {}) for name in ("traces/own", "sft")]
    with pytest.raises(ConfigError, match="there is no stage 'stf': did you mean 'sft'"):
        Choice(until="stf").of(stages)
    with pytest.raises(ConfigError, match="one of until and only"):
        Choice(until="sft", only="sft").of(stages)
    assert [one.name for one in Choice(only="traces").of(stages)] == ["traces/own"]


def test_a_stage_depends_on_those_files_alone_that_it_names(bench: Bench) -> None:
    bench.make()
    stages = bench.stages()
    stages[2] = replace(stages[2], needs={"b": ("*.gguf",)})
    (c,) = look(stages[2:], bench.work.root, stages)
    assert c.standing is Standing.STALE  # it depended on made.txt
    assert c.why == (
        f"needs.b.made.txt: '{file_sha256(bench.work.root / 'stages/b/made.txt')}' there, None now",
    )


def test_looking_changes_nothing(bench: Bench) -> None:
    bench.make(until="b")
    before = sorted(bench.work.root.rglob("*"))
    bench.standings()
    assert sorted(bench.work.root.rglob("*")) == before


def test_a_bundle_that_somebody_changed_is_kept_when_another_takes_its_place(tmp_path: Path) -> None:
    made, target = tmp_path / "stages" / "card" / "tiny", tmp_path / "tiny"
    made.mkdir(parents=True)
    (made / "bundle.json").write_text("made")
    publish(made, target)
    (target / "bundle.json").write_text("calibrated by hand")
    publish(made, target)
    assert (target / "bundle.json").read_text() == "made"
    assert (tmp_path / "earlier" / "tiny-1" / "bundle.json").read_text() == "calibrated by hand"
