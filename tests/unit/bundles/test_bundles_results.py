"""Figures and commands out of records, format by format, and as a card has them."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest
import typer
from tiny_bundle import write_evaluation, write_tiny_heads

from edgereason.bundles.card import figures_text, head_kinds, measured_with, render_card
from edgereason.bundles.results import read_record, results_of
from edgereason.cli.main import app
from edgereason.core.bundle import Base, Bundle, Part, Result, file_sha256
from edgereason.core.types import Mode, Vote
from edgereason.errors import BundleError

SHA, OTHER = "ab" * 32, "cd" * 32
ADAPTER, HEADS, EARLIER = "aa" * 32, "bb" * 32, "ee" * 32
BASE = Base(name="tiny.gguf", sha256=SHA, arch="qwen2", hidden_size=8, num_layers=2, vocab_sha256="12" * 32)
MODEL = {"name": "tiny.gguf", "sha256": SHA}
MACHINE = {"cpu": "EPYC", "threads": 2}


@pytest.fixture
def results(tmp_path):
    """What a record of these values comes to, in a bundle of one adapter."""

    def read(values):
        path = tmp_path / "record.json"
        path.write_text(json.dumps(values))
        return results_of(read_record(path), BASE, (ADAPTER,))

    return read


def runs_as_typed(command: str) -> bool:
    """Whether the command line has this command, and every one of its options."""
    _, *words = shlex.split(command)
    group = typer.main.get_command(app)
    while hasattr(group, "commands"):
        name = words.pop(0)
        group = group.commands.get(name) or group.commands["task"]  # `eval TASK` is `eval task TASK`
    known = {option for one in group.params for option in (*one.opts, *one.secondary_opts)}
    return {word for word in words if word.startswith("-")} <= known


def test_an_evaluation_gives_accuracy_with_its_interval_and_the_command_that_asked(tiny, tmp_path):
    folder = write_evaluation(
        tmp_path / "run",
        Mode.AUTO,
        [1, 1, 1, 0],
        base=tiny.base,
        data=tiny.data,
        parts=(tiny.adapter,),
        budget=256,
        streams=4,
        vote=Vote.WEIGHTED,
        stage=(3,),
        stop_early=False,
        temperature=0.5,
        system="Think in steps; it's worth it.",
    )
    base = replace(BASE, sha256=file_sha256(tiny.base))
    (result,) = results_of(read_record(folder), base, (file_sha256(tiny.adapter),))
    assert result.what == "gsm8k, auto, 256 tokens, 4 streams, weighted"
    assert result.figures == {
        "accuracy": 0.75,
        "num_questions": 4,
        "mean_tokens": 10,
        "share_think": 1.0,
        "share_cut": 0.0,
        "latency_s": 2.0,
    }
    assert list(result.intervals) == ["accuracy"]
    assert result.machine is not None
    assert result.machine.endswith("threads")
    assert result.command == (
        "edgereason eval gsm8k --bundle BUNDLE --data questions.jsonl --budget 256 --streams 4 "
        """--vote weighted --stage 3 --no-stop-early --system 'Think in steps; it'"'"'s worth it.' """
        "--temperature 0.5"
    )
    assert runs_as_typed(result.command)


def test_a_hub_data_set_needs_no_file_and_likelihoods_no_mode(results):
    record = {
        "format": "edgereason-eval",
        "task": "arc-challenge",
        "acc": 0.3,
        "config": {"model": "m", "limit": 9},
        "data": {"name": "a/b", "revision": "c0ffee"},
        "model": MODEL,
    }
    (result,) = results(record)
    assert result.command == "edgereason eval arc-challenge --score loglik --model tiny.gguf --limit 9"
    assert runs_as_typed(result.command)


def test_likelihoods_of_letters_and_caches_say_how_they_were_measured(results):
    record = {
        "format": "edgereason-eval", "task": "mmlu", "acc": 0.3, "acc_ci95": [0.2, 0.4], "n": 9,
        "model": MODEL, "data": {"name": "mmlu.jsonl", "sha256": "ff"}, "config": {"task": "mmlu"},
    }  # fmt: skip
    (old,) = results(record)
    command = "edgereason eval mmlu --score loglik --model tiny.gguf --data mmlu.jsonl"
    # Older versions asked in the given order, which is not what their command does now.
    assert (old.what, old.command) == ("mmlu by likelihood", f"{command} --orders given")
    (new,) = results(record | {"config": {"orders": "cyclic", "shots": 0, "kv": "f16"}})
    assert (new.what, new.command) == ("mmlu by likelihood, cyclic orders", command)
    (five,) = results(record | {"config": {"orders": "cyclic", "shots": 5, "kv": "q8_0"}})
    assert five.what == "mmlu by likelihood, cyclic orders, 5 examples, q8_0 KV"
    assert five.command == f"{command} --shots 5 --kv q8_0"
    ppl = {"format": "edgereason-ppl", "ppl": 31.6, "num_tokens": 9, "kv": "q8_0", "model": MODEL}
    (text,) = results(ppl | {"data": {"name": "wiki.raw", "sha256": "ff"}})
    assert text.what == "perplexity of wiki.raw, q8_0 KV"
    assert text.command == "edgereason eval ppl wiki.raw --model tiny.gguf --kv q8_0"
    assert all(runs_as_typed(one.command) for one in (old, new, five, text))


def test_likelihoods_and_perplexities(results):
    weighed = {"format": "edgereason-eval", "task": "arc", "model": MODEL, "config": {"model": "tiny"}}
    (result,) = results(
        weighed
        | {"acc": 0.25, "acc_ci95": [0.2, 0.3], "acc_norm": 0.5, "acc_norm_ci95": None, "ppl": None, "n": 80}
    )
    assert (result.what, result.figures) == ("arc by likelihood", {"acc": 0.25, "acc_norm": 0.5, "n": 80})
    assert (result.intervals, result.machine) == ({"acc": (0.2, 0.3)}, None)
    assert figures_text(result) == "likeliest 25.0 % (20.0–30.0); likeliest by length 50.0 %; n 80"
    (result,) = results(
        {
            "format": "edgereason-ppl",
            "ppl": 31.6168,
            "ppl_ci95": [25.01, 39.97],
            "num_tokens": 24564,
            "window_tokens": 2048,
            "stride_tokens": 512,
            "limit_tokens": None,
            "data": {"name": "wiki.raw", "sha256": "ff"},
            "model": MODEL,
            "versions": {"commit": "c0" * 20},
        }
    )
    assert figures_text(result) == "perplexity 31.6 (25.0–40.0); num tokens 24,564"
    assert result.command == "edgereason eval ppl wiki.raw --model tiny.gguf --window 2048 --stride 512"
    assert result.commit == "c0" * 20
    assert runs_as_typed(result.command)


def test_votes_are_a_figure_for_every_vote_and_number_of_streams(results):
    more = {"difference": 0.05, "difference_ci95": [-0.01, 0.11]}
    most = {"difference": 0.1, "difference_ci95": [0.02, 0.18]}
    votes = {"majority": {"accuracy": 0.25, **more}, "weighted": {"accuracy": 0.3, **most}}
    points = [
        {"n": 1, "votes": {"majority": {"accuracy": 0.2, "std": 0.1}}, "mean_all_streams_tokens": 100},
        {"n": 2, "votes": votes, "mean_all_streams_tokens": 200},
    ]
    sweep = {
        "format": "edgereason-sweep",
        "votes": {"think-8": {"points": points}},
        "runs": {"think-8": {"model": MODEL, "bundle": {"sha256": [ADAPTER]}}},
    }
    (result,) = results(sweep)
    assert result.figures == {
        "majority N=1": 0.2, "tokens N=1": 100, "majority N=2": 0.25, "weighted N=2": 0.3, "tokens N=2": 200,
        "majority N=2 over one": 0.05, "weighted N=2 over one": 0.1,
    }  # fmt: skip
    assert result.intervals == {"majority N=2 over one": (-0.01, 0.11), "weighted N=2 over one": (0.02, 0.18)}
    assert result.parts == (ADAPTER,)
    assert figures_text(result) == (
        "majority N=1 20.0 %; tokens N=1 100; majority N=2 25.0 %; weighted N=2 30.0 %; tokens N=2 200; "
        "majority N=2 over one 5.0 % (-1.0–11.0); weighted N=2 over one 10.0 % (2.0–18.0)"
    )
    assert result.command == "edgereason eval sweep think-8"
    drawn = {"num_draws": 50, "points": points}
    (result,) = results(sweep | {"seed": 3, "votes": {"think-8": drawn}})
    assert result.command == "edgereason eval sweep think-8 --draws 50 --seed 3"
    assert runs_as_typed(result.command)
    sweep["runs"]["chat"] = {"model": MODEL | {"sha256": OTHER}}
    with pytest.raises(BundleError, match="of another base"):
        results(sweep)


def test_hard_budgets_are_accuracy_against_tokens(results):
    curve = {
        "budgets": [64, 256],
        "accuracy": [0.1, 0.3],
        "ci95": [[0.05, 0.2], None],
        "mean_tokens": [60.5, 190.0],
        "untruncated": {"accuracy": 0.4, "mean_tokens": 250.0},
    }
    sweep = {
        "format": "edgereason-sweep",
        "votes": {},
        "budgets": {"think": curve},
        "runs": {"think": {"model": MODEL, "data": {"name": "q.jsonl", "sha256": "ff"}}},
        "seed": 0,
    }
    (result,) = results(sweep)
    assert (result.what, result.parts) == ("hard budgets of think", ())
    assert result.intervals == {"within 64": (0.05, 0.2)}
    assert figures_text(result) == (
        "within 64 10.0 % (5.0–20.0); tokens within 64 60.5; within 256 30.0 %; tokens within 256 190; "
        "uncut 40.0 %; tokens uncut 250"
    )
    assert result.command == ("edgereason eval sweep think --budgets 64,256 --data q.jsonl --model tiny.gguf")
    assert runs_as_typed(result.command)
    sweep["runs"]["think"] |= {"bundle": {"sha256": [ADAPTER]}, "data": {"name": "a/b", "revision": "c0"}}
    (result,) = results(sweep | {"seed": 2})
    assert result.parts == (ADAPTER,)
    assert result.command == "edgereason eval sweep think --budgets 64,256 --model BUNDLE --seed 2"
    with pytest.raises(BundleError, match="not of this version"):
        results(sweep | {"budgets": {"think": curve | {"accuracy": [0.1]}}})


def test_a_record_that_holds_its_command_is_quoted_word_by_word(results):
    figures = {"auroc": 0.9, "ece": 0.1, "n": 40}
    record = {
        "format": "edgereason-head",
        "head": "verifier",
        "model": MODEL,
        "questions": [{"name": "reasoning-gym:basic_arithmetic:500"}],
        "reliability": {"train": figures, "held_out": figures},
    }
    words = [
        *("train", "heads", "verifier", "--questions", "reasoning-gym:basic_arithmetic:500"),
        *("--questions", "my questions.jsonl", "--against", "gsm8k.jsonl", "--limit", "9", "--samples", "4"),
        *("--temperature", "0.8", "--budget", "96", "--int8", "--seed", "3", "-o", "FOLDER"),
    ]
    for command in (words, ["edgereason", *words]):
        (result,) = results(record | {"command": command})
        assert shlex.split(result.command) == ["edgereason", *words]
        assert runs_as_typed(result.command)
    with pytest.raises(BundleError, match=r"record\.json: command must be a list, got 'edgereason train'"):
        results(record | {"command": "edgereason train"})
    with pytest.raises(BundleError, match="does not say which command made it"):
        results(record)


def bench(name, **values):
    """The record of a bench of the base, by its name."""
    source = {"name": "tiny.gguf", "sha256": SHA}
    common = {"source": source, "machine": MACHINE, "rounds": 7, "total_s": 9.0, "model_bytes": 100}
    return common | {"format": f"edgereason-bench-{name}"} | values


def test_a_bench_of_the_engine_gives_its_figures_and_says_on_what_file(results):
    (result,) = results(
        bench(
            "engine",
            lora_tax_n1=1.23456,
            decode_tokens_per_s_n1=55.5,
            model={"name": "x-q4_0.gguf", "sha256": OTHER, "quantization": "Q4_0"},
            config={"model": "tiny", "rounds": 7, "only": ["lora", "steps"], "seed": 0},
        )
    )
    assert result.what == "bench engine, a plain Q4_0 of the base"
    assert result.figures == {"lora_tax_n1": 1.23456, "decode_tokens_per_s_n1": 55.5}
    assert figures_text(result) == "lora tax n1 1.23; decode tokens per s n1 55.5"
    assert result.machine == "EPYC, 2 threads"
    command = "edgereason bench engine --model tiny.gguf --rounds 7 --only lora --only steps --json"
    assert result.command == command
    assert runs_as_typed(command)


def test_a_bench_of_the_switch_gives_its_figures_by_length(results):
    lengths = [{"prompt_tokens": 2000, "shared_over_chat": 0.03, "reencoded_over_shared": 40.0}]
    model = MODEL | {"quantization": "default file"}
    config = {"model": "tiny", "rounds": 7, "lengths": [2000], "as_is": True}
    (result,) = results(bench("switch", opening_tokens=11, model=model, lengths=lengths, config=config))
    assert result.what == "bench switch"
    assert result.figures == {
        "shared_over_chat at 2000 tokens": 0.03,
        "reencoded_over_shared at 2000 tokens": 40.0,
    }
    command = "edgereason bench switch --model tiny.gguf --rounds 7 --lengths 2000 --as-is --json"
    assert result.command == command
    assert runs_as_typed(command)


def test_a_bench_of_training_gives_its_speedup(results):
    lengths = {"prompt_tokens": 1000, "responses": 8, "response_tokens": 100}
    (result,) = results(bench("train", masked_speedup=4.98, config=lengths | {"rounds": 1, "model": "t"}))
    assert result.figures == {"masked_speedup": 4.98}
    assert runs_as_typed(result.command)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"format": "edgereason-ppl", "ppl": 3.0, "data": {"name": "a"}, "model": {"sha256": OTHER}}, OTHER),
        (
            {"format": "edgereason-ppl", "ppl": "low", "data": {"name": "a"}, "model": MODEL},
            "must be a number",
        ),
        ({"format": "edgereason-ppl", "data": {"name": "a"}, "model": MODEL}, "holds no figures"),
        (
            {
                "format": "edgereason-eval",
                "task": "t",
                "accuracy": 1,
                "model": MODEL,
                "bundle": {"sha256": [ADAPTER, OTHER]},
            },
            "of another bundle: it measured a part cdcd",
        ),
    ],
)
def test_figures_of_something_else_are_refused(results, values, said):
    with pytest.raises(BundleError, match=said):
        results(values)


# ── the card ─────────────────────────────────────────────────────────────────────────────────────


def result(what: str, *parts: str) -> Result:
    return Result(
        what=what,
        record="edgereason-eval",
        sha256="12" * 32,
        command="edgereason eval gsm8k | less",
        figures={"accuracy": 0.5},
        intervals={"accuracy": (0.4, 0.6)},
        parts=parts,
    )


@pytest.fixture
def bundle(tiny, tmp_path):
    (tmp_path / "reasoning.gguf").write_bytes(bytes(123_456))
    write_tiny_heads(tmp_path / "heads.safetensors", tiny.base, tiny.adapter)
    return Bundle(
        folder=tmp_path,
        base=BASE,
        opening_ids=(1,),
        closing="</think>\n\n",
        buckets=(64, 256),
        adapter=Part(file="reasoning.gguf", sha256=ADAPTER),
        heads=Part(file="heads.safetensors", sha256=HEADS),
        name="Tiny | thinker",
        earlier_heads=(EARLIER,),
        results=(
            result("a"),
            result("b", ADAPTER),
            result("c", ADAPTER, EARLIER),
            result("d", ADAPTER, HEADS),
        ),
    )


def test_what_took_part_is_said_of_every_figure(bundle, tiny):
    kinds = head_kinds(bundle)
    assert [measured_with(one, bundle, kinds) for one in bundle.results] == [
        "base alone",
        "base + adapter",
        "base + adapter + switcher at another threshold + verifier",
        "base + adapter + switcher + verifier",
    ]
    assert measured_with(bundle.results[3], bundle, ()) == "base + adapter + heads"  # their file is missing
    alone = [
        replace(result(f"{head} on held out", *parts), record="edgereason-head")
        for head, parts in (("switcher", (EARLIER,)), ("verifier", (ADAPTER, HEADS)))
    ]
    assert [measured_with(one, bundle, kinds) for one in alone] == [
        "base + switcher",  # its reliability knows no threshold
        "base + adapter + verifier",
    ]


@pytest.mark.parametrize("kinds", [("switcher",), ("verifier",), ("switcher", "verifier"), ()])
def test_the_card_names_the_heads_that_there_are(bundle, tiny, kinds):
    if kinds:
        write_tiny_heads(bundle.folder / "heads.safetensors", tiny.base, tiny.adapter, kinds=kinds)
    card = render_card(bundle if kinds else replace(bundle, heads=None))
    assert ("- a switcher, which" in card, "- a verifier, which" in card) == (
        "switcher" in kinds,
        "verifier" in kinds,
    )
    assert ("No switcher: `auto` always thinks." in card) == ("switcher" not in kinds)
    assert ("No verifier: votes count all answers alike." in card) == ("verifier" not in kinds)


def test_the_card_says_what_the_manifest_says(bundle):
    provenance = {
        "adapter": {"record_sha256": "34" * 32, "commit": "56" * 20 + "+", "steps": 40, "recipe": {"lr": 1}},
        "traces": [{"traces": {"name": "t.jsonl", "sha256": "78" * 32}}],
    }
    calibration = {"threshold": 0.25, "share_think": 0.3, "num_prompts": 200, "target_think_rate": 0.31}
    calibration["prompts"] = {"name": "p.jsonl", "sha256": "9a" * 32, "revision": None}
    card = render_card(replace(bundle, provenance=provenance, calibration=calibration))
    lines = card.splitlines()
    assert "# Tiny \\| thinker" in lines
    assert f"| `reasoning.gguf` | 0.1 MB | `{ADAPTER}` |" in lines
    assert f"| `heads.safetensors` | 3.3 kB | `{HEADS}` |" in lines
    assert "| adapter | record sha256 343434343434, commit 565656565656+, steps 40 |" in lines
    assert "| traces | traces name t.jsonl, sha256 787878787878 |" in lines
    assert "| b | base + adapter | accuracy 50.0 % (40.0–60.0) |  | `121212121212` |" in lines
    assert card.count("edgereason eval gsm8k | less") == 1  # once, for all four rows
    assert "begins to think at 0.25. Set by `edgereason bundle calibrate`, to think on 31.0 %: " in card
    assert "30.0 % of 200 prompts do (name p.jsonl, sha256 9a9a9a9a9a9a)." in card
    assert "Hints announce these budgets, in tokens: 64, 256." in card
    assert "--base BASE.gguf" in card  # nobody could pull this base
    assert "license" not in card


def test_a_base_of_the_catalogue_has_a_licence_and_needs_no_file(bundle):
    qwen = replace(BASE, sha256="546249bc83f03abde386c63181aefe26f52abdc2e55f37e7cb2baea311c16602")
    card = render_card(replace(bundle, base=qwen, results=(), buckets=()))
    assert "license: apache-2.0" in card
    assert "base_model: Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF" in card  # its teacher's
    assert "`qwen2.5-coder-0.5b-w4` of `edgereason models`" in card
    assert "--base" not in card
    assert "Nothing yet." in card
    assert "a limit cuts its thinking where it stands" in card


def test_a_manifest_written_by_hand_gets_one_line(bundle):
    for broken in ({"calibration": {"threshold": 1}}, {"provenance": {"adapter": 3}}):
        with pytest.raises(BundleError, match="is not of this version"):
            render_card(replace(bundle, **broken))
