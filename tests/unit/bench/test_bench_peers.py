"""`bench peers`: protocol and turns with contenders that are small real processes, and once for real."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.peers import bench
from benchmarks.peers.__main__ import main as peers_command
from benchmarks.peers.bench import PeersBenchConfig, bench_peers
from benchmarks.peers.cases import OURS, PEERS, Case, CaseResult, CaseSetting, Completion, Peer
from benchmarks.peers.contenders import llama_features
from benchmarks.peers.plan import SHAPES, PeerPlan, make_plan
from benchmarks.peers.process import PeerProcess, environment, public
from benchmarks.peers.record import PeerRun, Standing, case_entry, peer_entry, peers_notes
from benchmarks.peers.worker import Worker, majority
from edgereason.bench import record as bench_record
from edgereason.bench.progress import Listener
from edgereason.bench.record import Subject
from edgereason.core.chat import LEAD_IN, OPENING
from edgereason.errors import ConfigError, EngineError

SHAPE = {shape.name: shape for shape in SHAPES}
WARM_UP = Case(name="warm_up", question="q", prompt_ids=(1,), num_completions=8, limit_tokens=2)

CONTENDER = '''
"""A contender that computes nothing: seconds by name, faults by name."""
import json, sys

name, log = sys.argv[1:]
for line in sys.stdin:
    request = json.loads(line)
    if request["op"] == "load":
        with open(log, "a") as file:
            file.write(f"{name} load {request['setting']['threads']}\\n")
        reply = {"load_s": 0.5, "is_sequential": name == "llama-cpp-python", "remarks": [], "versions": {},
                 "features": ["AVX2", "AVX512"] if name == "edgereason" else ["AVX2"]}
        if name == "xllamacpp":
            reply = {"missing": ["xllamacpp"]}
        if name == "openvino-genai":
            reply = {"error": "RuntimeError: no kernel for /srv/models/base.gguf"}
    else:
        case = request["case"]
        with open(log, "a") as file:
            file.write(f"{name} {case['name']}\\n")
        if name == "transformers" and case["name"] == "decode_n4":
            print("Killed by /usr/lib/x/libtorch.so", file=sys.stderr)
            sys.exit(9)
        seconds = 2.0 if name == "edgereason" else 3.0
        reply = {"seconds": seconds / 2 if case["stop_early"] else seconds, "answer": None,
                 "tokens": case["num_completions"] * case["limit_tokens"], "num_answers": None,
                 "idle_s": 10.0, "idle_cpu_s": 0.5}
        if case["votes"]:
            reply |= {"answer": "72 rolls", "num_answers": 7}
    print(json.dumps(reply), flush=True)
'''


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Contenders, files and prompts that take no time; returns the model and the log of turns."""
    script, log, model = tmp_path / "contender.py", tmp_path / "log", tmp_path / "base.gguf"
    script.write_text(CONTENDER)
    model.write_bytes(b"GGUF" + b"x" * 96)
    cases = {
        shape.name: Case(
            name=shape.name,
            question="q",
            prompt_ids=(1, 2, 3),
            num_completions=shape.num_completions,
            limit_tokens=shape.limit_tokens,
            votes=shape.votes,
            stop_early=shape.only_ours,
        )
        for shape in SHAPES
    }
    plan = PeerPlan(CaseSetting(model=str(model), threads=2, context_tokens=512, streams=8), WARM_UP, cases)
    subject = Subject(source=model, source_sha256="ab", path=model, quantization="Q4_0", threads=2)
    monkeypatch.setattr(bench, "find_subject", lambda *_, **__: subject)
    monkeypatch.setattr(bench, "make_plan", lambda *_: plan)
    monkeypatch.setattr(bench, "command", lambda _, name: [sys.executable, str(script), name, str(log)])
    monkeypatch.setattr(bench_record, "read_bandwidth", lambda threads: 2e10)
    monkeypatch.setattr(bench_record, "read_per_token_bytes", lambda path: 10**8)
    return model, log


