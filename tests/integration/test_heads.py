"""Heads on a real model: a bundle's own are used or refused, and what training saw is what runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgereason
from edgereason.core.bundle import Bundle, Part, file_sha256
from edgereason.core.chat import CLOSING, VERIFICATION, ChatTemplate
from edgereason.core.types import Message, Vote
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import BundleError
from edgereason.heads import features
from edgereason.heads.file import Heads, Storage, read_heads, write_heads
from edgereason.heads.switcher import MlpSwitcher
from edgereason.heads.verifier import LinearVerifier, TraceFeatures
from edgereason.reasoning.model import Model, describe_base
from edgereason.reasoning.runs import last_response
from edgereason.records.context import RunContext
from edgereason.train.data.decontaminate import Evaluations
from edgereason.train.data.generate import sample_seed
from edgereason.train.data.questions import read_questions
from edgereason.train.heads.mlp import MlpConfig
from edgereason.train.heads.prompt_states import read_prompts
from edgereason.train.heads.record import StateJournal
from edgereason.train.heads.switcher import SwitcherConfig, train_switcher
from edgereason.train.heads.trace_states import TraceConfig, TraceStateRow, collect, verification_ids
from edgereason.train.heads.verifier import VerifierConfig, train_verifier

pytestmark = pytest.mark.model
QUESTION = "Tom has 3 apples and buys 5 more. How many apples does Tom have?"


def constant_switcher(logit: float) -> MlpSwitcher:
    """Says the same of every prompt."""
    return MlpSwitcher(
        mean=np.zeros(576, np.float32),
        std=np.ones(576, np.float32),
        hidden_weight=np.zeros((8, 576), np.float32),
        hidden_bias=np.zeros(8, np.float32),
        output_weight=np.zeros((1, 8), np.float32),
        output_bias=np.array([logit], np.float32),
    )


def some_verifier(prompt_ids: tuple[int, ...]) -> LinearVerifier:
    rng = np.random.default_rng(0)
    return LinearVerifier(
        mean=np.zeros(576, np.float32),
        std=np.ones(576, np.float32),
        weight=rng.normal(0, 0.02, (1, 576)).astype(np.float32),
        bias=np.zeros(1, np.float32),
        features=TraceFeatures(behind_prompt=True),
        prompt=VERIFICATION,
        prompt_ids=prompt_ids,
    )


def bundle_of(folder: Path, model: Model, smollm2: Path, heads: Heads) -> Bundle:
    path = folder / "heads.safetensors"
    write_heads(path, heads)
    bundle = Bundle(
        folder=folder,
        base=describe_base(model.engine, smollm2),
        opening_ids=tuple(model.engine.tokenize("<think>\n")),
        closing=CLOSING,
        heads=Part(file=path.name, sha256=file_sha256(path)),
    )
    bundle.write()
    return bundle


def test_a_bundles_heads_decide_and_score_unless_they_are_left_out(
    tmp_path: Path, model: Model, smollm2: Path
) -> None:
    heads = Heads(
        base_sha256=file_sha256(smollm2),
        switcher=constant_switcher(2.0),
        verifier=some_verifier(verification_ids(model.engine)),
        storage=Storage.INT8,
    )
    bundle = bundle_of(tmp_path, model, smollm2, heads)
    with edgereason.load(bundle.folder) as loaded:
        response = loaded.ask(QUESTION, budget=60, streams=2)
        assert response.route == "think"
        assert response.p_think == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)
        scores = [c.score for c in response.candidates]
        assert all(score is not None and 0 < score < 1 for score in scores)
        assert len(set(scores)) == 2
        assert response.notices == ()
    with edgereason.load(bundle.folder, use_heads=False) as loaded:
        assert loaded.ask(QUESTION, budget=60, vote=Vote.WEIGHTED, streams=2).candidates[0].score is None
    calm = bundle_of(tmp_path, model, smollm2, replace(heads, switcher=constant_switcher(-2.0)))
    with edgereason.load(calm.folder) as loaded:
        assert loaded.ask(QUESTION, budget=40, max_tokens=40).route == "chat"


def test_heads_for_another_base_or_adapter_or_broken_ones_are_refused(
    tmp_path: Path, model: Model, smollm2: Path
) -> None:
    verifier = some_verifier((1, 2))
    fitting = Heads(base_sha256=file_sha256(smollm2), verifier=verifier)
    for heads, says in (
        (replace(fitting, base_sha256="0" * 64), "heads are for another base"),
        (
            replace(fitting, adapter_sha256="0" * 64),
            "for another adapter: it expects SHA-256 000.*no adapter",
        ),
        (replace(fitting, buckets=(128,)), r"for other hints: it expects the buckets \[128\], got \[\]"),
    ):
        bundle = bundle_of(tmp_path, model, smollm2, heads)
        with pytest.raises(BundleError, match=says):
            edgereason.load(bundle.folder)
    bundle = bundle_of(tmp_path, model, smollm2, fitting)
    path = tmp_path / "heads.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(BundleError, match="the bundle expects"):
        edgereason.load(bundle.folder)
    replace(bundle, heads=Part(file=path.name, sha256=file_sha256(path))).write()
    with pytest.raises(BundleError, match="can't be read as heads"):
        edgereason.load(bundle.folder)


def test_the_verification_prompt_has_the_ids_of_a_whole_conversation(engine: LlamaEngine) -> None:
    info = engine.info
    template = ChatTemplate(info.chat_template, info.bos_text, info.eos_text, add_bos=info.add_bos)
    said = [Message("user", QUESTION), Message("assistant", "8."), Message("user", VERIFICATION)]
    rest = verification_ids(engine)
    assert template.encode(said, engine.tokenize)[-len(rest) :] == rest
    assert engine.is_end(rest[0])
    assert VERIFICATION in b"".join(map(engine.piece, rest)).decode()


@pytest.mark.slow
def test_a_switcher_learns_from_real_states_and_says_the_same_at_run_time(
    tmp_path: Path, model: Model
) -> None:
    rows = [{"prompt": f"Say hello to {name}.", "label": 0} for name in ("Ann", "Bob", "Cid", "Dan", "Eve")]
    rows += [{"prompt": f"What colour is a {thing}?", "label": 0} for thing in _THINGS]
    rows += [{"prompt": f"Prove that {n} times any even number is even.", "label": 1} for n in range(20)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # The sources of both labels are one file: folds are parts of the prompts.
    config = SwitcherConfig(mlp=MlpConfig(restarts=2, max_epochs=30), held_out_share=0.2)
    record = train_switcher(tmp_path / "run", config, [read_prompts(path)], model=model)
    assert record is not None
    assert record["reliability"]["held_out"]["auroc"] > 0.9
    switcher = read_heads(tmp_path / "run" / "heads.safetensors").switcher
    assert switcher is not None
    layers = sorted({one["layer"] for one in record["yardstick"]["candidates"]})
    assert len(layers) == 4
    states = np.fromfile(tmp_path / "run" / "states.f32", "<f4").reshape(
        -1, len(layers), len(features.FeaturePart), 576
    )
    parts = [
        states[:, layers.index(switcher.layer), list(features.FeaturePart).index(p)]
        for p in switcher.features.parts
    ]
    trained = switcher.p_think(np.concatenate(parts, axis=1))
    for n in (0, len(rows) - 1):
        response = model.with_heads(switcher=switcher).ask(rows[n]["prompt"], budget=40, max_tokens=32)
        assert response.p_think == pytest.approx(float(trained[n]), abs=0.01)


_THINGS = [
    "rose",
    "sky",
    "lemon",
    "raven",
    "swan",
    "frog",
    "brick",
    "coal",
    "cloud",
    "plum",
    "leaf",
    "pig",
    "sea",
    "sun",
    "moon",
]


def record_layers(record: dict) -> tuple[int, ...]:
    """Layers whose means were candidates, in the order in which they were kept."""
    return tuple(layer for one in record["candidates"] for layer in one["features"]["mean_of_layers"])


@pytest.mark.slow
def test_a_verifier_learns_from_real_traces_and_scores_the_same_at_run_time(
    tmp_path: Path, model: Model
) -> None:
    rows = [{"id": f"q{n}", "question": f"What is {n} + 7?", "answer": str(n + 7)} for n in range(20)]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    traces = TraceConfig(samples=4, budget=48, parallel=8)
    config = VerifierConfig(traces=traces, held_out_share=0.2, l2=(1.0, 0.1), folds=3)
    questions = read_questions(str(path))
    trained = {}
    for reads_prompt in (False, True):  # the second learns from the traces of the first
        chosen = replace(config, reads_prompt=reads_prompt)
        record = train_verifier(tmp_path / "run", chosen, [questions], Evaluations.read([]), model=model)
        trained[reads_prompt] = read_heads(tmp_path / "run" / "heads.safetensors").verifier
    assert record is not None
    counts = record["splits"]["train"]
    assert 0 < counts["right"] < counts["samples"] == 64
    # What runs beside a trace changes its rounding, so both are asked alone.
    question = questions.questions[3]
    (tmp_path / "one").mkdir()
    layers = record_layers(record)
    with StateJournal(tmp_path / "one", TraceStateRow, 576 * (len(layers) + 1)) as journal:
        assert collect(journal, config.traces, [question], model, layers, RunContext())
        states = journal.states().reshape(len(journal.rows), -1, 576)
        seeds = [row.seed for row in journal.rows]
    asked = config.traces.request(question.text, sample_seed(0, question.id, 0), 4)
    for reads_prompt, verifier in trained.items():
        assert verifier is not None
        read = verifier.features
        assert (read.behind_prompt, len(read.layers)) == (reads_prompt, not reads_prompt)
        places = [*map(layers.index, read.layers), *[len(layers)] * read.behind_prompt]
        scores = verifier.score(states[:, places].reshape(len(states), -1))
        expected = dict(zip(seeds, scores, strict=True))
        response = last_response(model.with_heads(verifier=verifier).run(asked))
        assert {c.trace.seed: c.score for c in response.candidates} == pytest.approx(expected, abs=1e-4)
