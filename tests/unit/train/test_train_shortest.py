"""The warm start: which responses are kept, in which ids, and that a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgereason.core.bundle import Base
from edgereason.engine.scripted import END, ScriptedEngine
from edgereason.errors import ConfigError
from edgereason.records.context import RunContext
from edgereason.train.grpo.groups import GroupSampler, Problem
from edgereason.train.grpo.reward import RewardConfig
from edgereason.train.grpo.rollout import Drawn, Vocabulary, Want
from edgereason.train.grpo.shortest import shortest
from edgereason.train.lora.examples import Encoder, ExamplesOrigin, HintConfig, read_examples

OPENING = tuple(b"<think>\n")
HINTS = {64: tuple(b"Budget: 64 tokens.\n"), 128: tuple(b"Budget: 128 tokens.\n")}
RUN = {"adapter": "ab"}
BASE = Base(name="b", sha256="12" * 32, arch="scripted", hidden_size=16, num_layers=2, vocab_sha256="34" * 32)


def drawn(steps: int, answer: str, *, is_whole: bool = True) -> Drawn:
    text = "so" * steps + f"\n</think>\n\nThe final answer is {answer}."
    ids = (*text.encode(), END) if is_whole else tuple(text.encode())
    return Drawn(ids, (-1.0,) * len(ids), is_whole)


RESPONSES = {
    "a": [drawn(9, "4"), drawn(5, "4"), drawn(2, "5"), drawn(1, "4", is_whole=False)],
    "b": [drawn(1, "5")] * 4,
    "c": [drawn(3, "4"), drawn(3, "4"), drawn(3, "4"), drawn(3, "4")],
}


class Says:
    def __init__(self, responses: dict[str, list[Drawn]] = RESPONSES) -> None:
        self._responses = responses
        self.wants: list[Want] = []

    def __call__(self, wants: Sequence[Want]) -> list[list[Drawn]]:
        self.wants += wants
        return [self._responses[bytes(want.prompt).decode()] for want in wants]


def sampler() -> GroupSampler:
    return GroupSampler(
        problems={
            name: Problem(id=name, text="What is 2+2?", reference="4", prompt=tuple(name.encode()))
            for name in RESPONSES
        },
        opening=OPENING,
        hints=HINTS,
        vocabulary=Vocabulary.of(ScriptedEngine()),
        rewards=RewardConfig(),
        count=4,
    )


def test_the_shortest_right_response_is_kept_behind_the_hint_that_it_was_drawn_under(tmp_path: Path) -> None:
    record = shortest(tmp_path / "out", sampler(), Says(), BASE, RUN)
    file = read_examples(tmp_path / "out" / "examples.jsonl")
    examples = {one.id: one for one in file.examples}
    # "b" is never right; "a"'s shortest two are wrong and cut.
    assert [*examples] == ["a/64", "a/128", "c/64", "c/128"]
    for bucket, hint in HINTS.items():
        kept = examples[f"a/{bucket}"]
        assert kept.response == OPENING + hint + RESPONSES["a"][1].ids
        assert (kept.prompt, kept.num_forced, kept.bucket) == ((97,), 8 + len(hint), bucket)
    assert record is not None
    assert (record["samples"], record["examples"]["rows"]) == (24, 4)
    assert record["share_right"] == 12 / 24  # 2, 0 and 4 of four, under both
    assert record["tokens"][64]["kept"]["max"] == RESPONSES["a"][1].num_tokens


def test_forced_results_of_a_kept_response_are_not_trained(tmp_path: Path) -> None:
    computed = replace(RESPONSES["a"][1], forced=(3, 4))
    shortest(tmp_path / "out", sampler(), Says(RESPONSES | {"a": [computed] * 4}), BASE, RUN)
    examples = {one.id: one for one in read_examples(tmp_path / "out" / "examples.jsonl").examples}
    for bucket, hint in HINTS.items():
        begin = len(OPENING + hint)
        trained = examples[f"a/{bucket}"].trained
        assert [place for place, is_trained in enumerate(trained) if not is_trained] == [
            *range(begin),
            begin + 3,
            begin + 4,
        ]
        assert all(examples[f"c/{bucket}"].trained[begin:])


def test_what_is_right_beyond_the_budget_is_not_kept(tmp_path: Path) -> None:
    long = [drawn(40, "4")] * 4  # of 115 tokens: within 128, and beyond 80, where a floor draws on
    asked = replace(sampler(), rewards=RewardConfig(floor=0.1))
    shortest(tmp_path / "out", asked, Says(dict.fromkeys("abc", long)), BASE, RUN)
    examples = read_examples(tmp_path / "out" / "examples.jsonl").examples
    assert [one.id for one in examples] == ["a/128", "b/128", "c/128"]


def test_a_stopped_run_goes_on_and_draws_nothing_twice(tmp_path: Path) -> None:
    stops = iter([False, True])
    stopped = RunContext(should_stop=lambda: next(stops))
    whole, first, second = Says(), Says(), Says()
    expected = shortest(tmp_path / "whole", sampler(), whole, BASE, RUN, together=1)
    assert shortest(tmp_path / "out", sampler(), first, BASE, RUN, stopped, together=1) is None
    found = shortest(tmp_path / "out", sampler(), second, BASE, RUN, together=1)
    assert first.wants + second.wants == whole.wants
    assert found == expected
    assert json.loads((tmp_path / "out" / "record.json").read_text())["run"] == {"base": "12" * 32, **RUN}


def test_draws_do_not_depend_on_what_is_drawn_together(tmp_path: Path) -> None:
    one, three = Says(), Says()
    shortest(tmp_path / "one", sampler(), one, BASE, RUN, together=1)
    shortest(tmp_path / "three", sampler(), three, BASE, RUN, together=3)
    assert one.wants == three.wants


def test_samples_of_another_question_of_the_same_id_are_refused(tmp_path: Path) -> None:
    shortest(tmp_path / "out", sampler(), Says(), BASE, RUN)
    asked = sampler()
    other = replace(asked.problems["a"], reference="5")
    with pytest.raises(ConfigError, match="another problem with the id 'a'"):
        shortest(tmp_path / "out", replace(asked, problems={**asked.problems, "a": other}), Says(), BASE, RUN)


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    shortest(tmp_path / "out", sampler(), Says(), BASE, RUN)
    with pytest.raises(ConfigError, match="adapter"):
        shortest(tmp_path / "out", sampler(), Says(), BASE, {"adapter": "cd"})


def test_another_bases_folder_is_refused(tmp_path: Path) -> None:
    shortest(tmp_path / "out", sampler(), Says(), BASE, RUN)
    with pytest.raises(ConfigError, match=r"base: '1212.* there, '5656.* now"):
        shortest(tmp_path / "out", sampler(), Says(), replace(BASE, sha256="56" * 32), RUN)


def test_examples_say_what_they_were_made_for_and_the_recipe_of_their_buckets_takes_them(
    tmp_path: Path,
) -> None:
    shortest(tmp_path / "out", sampler(), Says(), BASE, RUN)
    file = read_examples(tmp_path / "out" / "examples.jsonl")
    assert file.origin == ExamplesOrigin(
        base_sha256="12" * 32, vocab_sha256="34" * 32, opening=OPENING, buckets=(64, 128)
    )
    file.require(Encoder.of(ScriptedEngine()), BASE, HintConfig(buckets=(64, 128), share=1.0))