def turns(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if "load" not in line and "warm_up" not in line]


def test_contenders_take_turns_case_by_case_and_long_cases_have_fewer_rounds(fake):
    model, log = fake
    bench_peers(PeersBenchConfig(model=str(model), rounds=7, only=("llama-cpp-python",)))
    lines = turns(log)
    # the first round: every case of everybody, and the early vote of ours alone
    assert lines[:11] == [
        *(
            f"{name} {case}"
            for case in ("prefill", "decode_n1", "decode_n4", "decode_n8", "vote_n8")
            for name in ("edgereason", "llama-cpp-python")
        ),
        "edgereason vote_n8_early",
    ]
    counts = {case: lines.count(f"edgereason {case}") for case in SHAPE}
    assert counts == {
        "prefill": 7,
        "decode_n1": 7,
        "decode_n4": 5,
        "decode_n8": 5,
        "vote_n8": 3,
        "vote_n8_early": 3,
    }
    assert lines[-2:] == ["edgereason decode_n1", "llama-cpp-python decode_n1"]


def test_what_is_missing_fails_or_dies_is_recorded_as_that_and_the_others_go_on(fake):
    model, log = fake
    notices = []
    record = bench_peers(PeersBenchConfig(model=str(model), rounds=2), Listener(notice=notices.append))
    states = {name: peer["state"] for name, peer in record["peers"].items()}
    assert states == {
        "edgereason": "measured",
        "edgereason-upstream-kernels": "measured",
        "llama-cpp-python": "measured",
        "ik-llama-cpp-python": "measured",
        "xllamacpp": "not installed",
        "openvino-genai": "failed",
        "transformers": "failed",
    }
    assert record["peers"]["xllamacpp"]["install"] == "pip install xllamacpp"
    assert record["peers"]["openvino-genai"]["error"] == (
        "openvino-genai: RuntimeError: no kernel for base.gguf"
    )
    died = "transformers ended with code 9: Killed by libtorch.so"
    assert record["peers"]["transformers"]["error"] == died
    assert died in notices
    assert "xllamacpp is not installed: pip install xllamacpp" in notices
    # What it had shown before it died stays, and it had no turn after that.
    assert "transformers" in record["cases"]["decode_n1"]["contenders"]
    assert "transformers" not in record["cases"]["decode_n8"]["contenders"]
    assert turns(log).count("transformers prefill") == 1


def test_the_record_is_json_with_ratios_to_ours_and_no_local_path(fake, tmp_path):
    model, _ = fake
    config = PeersBenchConfig(model=str(model), rounds=1, peer_python=str(tmp_path / "python"))
    text = json.dumps(bench_peers(config))
    assert str(tmp_path) not in text
    record = json.loads(text)
    assert record["format"] == "edgereason-bench-peers"
    decode = record["cases"]["decode_n1"]
    theirs = decode["contenders"]["llama-cpp-python"]
    assert (decode["prompt_tokens"], decode["completions"], decode["limit_tokens"]) == (3, 1, 128)
    assert (theirs["min_s"], theirs["over_ours"], theirs["tokens"]) == (3.0, 1.5, 128)
    # 128 tokens in 2 s, each 100 MB of the 20 GB that memory delivers in a second
    assert decode["contenders"]["edgereason"]["roofline_share"] == pytest.approx(0.32)
    voted = record["cases"]["vote_n8"]["contenders"]["llama-cpp-python"]
    assert (voted["over_ours"], voted["over_ours_early"]) == (1.5, 3.0)
    assert (voted["answer"], voted["num_answers"], voted["is_correct"]) == ("72 rolls", 7, True)
    assert record["peers"]["llama-cpp-python"]["is_sequential"] is True
    # warm-up apart, five cases: half a second of every ten
    assert record["peers"]["llama-cpp-python"]["idle_cpu_share"] == pytest.approx(0.05)
    assert any("llama-cpp-python's llama.cpp runs without AVX512" in note for note in record["notes"])
    assert {"machine", "versions", "date", "steal_share", "others_share", "model"} <= record.keys()


