"""A new threshold in a bundle: the share that was asked for thinks, weights stay, both files go together."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from tiny_bundle import write_evaluation, write_questions, write_tiny_adapter, write_tiny_heads

from edgereason.bundles.build import Parts, build
from edgereason.bundles.calibrate import ByAccuracy, ByCost, ByShare, Found, require_switcher, set_threshold
from edgereason.bundles.threshold import ThresholdPoint, threshold_for_cost
from edgereason.core.bundle import Bundle, file_sha256
from edgereason.core.types import Effort, Mode, Vote
from edgereason.errors import BundleError, ConfigError
from edgereason.heads.file import Storage, read_heads, write_with_threshold
from edgereason.reasoning.model import load


@pytest.fixture
def bundle(tiny, tmp_path):
    return build(tmp_path / "b", Parts(base=tiny.base, adapter=tiny.adapter, heads=tiny.heads))


def found(threshold):
    point = ThresholdPoint(threshold=threshold, share_think=0.3, num_prompts=10, held_out_ci95=(0.1, 0.2))
    return Found(point=point, method={"target_think_rate": 0.3, "prompts": {"name": "p.jsonl"}})


def never():
    return False


def silent(done, total):
    pass


def tensors(path):
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("storage", list(Storage))
def test_another_threshold_leaves_every_weight_as_it_is(tiny, tmp_path, storage):
    source = write_tiny_heads(tmp_path / "a", tiny.base, tiny.adapter, storage=storage)
    write_with_threshold(source, tmp_path / "b", 0.125)
    before, after = tensors(source), tensors(tmp_path / "b")
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    heads = read_heads(tmp_path / "b")
    assert (heads.switcher.threshold, heads.storage) == (0.125, storage)
    assert heads.verifier.prompt_ids == (257, 10)
    write_with_threshold(tmp_path / "b", tmp_path / "c", 0.5)
    assert (tmp_path / "c").read_bytes() == source.read_bytes()


def test_the_share_wanted_thinks_when_it_is_asked(bundle, tiny):
    way = ByShare.read(0.5, tiny.data)
    with load(bundle.folder, base=tiny.base) as model:
        calibrated = set_threshold(bundle, way.find(model, silent, never))
    assert Bundle.read(bundle.folder) == calibrated
    questions = [json.loads(line)["question"] for line in tiny.data.read_text().splitlines()]
    with load(bundle.folder, base=tiny.base) as model:
        routes = [model.ask(text, mode="auto", budget=48, max_tokens=48).route for text in questions]
    assert routes.count("think") == 4  # of 8
    calibration = calibrated.calibration
    assert (calibration["target_think_rate"], calibration["share_think"]) == (0.5, 0.5)
    assert calibration["prompts"]["sha256"] == file_sha256(tiny.data)
    assert read_heads(bundle.folder / calibrated.heads.file).switcher.threshold == calibration["threshold"]
    assert f"begins to think at {calibration['threshold']:.3g}" in (bundle.folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("p_think", "labels", "needless_cost", "threshold", "chat_right", "think_right"),
    [
        ([0.9, 0.6, 0.4, 0.1], [1, 1, 0, 0], 1, 0.5, 1, 1),
        # 0.8 chats without need of it, or 0.3 thinks: one of 2 on either side, so the dearer one decides.
        ([0.9, 0.8, 0.3, 0.1], [1, 0, 1, 0], 2, 0.85, 1, 0.5),
        ([0.9, 0.8, 0.3, 0.1], [1, 0, 1, 0], 0.5, 0.2, 0.5, 1),
        # The same cost on both sides of 0.6, and the gap below it is wider.
        ([0.9, 0.7, 0.6, 0.2], [1, 0, 1, 0], 1, 0.4, 0.5, 1),
        # Shares of each label: one of 1 that should think weighs as much as all 3 that should chat.
        ([0.9, 0.8, 0.7, 0.6, 0.1], [0, 0, 1, 0, 0], 1, 0.65, 0.5, 1),
    ],
)
def test_the_threshold_of_least_cost_by_hand(
    p_think, labels, needless_cost, threshold, chat_right, think_right
):
    said = [(p, bool(label)) for p, label in zip(p_think, labels, strict=True)]
    point = threshold_for_cost(said, needless_cost)
    assert point.threshold == pytest.approx(threshold)
    assert (point.chat_right, point.think_right) == (chat_right, think_right)
    assert point.share_think == sum(p >= point.threshold for p in p_think) / len(p_think)


def test_costs_need_both_labels_and_probabilities_that_differ():
    with pytest.raises(ConfigError, match="0 of the 2 prompts that fit in the context are labelled think"):
        threshold_for_cost([(0.1, False), (0.2, False)], 1)
    with pytest.raises(ConfigError, match="the switcher says the same of all 2 prompts"):
        threshold_for_cost([(0.5, False), (0.5, True)], 1)


def test_by_cost_labelled_prompts_go_where_it_costs_the_least(bundle, tiny, tmp_path):
    texts = [json.loads(line)["question"] for line in tiny.data.read_text().splitlines()]
    with load(bundle.folder, base=tiny.base) as model:
        said = {text: model.ask(text, mode="auto", budget=48, max_tokens=48).p_think for text in texts}
    ranked = sorted(texts, key=said.__getitem__)
    thinking = ranked[-3:]  # of 8: the very ones that the switcher puts on top, so that a cut is perfect
    labelled = tmp_path / "labelled.jsonl"
    rows = [{"prompt": text, "label": int(text in thinking)} for text in texts]
    labelled.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with load(bundle.folder, base=tiny.base) as model:
        calibrated = set_threshold(bundle, ByCost.read(1, labelled).find(model, silent, never))
    with load(bundle.folder, base=tiny.base) as model:
        routes = {text: model.ask(text, mode="auto", budget=48, max_tokens=48).route for text in texts}
    assert [text for text in texts if routes[text] == "think"] == [text for text in texts if text in thinking]
    calibration = calibrated.calibration
    assert (calibration["needless_cost"], calibration["chat_right"], calibration["think_right"]) == (1, 1, 1)
    assert calibration["prompts"]["sha256"] == file_sha256(labelled)
    card = (bundle.folder / "README.md").read_text()
    assert "a needless thought counts 1, a missing one 1; 100.0 % of the prompts labelled chat" in card


@pytest.mark.parametrize(
    ("cost", "rows", "said"),
    [
        (0, [{"prompt": "a", "label": 0}, {"prompt": "b", "label": 1}], "must be above 0"),
        (1, [{"prompt": "a", "label": 0}], "has prompts of one label only"),
        (1, [{"prompt": "a"}], "line 1: label is missing"),
        (1, [{"prompt": "a", "label": 2}], "label is 2; expected 0 .easy. or 1"),
    ],
)
def test_prompts_that_costs_can_not_be_told_of_are_refused(tmp_path, cost, rows, said):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match=said):
        ByCost.read(cost, tmp_path / "p.jsonl")


def test_a_bundle_has_one_file_of_heads_and_remembers_its_earlier_ones(bundle):
    first = set_threshold(bundle, found(0.2))
    second = set_threshold(first, found(0.3))
    assert second.earlier_heads == (bundle.heads.sha256, first.heads.sha256)
    names = sorted(path.name for path in bundle.folder.iterdir())
    assert names == ["README.md", "bundle.json", second.heads.file, "reasoning.gguf"]
    assert second.heads.file == f"heads-{second.heads.sha256[:8]}.safetensors"
    third = set_threshold(second, found(0.2))  # back again: its own hash is no earlier one
    assert third.heads == first.heads
    assert third.earlier_heads == (bundle.heads.sha256, second.heads.sha256)
    assert set_threshold(third, found(0.2)).heads == third.heads
    assert third.verified_file(third.heads).is_file()


def test_whoever_reads_while_it_is_written_finds_heads_that_fit_the_manifest(bundle, monkeypatch):
    seen = []

    def write(self):
        # The moment before the new manifest counts: the old one must still name a whole file.
        before = Bundle.read(bundle.folder)
        seen.append(before.verified_file(before.heads).name)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Bundle, "write", write)
    with pytest.raises(BundleError, match="No space left on device"):
        set_threshold(bundle, found(0.2))
    assert seen == ["heads.safetensors"]
    assert sorted(path.name for path in bundle.folder.iterdir() if path.name.startswith("heads")) == seen
    assert Bundle.read(bundle.folder) == bundle


def test_a_card_that_can_not_be_written_leaves_the_bundle_as_it_was(bundle):
    broken = replace(bundle, provenance={"adapter": 3})
    broken.write()
    with pytest.raises(BundleError, match="is not of this version"):
        set_threshold(broken, found(0.2))
    assert Bundle.read(bundle.folder) == broken
    assert [path.name for path in bundle.folder.glob("heads*")] == ["heads.safetensors"]


def test_results_stand_with_a_note_after_another_threshold(tiny, tmp_path):
    auto = write_evaluation(
        tmp_path / "auto", Mode.AUTO, [1, 0], base=tiny.base, data=tiny.data, parts=(tiny.adapter, tiny.heads)
    )
    parts = Parts(base=tiny.base, adapter=tiny.adapter, heads=tiny.heads, records=(auto,))
    calibrated = set_threshold(build(tmp_path / "b", parts), found(0.2))
    card = (calibrated.folder / "README.md").read_text()
    assert "base + adapter + switcher at another threshold + verifier" in card
    again = build(tmp_path / "c", Parts(base=tiny.base, start=calibrated))
    assert (again.calibration, again.earlier_heads) == (calibrated.calibration, calibrated.earlier_heads)
    assert again.results == calibrated.results
    # A record made before the calibration is of this bundle, too.
    build(tmp_path / "d", Parts(base=tiny.base, start=calibrated, records=(auto,)))


def test_a_bundle_without_a_switcher_has_no_threshold(tiny, bundle, tmp_path):
    verifier = write_tiny_heads(tmp_path / "v", tiny.base, tiny.adapter, kinds=("verifier",))
    for given in ({"heads": verifier}, {}):
        name = f"without-{len(given)}"
        other = build(tmp_path / name, Parts(base=tiny.base, adapter=tiny.adapter, **given))
        with pytest.raises(BundleError, match=f"{name} has no switcher, and so no threshold"):
            require_switcher(other)
    with pytest.raises(BundleError, match="v has no switcher"):
        write_with_threshold(verifier, tmp_path / "w", 0.5)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x"}, "question is missing"),
        ({"prompt": ""}, "prompt is empty"),
        ({"question": "Which?", "choices": ["a", "b"]}, "choices are not in the question"),
        ({"messages": "x"}, "messages is not a conversation"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages end with another's turn"),
    ],
)
def test_a_row_without_a_prompt_is_named(tmp_path, row, said):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "fine"}\n' + json.dumps(row))
    with pytest.raises(ConfigError, match=f"p.jsonl, line 2: {said}"):
        ByShare.read(0.3, path)


def test_prompts_are_taken_from_whatever_rows_have_them(tmp_path):
    path = tmp_path / "p.jsonl"
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    rows = [{"prompt": " P\n"}, {"question": "Q"}, {"problem": "R"}, {"messages": turns}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [
        [(one.role, one.content) for one in request.messages] for request in ByShare.read(0.3, path).requests
    ]
    assert asked == [[("user", "P")], [("user", "Q")], [("user", "R")], [("system", "S"), ("user", "U")]]


# ── by accuracy ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def runs(tiny, tmp_path):
    """Makes folders of a chat and a think run over the eight questions."""

    def make(name="runs", chat=(1, 1, 0, 0, 0, 0, 0, 0), think=(1, 1, 1, 1, 1, 1, 0, 0), **other):
        settings = {"base": tiny.base, "data": tiny.data} | other
        parts = settings.pop("parts", (tiny.adapter,))
        of_chat = settings | settings.pop("of_chat", {})
        of_chat.pop("of_chat", None)
        return (
            write_evaluation(tmp_path / name / "chat", Mode.CHAT, list(chat), **of_chat),
            write_evaluation(
                tmp_path / name / "think", Mode.THINK, list(think), parts=parts, tokens=100, **settings
            ),
        )

    return make


def test_the_accuracy_wanted_is_kept_with_as_little_thinking_as_the_switcher_allows(bundle, tiny, runs):
    chat, think = runs()
    way = ByAccuracy.read(0.6, bundle, chat, think, tiny.data)
    with load(bundle.folder, base=tiny.base) as model:
        result = way.find(model, silent, never)
        questions = {item.id: item.question for item in way.task.items}
        p = {id_: model.ask(q, mode="auto", budget=48, max_tokens=48).p_think for id_, q in questions.items()}
    scores = {"chat": [1, 1, 0, 0, 0, 0, 0, 0], "think": [1, 1, 1, 1, 1, 1, 0, 0]}

    def at(threshold):
        thinks = [p[f"q{n}"] >= threshold for n in range(8)]
        right = sum(scores["think" if thinks[n] else "chat"][n] for n in range(8)) / 8
        return right, sum(thinks) / 8

    assert at(result.point.threshold) == (result.point.accuracy, result.point.share_think)
    enough = [at(cut)[1] for cut in [*p.values(), 2.0] if at(cut)[0] >= 0.6]
    assert result.point.share_think == min(enough)
    assert result.method["record_sha256"] == {
        "chat": file_sha256(chat / "summary.json"),
        "think": file_sha256(think / "summary.json"),
    }
    calibrated = set_threshold(bundle, result)
    card = (calibrated.folder / "README.md").read_text()
    assert "to think as little as an accuracy of 60.0 % allows" in card
    assert f"{result.point.accuracy:.1%}".replace("%", " %") + " right on the questions that it was" in card
    assert f"{result.point.held_out_accuracy:.1%}".replace("%", " %") + " (" in card


def test_evaluations_that_do_not_go_together_are_refused(bundle, tiny, runs, tmp_path):
    chat, think = runs()

    def refused(error, said, *folders, data=tiny.data):
        with pytest.raises(error, match=said):
            ByAccuracy.read(0.6, bundle, *folders, data)

    refused(ConfigError, "was evaluated in think mode, expected --mode chat", think, chat)
    system_chat, _ = runs("system", of_chat={"system": "Be brief."})
    refused(ConfigError, "differ in system: 'Be brief.' in chat, None in think", system_chat, think)
    for name, (of_chat, of_think), said in (
        ("temperature", (0.0, 0.7), "differ in temperature: 0.0 in chat, 0.7 in think"),
        ("top_p", (1.0, 0.95), "differ in top_p"),
        ("top_k", (0, 40), "differ in top_k"),
        ("kv", ("q8_0", "f16"), "differ in kv: 'q8_0' in chat, 'f16' in think"),
        ("budget", (None, 256), "differ in budget: None in chat, 256 in think"),
        ("max_tokens", (64, None), "differ in max_tokens: 64 in chat, 1024 in think"),
        ("streams", (4, 8), "took 4 streams, and auto chats with one"),
    ):
        folders = runs(f"other-{name}", of_chat={name: of_chat}, **{name: of_think})
        refused(ConfigError, said, *folders)
    other = write_questions(tmp_path / "other.jsonl", 9)
    refused(ConfigError, "other.jsonl is not that: give the same file", chat, think, data=other)
    _, bare = runs("bare", parts=())
    refused(BundleError, "was evaluated without the bundle's adapter", chat, bare)
    adapter = write_tiny_adapter(tmp_path / "adapter.gguf", tiny.base, seed=4)
    _, foreign = runs("foreign", parts=(adapter,))
    refused(BundleError, "of another bundle", chat, foreign)
    (tmp_path / "w").mkdir()
    refused(BundleError, r"holds neither summary.json", tmp_path / "w", think)
    (tmp_path / "w" / "summary.json").write_text('{"format": "edgereason-ppl"}')
    refused(ConfigError, "is not an evaluation of answers", tmp_path / "w", think)
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        ByAccuracy.read(60, bundle, chat, think, tiny.data)


def test_what_one_request_does_on_either_route_goes_together(bundle, tiny, runs):
    chat, think = runs(
        of_chat={"streams": 1, "max_tokens": 1024, "effort": Effort.MEDIUM},
        streams=8,
        vote=Vote.MAJORITY,
        stop_early=False,
        effort=Effort.HIGH,
        temperature=0.7,
    )
    assert ByAccuracy.read(0.6, bundle, chat, think, tiny.data).config.max_tokens == 1024


def test_a_base_that_is_not_the_bundles_is_refused(bundle, tiny, runs):
    chat, think = runs()
    other = replace(bundle, base=replace(bundle.base, sha256="00" * 32))
    with pytest.raises(BundleError, match="of another base"):
        ByAccuracy.read(0.6, other, chat, think, tiny.data)
