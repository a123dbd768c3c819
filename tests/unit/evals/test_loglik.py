"""Texts by the data sets' rows, letter for letter; choices by a distribution that is known by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from collections.abc import Sequence as Tokens
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgereason.data.rows import Row
from edgereason.engine.base import ModelInfo, Scored, Sequence
from edgereason.engine.llama import LlamaEngine
from edgereason.engine.scripted import ScriptedEngine
from edgereason.errors import ConfigError, ContextOverflow
from edgereason.evals.likelihood.loglik import ChoiceRow, run_loglik, summarise
from edgereason.evals.likelihood.tasks import (
    LOGLIK_TASKS,
    ChoiceItem,
    LetteredQuestion,
    Option,
    Orders,
    load_loglik_task,
    resolved_orders,
)


def item(task: str, **values: Any) -> ChoiceItem:
    made = LOGLIK_TASKS[task].read(task, Row("rows.jsonl", 7, values))
    return made.item("given") if isinstance(made, LetteredQuestion) else made


def choices(context: str, *texts: str, gold: int = 0, id_: str = "q") -> ChoiceItem:
    return ChoiceItem(id_, tuple(Option(context, text) for text in texts), gold)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────


def test_arc_asks_for_the_options_text_in_the_official_and_in_our_schema() -> None:
    expected = choices("Question: What falls?\nAnswer:", " an apple", " the sky", gold=1, id_="Mercury_7")
    official = {"text": ["an apple", "the sky"], "label": ["1", "2"]}
    question = "What falls?"
    assert item("arc-easy", id="Mercury_7", question=question, choices=official, answerKey="2") == expected
    ours = ["an apple", "the sky"]
    assert item("arc-challenge", id="Mercury_7", question=question, choices=ours, answer="B") == expected


def test_mmlu_asks_for_a_letter_after_the_lettered_options() -> None:
    context = (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "What is 2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:"
    )
    expected = choices(context, " A", " B", " C", " D", gold=1, id_="mmlu-0007")
    expected = replace(expected, has_letters=True)
    row = {
        "question": " What is 2 + 2?\n",
        "subject": "abstract_algebra",
        "choices": list("3456"),
        "answer": 1,
    }
    assert item("mmlu", **row) == expected
    assert item("mmlu", **row | {"answer": "B"}) == expected
    del row["subject"]
    assert (
        item("mmlu", **row)
        .options[0]
        .context.startswith(
            "The following are multiple choice questions (with answers).\n\nWhat is 2 + 2?\nA. 3\n"
        )
    )


def test_in_cyclic_orders_each_option_stands_once_at_each_letter() -> None:
    question = LetteredQuestion(
        id="q", subject=None, heading="Choose.\n\n", question="Who?", options=("you", "me", "she"), gold=2
    )
    asked = question.item("cyclic")
    contexts = [f"Choose.\n\nWho?\nA. {a}\nB. {b}\nC. {c}\nAnswer:" for a, b, c in (
        ("you", "me", "she"), ("she", "you", "me"), ("me", "she", "you"),
    )]  # fmt: skip
    letters = (" A", " B", " C"), (" B", " C", " A"), (" C", " A", " B")
    assert asked.prompts == tuple(
        tuple(Option(context, letter) for letter in order)
        for context, order in zip(contexts, letters, strict=True)
    )
    assert (asked.gold, asked.has_letters) == (2, True)
    assert question.item("given").prompts == asked.prompts[:1]


def test_arc_with_letters_shows_its_options() -> None:
    got = item(
        "arc-challenge-letters", id=7, question="What falls?", choices=["a sky", "a stone"], answer="B"
    )
    context = "Question: What falls?\nA. a sky\nB. a stone\nAnswer:"
    assert got == replace(choices(context, " A", " B", gold=1, id_="7"), has_letters=True)


def test_examples_are_the_first_rows_of_the_subject_and_are_not_asked(tmp_path: Path) -> None:
    path = tmp_path / "mmlu.jsonl"
    rows = [
        {"id": id_, "question": f"{id_}?", "subject": id_[0], "choices": ["x", "y"], "answer": answer}
        for id_, answer in (("a1", "A"), ("b1", "B"), ("a2", "B"), ("a3", "A"), ("b2", "A"), ("b3", "A"))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load_loglik_task("mmlu", data=path, shots=1)
    assert [one.id for one in task.items] == ["a2", "a3", "b2", "b3"]
    # The examples keep their order; the question's own options are turned.
    before = (
        "The following are multiple choice questions (with answers) about b.\n\n"
        "b1?\nA. x\nB. y\nAnswer: B\n\nb2?\n"
    )
    given, turned = before + "A. x\nB. y\nAnswer:", before + "A. y\nB. x\nAnswer:"
    assert task.items[2].prompts == (
        (Option(given, " A"), Option(given, " B")),
        (Option(turned, " B"), Option(turned, " A")),
    )
    first = load_loglik_task("mmlu", data=path, shots=1, limit=3).items
    assert [one.id for one in first] == ["a2", "a3", "b2"]
    with pytest.raises(ConfigError, match="no row left beside 3 examples"):
        load_loglik_task("mmlu", data=path, shots=3)


def test_orders_and_examples_are_for_options_with_letters() -> None:
    assert [resolved_orders("mmlu", orders, 0) for orders in (None, "cyclic", "given")] == [
        "cyclic",
        "cyclic",
        "given",
    ]
    assert [resolved_orders("piqa", orders, 0) for orders in (None, "given")] == [None, None]
    with pytest.raises(
        ConfigError, match=r"arc-challenge shows no options .* orders .*arc-challenge-letters"
    ):
        resolved_orders("arc-challenge", "cyclic", 0)
    with pytest.raises(ConfigError, match="so shots can't be set"):
        resolved_orders("piqa", None, 5)


def test_hellaswag_joins_activity_and_scene_and_cleans_marks() -> None:
    got = item(
        "hellaswag",
        activity_label="Making tea",
        ctx_a="[header] How to make tea [title] Boil water [step] Fill the  pot.",
        ctx_b="then WAIT",
        endings=["until it [substeps] boils .", "for [title] ever"],
        label="1",
    )
    # "[header]" leaves two spaces, which become one; " [title]" becomes ". " before its own space.
    context = "Making tea: How to make tea. Boil water Fill the pot. Then wait"
    assert got == choices(context, " until it boils .", " for. ever", gold=1, id_="hellaswag-0007")
    start = item("hellaswag", activity_label="A", ctx_a="He", ctx_b="", endings=["runs"], label=0)
    assert start.options[0].context == "A: He"


def test_piqa_offers_two_ways_to_a_goal() -> None:
    got = item("piqa", goal="Dry a shirt", sol1="Hang it up.", sol2="Bury it.", label=0)
    assert got == choices("Question: Dry a shirt\nAnswer:", " Hang it up.", " Bury it.", id_="piqa-0007")


def test_winogrande_scores_one_ending_after_two_fillings() -> None:
    sentence = "The cup is not in the case because the _ was too big."
    got = item("winogrande", sentence=sentence, option1="cup", option2="case", answer="1")
    before = "The cup is not in the case because the "
    ending = " was too big."
    assert got.options == (Option(before + "cup", ending), Option(before + "case", ending))
    assert got.gold == 0


def test_lambada_scores_the_last_word() -> None:
    assert item("lambada", text="She opened the door") == choices(
        "She opened the", " door", id_="lambada-0007"
    )


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": -1}, "label is -1; expected 0 or 1"),
        (
            "winogrande",
            {"sentence": "a _ b", "option1": "x", "option2": "y", "answer": ""},
            "answer is ''; expected 1 or 2; is it a split with answers",
        ),
        ("winogrande", {"sentence": "no blank"}, "sentence has no blank"),
        ("winogrande", {"sentence": "ends in _"}, "sentence has no blank"),
        ("lambada", {"text": "word "}, "text is one word"),
        (
            "hellaswag",
            {"activity_label": "a", "ctx_a": "b", "endings": ["[x]"], "label": "0"},
            r"endings\[0\]",
        ),
        ("arc-easy", {"question": "q", "choices": ["a", "b"], "answer": "C"}, "answer is 'C'"),
    ],
)
def test_a_broken_row_names_file_line_and_field(task: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"rows.jsonl, line 7: {message}"):
        item(task, **values)


def test_a_task_is_read_from_a_file_with_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "piqa.jsonl"
    row = {"goal": "g", "sol1": "a", "sol2": "b", "label": 1}
    path.write_text("".join(json.dumps(row | {"goal": goal}) + "\n" for goal in "xyz"))
    task = load_loglik_task("piqa", data=path, limit=2)
    assert [one.id for one in task.items] == ["piqa-0001", "piqa-0002"]
    assert (task.data_name, len(task.data_sha256 or "")) == ("piqa.jsonl", 64)
    path.write_text("".join(json.dumps(row | {"id": "same"}) + "\n" for _ in range(2)))
    with pytest.raises(ConfigError, match=r"line 2: id is 'same', as in 1"):
        load_loglik_task("piqa", data=path)
    with pytest.raises(ConfigError, match="'hellaswg' to score by likelihood: did you mean 'hellaswag'"):
        load_loglik_task("hellaswg", data=path)


# ── scores ───────────────────────────────────────────────────────────────────────────────────────


def bigram(after: dict[str, dict[str, float]]) -> np.ndarray:
    """Logits: `after["a"]["b"]` is the probability of b behind a; the other tokens share what is left."""
    logits = np.zeros((258, 258), np.float32)
    for char, followers in after.items():
        logits[ord(char)] = np.log((1 - sum(followers.values())) / (258 - len(followers)))
        for follower, p in followers.items():
            logits[ord(char), ord(follower)] = np.log(p)
    return logits


def test_the_sum_decides_acc_and_the_sum_a_byte_decides_acc_norm() -> None:
    engine = ScriptedEngine(bigram=bigram({":": {" ": 0.5}, " ": {"a": 0.5, "b": 0.25}, "b": {"b": 0.9}}))
    (row,), summary = run_loglik(engine, [choices("Q:", " a", " bbbb", gold=1)], task="t")
    # " a": 0.5 × 0.5 = 0.25; " bbbb": 0.5 × 0.25 × 0.9³ = 0.0911. Sums −1.386 and −2.396, and for the 1 and 4
    # bytes behind the space −1.386 and −0.599.
    assert row.logprobs == pytest.approx((np.log(0.25), np.log(0.125 * 0.9**3)), abs=1e-6)
    assert (row.num_bytes, row.num_tokens) == ((1, 4), (2, 5))
    assert (row.pred, row.pred_norm, row.gold) == (0, 1, 1)
    assert row.is_greedy == (True, False)
    assert summary is not None
    assert (summary.acc, summary.acc_norm, summary.ppl) == (0.0, 1.0, None)


def test_bytes_are_of_utf8_and_without_the_leading_space() -> None:
    assert (Option("", " né").num_bytes, Option("", "  x").num_bytes, Option("", "x").num_bytes) == (3, 2, 1)


def test_a_shared_context_is_encoded_once_and_nothing_is_left_behind() -> None:
    engine = ScriptedEngine()
    run_loglik(engine, [choices("context", " a", " bc", " d")], task="t")
    assert engine.decoded == [7, 2 + 3 + 2]  # the context, then all that follows it in one batch
    assert (engine.live_sequences, engine.used_cells) == (0, 0)


def test_the_same_ending_is_scored_after_its_own_context() -> None:
    engine = ScriptedEngine(bigram=bigram({"p": {" ": 0.5}, "e": {" ": 0.125}}))
    ending = Option("the cup", " ."), Option("the case", " .")
    (row,), _ = run_loglik(engine, [ChoiceItem("w", ending, 0)], task="t")
    assert row.logprobs == pytest.approx((np.log(0.5 / 258), np.log(0.125 / 258)), abs=1e-6)
    assert (row.pred, engine.decoded) == (0, [7, 2, 8, 2])


def test_a_last_word_is_right_if_drawn_greedily_and_has_a_perplexity() -> None:
    engine = ScriptedEngine(bigram=bigram({"e": {" ": 0.5}, " ": {"x": 0.5, "y": 0.125}}))
    items = [choices("the", " x", id_="1"), choices("the", " y", id_="2")]
    rows, summary = run_loglik(engine, items, task="lambada")
    assert [row.is_right for row in rows] == [True, False]
    assert summary is not None
    assert (summary.acc, summary.acc_norm) == (0.5, None)
    # Words of probability 1/4 and 1/16: their geometric mean is 1/8.
    assert summary.ppl == pytest.approx(8.0, rel=1e-6)


def test_a_summary_counts_items_and_has_wilsons_interval() -> None:
    rows = [
        ChoiceRow(
            id=str(i),
            gold=0,
            logprobs=(-1.0, -2.0),
            num_bytes=(1, 1),
            num_tokens=(1, 1),
            is_greedy=(True, False),
            pred=pred,
            pred_norm=0,
        )
        for i, pred in enumerate((0, 0, 1, 0))
    ]
    assert [ChoiceRow.from_json(json.loads(json.dumps(row.to_json()))) for row in rows] == rows
    summary = summarise("t", rows)
    assert (summary.n, summary.acc, summary.acc_norm) == (4, 0.75, 1.0)
    # Wilson, z² = 3.8415: middle (0.75 + 0.48018) / 1.96036 = 0.62753, half √(3.8415 (0.046875 + 0.060023))
    # / 1.96036 = 0.32688.
    assert summary.acc_ci95 == pytest.approx((0.30064, 0.95441), abs=1e-4)
    with pytest.raises(ConfigError, match="no rows"):
        summarise("t", [])


class Prefers(ScriptedEngine):
    """Knows the option that is "right", and prefers the letter B far more.

    Logits of the letters: 1 for that of the right option, and 2 more for B; all others' probability is 0.
    """

    def score(self, feeds: Iterable[tuple[Sequence, Tokens[int]]]) -> list[Scored]:
        feeds = list(feeds)
        texts = [bytes(self._tokens[sequence]).decode() for sequence, _ in feeds]
        unlike = super().score(feeds)  # which counts cells and refuses what is stale
        return [
            Scored(np.array([0.0, self._logprob(text, chr(tokens[-1]))]), one.is_top)
            for text, (_, tokens), one in zip(texts, feeds, unlike, strict=True)
        ]

    def _logprob(self, text: str, letter: str) -> float:
        lines = dict(line.split(". ") for line in text.splitlines() if ". " in line)
        logits = {one: (option == "right") + 2 * (one == "B") for one, option in lines.items()}
        return logits[letter] - float(np.log(np.exp(list(logits.values())).sum()))


def lettered(*options: str, orders: Orders = "cyclic", id_: str = "q") -> ChoiceItem:
    return LetteredQuestion(
        id=id_, subject=None, heading="", question="?", options=options, gold=options.index("right")
    ).item(orders)


def test_a_letter_that_is_preferred_decides_in_the_given_order_and_not_over_cyclic_ones() -> None:
    options = "right", "wrong", "false", "bad"
    (given,), _ = run_loglik(Prefers(), [lettered(*options, orders="given")], task="t")
    assert (given.pred, given.is_right) == (1, False)
    # Logits 1, 2, 0, 0.
    total = np.log(np.e + np.e**2 + 2)
    assert given.logprobs == pytest.approx((1 - total, 2 - total, -total, -total))
    (row,), summary = run_loglik(Prefers(), [lettered(*options)], task="t")
    # Over the four prompts every option has B's 2 once, and the right one has 1 more in each. Where it stands
    # at B itself the logits are 3, 0, 0, 0; in the other three prompts 2, 1, 0, 0.
    mean_total = (np.log(np.e**3 + 3) + 3 * np.log(np.e**2 + np.e + 2)) / 4
    assert row.logprobs == pytest.approx((1.5 - mean_total, *[0.5 - mean_total] * 3))
    assert (row.pred, row.is_right) == (0, True)
    assert summary is not None
    assert (summary.acc, summary.letters) == (1.0, {"A": 0.0, "B": 1.0, "C": 0.0, "D": 0.0})


def test_the_shares_of_letters_are_those_of_the_given_order() -> None:
    # Three items: the right option is at A, B and C of three, and B is likeliest whatever stands there.
    items = [
        lettered("right", "wrong", "bad", id_="1"),
        lettered("wrong", "right", "bad", id_="2"),
        lettered("wrong", "bad", "right", id_="3"),
    ]
    rows, summary = run_loglik(Prefers(), items, task="t")
    assert [(row.pred, row.letter) for row in rows] == [(0, 1), (1, 1), (2, 1)]
    assert summary is not None
    assert (summary.acc, summary.letters) == (1.0, {"A": 0.0, "B": 1.0, "C": 0.0})
    assert [ChoiceRow.from_json(json.loads(json.dumps(row.to_json()))) for row in rows] == rows
    # What older versions wrote: one prompt, whose choice is the letter.
    old = {k: v for k, v in rows[0].to_json().items() if k != "prompt_logprobs"}
    assert ChoiceRow.from_json(old).letter == 0
    assert summarise("t", [ChoiceRow.from_json(old)], has_letters=True).letters == {
        "A": 1.0,
        "B": 0.0,
        "C": 0.0,
    }
    assert summarise("t", [ChoiceRow.from_json(old)]).letters is None


def test_what_cyclic_prompts_have_in_common_is_encoded_once() -> None:
    engine = Prefers()
    run_loglik(engine, [lettered("right", "wrong")], task="t")
    # "?\nA. " (5 bytes) is in both prompts; "right\nB. wrong\nAnswer:" (22) is what is left of each, and two
    # letters with their spaces follow.
    assert engine.decoded == [5, 22, 4, 22, 4]
    assert (engine.live_sequences, engine.used_cells) == (0, 0)


def test_rows_come_one_by_one_and_a_run_can_be_stopped_between_them() -> None:
    items = [choices("c", " a", " b", id_=str(i)) for i in range(3)]
    seen: list[str] = []
    rows, summary = run_loglik(
        ScriptedEngine(),
        items,
        task="t",
        on_done=lambda row: seen.append(row.id),
        should_stop=lambda: len(seen) == 2,
    )
    assert ([row.id for row in rows], seen, summary) == (["0", "1"], ["0", "1"], None)


def test_an_item_that_does_not_fit_is_named_before_anything_is_scored() -> None:
    engine = ScriptedEngine(train_context_tokens=8)
    with pytest.raises(ContextOverflow, match="item long needs 9 tokens"):
        run_loglik(engine, [choices("c", " a"), choices("1234567", " a", id_="long")], task="t")
    assert engine.decoded == []


class WithBos(ScriptedEngine):
    """A model that wants its beginning-of-text token (id 257) in front."""

    @property
    def info(self) -> ModelInfo:
        return replace(super().info, bos_text="<|im_start|>", add_bos=True)


def test_the_token_that_begins_a_text_is_added_only_where_the_model_wants_it() -> None:
    logits = np.zeros((258, 258), np.float32)
    logits[257] = np.log(0.5 / 257)
    logits[257, ord("x")] = np.log(0.5)
    (row,), _ = run_loglik(engine := WithBos(bigram=logits), [choices("", "x")], task="t")
    assert (row.logprobs[0], engine.decoded) == (pytest.approx(np.log(0.5), abs=1e-6), [1, 1])
    with pytest.raises(ConfigError, match="empty context"):
        run_loglik(ScriptedEngine(), [choices("", "x")], task="t")


# ── a real model ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.model
def test_a_real_models_choices_are_the_sums_of_one_token_at_a_time(engine: LlamaEngine) -> None:
    context = "Question: What is the capital of France?\nAnswer:"
    texts = (" Paris", " a large and very old stone", " Berlin")
    rows, summary = run_loglik(engine, [choices(context, *texts)], task="t")
    expected = []
    with engine.reserve(cells=128, sequences=2):
        for text in texts:
            engine.encode(sequence := engine.new_sequence(), engine.tokenize(context))
            total = 0.0
            for token in engine.tokenize(text):
                logits = engine.logits(sequence).astype(np.float64)
                total += logits[token] - np.logaddexp.reduce(logits)
                engine.encode(sequence, [token])
            engine.release(sequence)
            expected.append(total)
    assert rows[0].logprobs == pytest.approx(expected, abs=1e-3)
    assert (rows[0].pred, summary is not None and summary.acc) == (0, 1.0)


@pytest.mark.model
def test_a_real_models_cyclic_scores_are_those_of_its_prompts_one_by_one(engine: LlamaEngine) -> None:
    question = LetteredQuestion(
        id="q",
        subject=None,
        heading="",
        question="What is the capital of France?",
        options=("Rome", "Berlin", "Paris", "London"),
        gold=2,
    )
    rows, _ = run_loglik(engine, [question.item("cyclic")], task="t")
    normalised = []
    with engine.reserve(cells=128, sequences=1):
        for prompt in question.item("cyclic").prompts:
            engine.encode(sequence := engine.new_sequence(), engine.tokenize(prompt[0].context))
            logits = engine.logits(sequence).astype(np.float64)
            engine.release(sequence)
            letters = np.array([logits[engine.tokenize(option.text)[0]] for option in prompt])
            normalised.append(letters - np.logaddexp.reduce(letters))
    # Prompts that share their beginning are encoded in other batches, which round otherwise.
    assert rows[0].logprobs == pytest.approx(np.mean(normalised, axis=0), abs=0.02)