def test_an_interpreter_that_is_missing_is_recorded_without_its_place(fake, monkeypatch, tmp_path):
    model, _ = fake
    ours = bench.command
    monkeypatch.setattr(
        bench, "command", lambda python, name: ours(python, name) if name == OURS else [str(tmp_path / "py")]
    )
    record = bench_peers(PeersBenchConfig(model=str(model), rounds=1))
    assert "can't be started" in record["peers"]["xllamacpp"]["error"]
    assert str(tmp_path) not in json.dumps(record)


def test_without_ours_there_is_nothing_to_compare_with(fake, monkeypatch, tmp_path):
    model, _ = fake
    monkeypatch.setattr(bench, "command", lambda _, name: [sys.executable, "-c", "raise SystemExit('no')"])
    with pytest.raises(EngineError, match="edgereason ended with code 1: no"):
        bench_peers(PeersBenchConfig(model=str(model), rounds=1))


def test_the_command_shows_a_column_for_everybody_and_ends_with_the_record(fake):
    model, _ = fake
    app = typer.Typer()
    app.command()(peers_command)
    result = CliRunner().invoke(app, ["--model", str(model), "--rounds", "1"])
    lines = result.stdout.splitlines()
    assert json.loads(lines[-1])["cases"]["prefill"]["contenders"]["edgereason"]["over_ours"] == 1.0
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    # 128 tokens in 2 s; 8 × 160 in 3 s
    assert ["decode_n1", "edgereason", "2.000", "1.000", "64.0", ""] in cells
    assert ["", "llama-cpp-python", "3.000", "1.500", "426.7", "7 of 8"] in cells
    assert any("xllamacpp is not installed: pip install xllamacpp" in line for line in lines)
    alone = CliRunner().invoke(app, ["--model", str(model), "--rounds", "1", "--json"])
    assert json.loads(alone.stdout)["rounds"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"only": ("xllamacp",)}, "no peer is called 'xllamacp': did you mean 'xllamacpp'"),
        ({"only": ("edgereason",)}, "no peer is called 'edgereason'"),
    ],
)
def test_a_config_out_of_range_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PeersBenchConfig(**options)


# A process at the other end of two pipes


def process(code: str) -> PeerProcess:
    return PeerProcess("peer", [sys.executable, "-c", code], {})


def test_a_process_that_hangs_is_given_up():
    with (
        process("import time; time.sleep(60)") as peer,
        pytest.raises(EngineError, match="did not answer within 0 s"),
    ):
        peer.ask({}, limit_s=0.2)


def test_a_process_that_ended_says_so_however_often_it_is_asked():
    with process("import sys; sys.exit('out of memory')") as peer:
        for _ in range(2):
            with pytest.raises(EngineError, match="peer ended with code 1: out of memory"):
                peer.ask({})


def test_an_answer_that_is_no_json_is_a_failure():
    with (
        process("input(); print('llama_model_loader: loaded')") as peer,
        pytest.raises(EngineError, match="something else than JSON: 'llama_model_loader: loaded"),
    ):
        peer.ask({})


def test_an_interpreter_that_is_not_there_is_named(tmp_path):
    with pytest.raises(EngineError, match=r"peer can't be started with .*python: No such file"):
        PeerProcess("peer", [str(tmp_path / "python")], {})


def test_peers_spin_as_their_users_have_them_spin_and_run_without_our_kernels():
    inherited = {"GOMP_SPINCOUNT": "3000", "HOME": "h"}
    here = {"PYTHONPATH": str(Path(__file__).parents[3])}  # a worker must find this package
    assert environment("xllamacpp", inherited) == {"HOME": "h", "EDGEREASON_KERNELS": "0"} | here
    assert environment(OURS, inherited) == inherited | here


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("can't read /home/me/models/a.gguf: no", "can't read a.gguf: no"),
        ("'/home/me/a.gguf' and file:///opt/x/b.so", "'a.gguf' and b.so"),
        (
            "POST http://127.0.0.1:80/tokenize failed,\n3/4 of it",
            "POST http://127.0.0.1:80/tokenize failed, 3/4 of it",
        ),
    ],
)
def test_messages_lose_their_folders_and_line_breaks(text, shown):
    assert public(text) == shown


# The worker's side


class Talker(Peer):
    """Says what it was given, one text a completion."""

    def __init__(self, completions):
        self.completions = completions
        self.is_closed = False

    def load(self, setting):
        pass

    def complete(self, case):
        return CaseResult(self.completions)

    def count_tokens(self, text):
        return len(text.split())

    def close(self):
        self.is_closed = True


def serve(peer, *cases):
    worker = Worker(PEERS["xllamacpp"])
    worker._peer = peer
    replies = io.StringIO()
    worker.serve([json.dumps({"op": "run", "case": case}) for case in cases], replies)
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def case(**options):
    values = {"name": "c", "question": "How many rolls?", "prompt_ids": [1], "num_completions": 3}
    return values | {"limit_tokens": 20} | options


def test_a_worker_votes_outside_on_what_a_peer_said_and_counts_what_it_did_not():
    texts = [
        "Half of 48 is 24.\n</think>\n\nThe final answer is 72.",
        "48 + 24 = 72, so the answer is 72",
        "so 96.\n</think>\n\nThe answer is 96",
    ]
    peer = Talker([Completion(text, None) for text in texts])
    (reply,) = serve(peer, case(votes=True))
    assert (reply["answer"], reply["num_answers"]) == ("72", 3)
    assert reply["tokens"] == sum(len(text.split()) for text in texts)
    assert peer.is_closed


def test_a_worker_reports_fewer_tokens_than_asked_for_as_a_failure_and_goes_on():
    peer = Talker([Completion("a", 20), Completion("b", 7), Completion("c", 20)])
    short, again = serve(peer, case(), case(votes=True))
    assert short == {"error": "RuntimeError: asked for 3 × 20 tokens in c, got [20, 7, 20]"}
    assert again["tokens"] == 47


def test_a_worker_tells_what_it_did_between_its_turns():
    first, second = serve(Talker([Completion("a", 20)]), *2 * [case(num_completions=1)])
    assert (first["idle_s"], first["idle_cpu_s"]) == (0.0, 0.0)
    assert second["idle_s"] > 0


def test_a_worker_names_the_packages_that_are_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "xllamacpp" else name)
    replies = io.StringIO()
    load = {"op": "load", "setting": {"model": "m", "threads": 1, "context_tokens": 512, "streams": 1}}
    Worker(PEERS["xllamacpp"]).serve([json.dumps(load)], replies)
    assert json.loads(replies.getvalue()) == {"missing": ["xllamacpp"]}


def test_a_peer_s_process_has_nothing_of_our_engine_in_it():
    # or it would spin as ours does, and share the copy of llama.cpp that ours loads
    code = """
import os, sys
import benchmarks.peers.worker
runtimes = {"llama_cpp", "edgereason.engine.native", "xllamacpp", "openvino", "torch", "transformers"}
print(runtimes & sys.modules.keys(), os.environ.get("GOMP_SPINCOUNT"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment("xllamacpp")
    )
    assert done.stdout == "set() None\n"


def test_nobody_s_answer_is_no_answer():
    assert majority(["", " \n"], "How many?", 0) == (None, 0)


def test_features_are_those_that_are_on():
    info = "CPU : SSE3 = 1 | AVX512 = 0 | REPACK = 1 | "
    assert llama_features(info) == ["SSE3", "REPACK"]


# Entries by hand


def standing(**runs):
    return Standing(about={"features": []}, runs={name: list(of) for name, of in runs.items()})


def test_a_contender_that_had_no_turn_at_a_case_is_not_in_it():
    ours = standing(prefill=[PeerRun(seconds=2.0, tokens=1), PeerRun(seconds=1.0, tokens=1)])
    entry = case_entry(SHAPE["prefill"], WARM_UP, {OURS: ours, "xllamacpp": Standing(missing=["x"])}, 0.01)
    assert entry["contenders"].keys() == {OURS}
    # of a first token, the rate is the prompt's: one token in a second
    assert entry["contenders"][OURS] == {
        "rounds": 2,
        "min_s": 1.0,
        "median_s": 1.5,
        "tokens": 1,
        "tokens_per_s": 1.0,
        "over_ours": 1.0,
    }


def test_a_wrong_majority_is_wrong_and_its_figures_are_of_the_best_round():
    runs = [PeerRun(seconds=9.0, tokens=900), PeerRun(seconds=5.0, tokens=700, answer="24", num_answers=8)]
    found = case_entry(SHAPE["vote_n8"], WARM_UP, {OURS: standing(vote_n8=runs)}, 0.01)["contenders"][OURS]
    assert (found["tokens"], found["tokens_per_s"]) == (700, 140.0)
    assert (found["answer"], found["num_answers"], found["is_correct"]) == ("24", 8, False)
    assert found["over_ours_early"] is None


def test_a_peer_that_was_never_idle_has_no_idle_share():
    entry = peer_entry(PEERS["xllamacpp"], standing(prefill=[PeerRun(seconds=1.0, tokens=1)]))
    assert (entry["state"], entry["idle_cpu_share"]) == ("measured", None)


def test_builds_are_only_compared_where_there_is_a_llama_cpp():
    ours = Standing(about={"features": ["AVX2"]})
    notes = peers_notes({OURS: ours, "transformers": Standing(about={"features": None})})
    assert not any("runs without" in note for note in notes)


# With a model


@pytest.mark.model
def test_votes_elicit_thinking_behind_the_prompt_and_the_context_holds_the_largest_case(smollm2: Path):
    plan = make_plan(smollm2, 1, 0)
    story, question = plan.cases["decode_n8"], plan.cases["vote_n8"]
    assert 500 <= len(plan.cases["prefill"].prompt_ids) <= 524
    assert plan.cases["vote_n8_early"].prompt_ids == question.prompt_ids
    assert plan.setting.context_tokens >= len(question.prompt_ids) + 8 * 160
    from edgereason.engine.llama import LlamaEngine

    with LlamaEngine(smollm2) as engine:
        text = b"".join(map(engine.piece, question.prompt_ids)).decode()
        assert text.endswith(OPENING + LEAD_IN)
        assert OPENING not in b"".join(map(engine.piece, story.prompt_ids)).decode()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ours_and_llama_cpp_python_do_the_same_work(smollm2: Path, monkeypatch):
    # Peers spin by their own default, with which a busy machine takes minutes for a token.
    short = environment(OURS)
    monkeypatch.setattr(bench, "environment", lambda name: short | {"GOMP_SPINCOUNT": "3000"})
    record = bench_peers(
        PeersBenchConfig(model=str(smollm2), rounds=1, only=("llama-cpp-python", "transformers"))
    )
    assert record["peers"]["llama-cpp-python"]["state"] == "measured"
    assert record["peers"]["transformers"]["state"] in ("not installed", "measured")
    for name, found in record["cases"].items():
        contenders = found["contenders"]
        if not SHAPE[name].votes:
            assert {one["tokens"] for one in contenders.values()} == {
                found["completions"] * found["limit_tokens"]
            }
    ours = record["cases"]["vote_n8"]["contenders"][OURS]
    assert ours["num_answers"] == 8  # every stream is made to answer
    assert ours["tokens"] <= 8 * 160
    assert str(smollm2.parent) not in json.dumps(record)
