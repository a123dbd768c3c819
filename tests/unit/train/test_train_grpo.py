"""GRPO on a tiny model: advantages and loss by hand and against TRL's own, and runs that go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from tiny_lora import OPENING, base_model, lora_model
from trl import GRPOTrainer

from edgereason.errors import BundleError, ConfigError, EngineError, TrainingError
from edgereason.records.context import RunContext
from edgereason.records.lock import FolderLock
from edgereason.train.grpo import groups as groups_module
from edgereason.train.grpo.config import GrpoConfig
from edgereason.train.grpo.groups import GroupSampler, Problem
from edgereason.train.grpo.recipe import BudgetsConfig, GrpoRecipe, Material, grpo
from edgereason.train.grpo.reward import RewardConfig
from edgereason.train.grpo.rollout import Vocabulary
from edgereason.train.grpo.torch_rollout import TorchRollouts
from edgereason.train.grpo.trainer import BudgetTrainer, by_length, turn
from edgereason.train.lora.adapters import save_adapter
from edgereason.train.lora.checkpoints import forget_lines_behind
from edgereason.train.lora.masked_lora import MaskedLora, ResponseBatch
from edgereason.train.lora.run import BaseConfig, TorchBase

SHA256 = "ab" * 32
ENDS = frozenset({55, 56, 57, 58, 59, 62, 63})
SOLVED = b"x\n</think>\n\nThe final answer is 1.\n"
VOCABULARY = Vocabulary(tuple(SOLVED if i < 4 else b"x" for i in range(64)), ENDS)
"""Four of 64 tokens say all that is right."""
HINTS = {8: (5,), 16: (6, 7)}
PROBLEMS = [
    Problem(id=f"p{i:02}", text="How many?", reference="1", prompt=tuple(range(i, i + 4 + i % 3)))
    for i in range(12)
]
MATERIAL = Material(
    problems=PROBLEMS, opening=OPENING, hints=HINTS, vocabulary=VOCABULARY, context_tokens=256
)
CONFIG = GrpoConfig(
    steps=4, prompts=2, samples=4, micro_rows=4, learning_rate=5e-3, rewarm_steps=2, beta=0.05, seed=1
)
RECIPE = GrpoRecipe(base=BaseConfig(name="tiny"), budgets=BudgetsConfig(buckets=(8, 16)), training=CONFIG)


def in_torch(policy, save):
    return TorchRollouts(policy, VOCABULARY.ends, temperature=CONFIG.temperature)


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "adapter"
    save_adapter(lora_model(), folder, base_name="tiny", base_sha256=SHA256, opening=OPENING)
    return folder


def base() -> TorchBase:
    return TorchBase(base_model(), SHA256, OPENING)


def train(folder: Path, start: Path, recipe: GrpoRecipe = RECIPE, rollouts=in_torch, **how):
    context = RunContext(should_stop=how.pop("should_stop", lambda: False))
    return grpo(recipe, base(), start, MATERIAL, rollouts, folder, context, **how)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def responses(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "responses.jsonl").read_text().splitlines()]


def learned(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def after(steps: int):
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= steps


@pytest.fixture(scope="module")
def finished(tmp_path_factory, start: Path) -> Path:
    folder = tmp_path_factory.mktemp("grpo") / "run"
    assert train(folder, start)["steps"] == 4
    return folder


def sampler(count: int, **more) -> GroupSampler:
    return GroupSampler(
        problems={one.id: one for one in PROBLEMS},
        opening=OPENING,
        hints=HINTS,
        vocabulary=VOCABULARY,
        rewards=RewardConfig(),
        count=count,
        **more,
    )


def trainer(
    tmp_path: Path, policy: MaskedLora, config: GrpoConfig = CONFIG, forced: tuple[int, ...] = ()
) -> BudgetTrainer:
    deals, in_truth = sampler(config.samples, redraws=9), in_torch(policy, None)

    def rollouts(wants):
        return [[replace(one, forced=forced) for one in drawn] for drawn in in_truth(wants)]

    return BudgetTrainer(
        policy,
        [one.id for one in PROBLEMS],
        lambda ids, step: deals.sample(ids, step, rollouts),
        VOCABULARY,
        tmp_path,
        config,
        save=lambda folder, weights: None,
        load=lambda folder: None,
    )


def generated(made: BudgetTrainer) -> dict:
    made.model.train()
    made._step = 0
    return made._generate_and_score_completions([{"prompt": ""} for _ in range(8)])


# ── one update, by hand ──────────────────────────────────────────────────────────────────────────


def made_with(tmp_path: Path, **settings: Any) -> BudgetTrainer:
    made = trainer(tmp_path, MaskedLora(lora_model()), replace(CONFIG, **settings))
    made.current_gradient_accumulation_steps = 1
    return made


@pytest.fixture
def made(tmp_path: Path) -> BudgetTrainer:
    return made_with(tmp_path)


def test_advantages_are_a_groups_rewards_against_their_own(made: BudgetTrainer) -> None:
    rolled = made.roll()
    batch = generated(made)
    expected: list[float] = []
    for at in (0, 4):
        rewards = rolled["reward"][at : at + 4]
        expected += [(one - fmean(rewards)) / (stdev(rewards) + 1e-4) for one in rewards]
    assert any(expected)
    assert batch["advantages"].tolist() == pytest.approx(expected, abs=1e-5)


def test_advantages_may_be_measured_by_the_spread_of_the_whole_update(tmp_path: Path) -> None:
    made = made_with(tmp_path, scale_rewards="batch")
    rolled = made.roll()
    batch = generated(made)
    rewards = rolled["reward"]
    expected = [
        (one - fmean(rewards[at : at + 4])) / (stdev(rewards) + 1e-4)
        for at in (0, 4)
        for one in rewards[at : at + 4]
    ]
    assert any(expected)
    assert batch["advantages"].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_masks_border_is_the_adapters(made: BudgetTrainer) -> None:
    batch = generated(made)
    for ids, mask in zip(batch["completion_ids"].tolist(), batch["tool_mask"].tolist(), strict=True):
        (forced,) = [
            OPENING + hint for hint in HINTS.values() if tuple(ids[: 2 + len(hint)]) == OPENING + hint
        ]
        assert mask[: len(forced)] == [0] * len(forced)
        assert set(mask[len(forced) :]) == {1}
    prompts = batch["prompt_ids"][batch["prompt_mask"].bool()].tolist()
    assert OPENING[0] not in prompts


def test_forced_results_are_not_learned(tmp_path: Path) -> None:
    made = trainer(tmp_path, MaskedLora(lora_model()), forced=(0, 2))
    made.current_gradient_accumulation_steps = 1
    batch = generated(made)
    for ids, mask, present in zip(
        *(batch[name].tolist() for name in ("completion_ids", "tool_mask", "completion_mask")), strict=True
    ):
        begin = next(2 + len(h) for h in HINTS.values() if tuple(ids[: 2 + len(h)]) == OPENING + h)
        length = sum(present) - begin  # of what was sampled, results among it
        assert mask[begin : begin + length] == [0, 1, 0, *[1] * length][:length]


def test_old_log_probabilities_are_those_that_were_drawn_with(made: BudgetTrainer) -> None:
    batch = generated(made)
    found = made._get_per_token_logps_and_entropies(
        made._policy.scores,
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
        batch["completion_ids"].shape[1],
    )[0]
    mask = (batch["completion_mask"] * batch["tool_mask"]).bool()
    torch.testing.assert_close(found[mask], batch["old_per_token_logps"][mask], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("unbiased_kl", [False, True])
def test_the_loss_is_the_papers_over_sampled_tokens(tmp_path: Path, unbiased_kl: bool) -> None:
    # GIVEN an old policy and a reference that are others than the policy, so that every term matters
    made = made_with(tmp_path, unbiased_kl=unbiased_kl)
    batch = generated(made)
    torch.manual_seed(3)
    shape = batch["completion_ids"].shape
    batch["old_per_token_logps"] = batch["old_per_token_logps"] + 0.3 * torch.randn(shape)
    batch["ref_per_token_logps"] = batch["ref_per_token_logps"] + 0.3 * torch.randn(shape)
    # WHEN
    loss = made._compute_loss(made.model, batch)
    # THEN it is what a loop over responses and tokens gives
    rows = []
    for row in range(len(batch["completion_ids"])):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()].tolist()
        ids = batch["completion_ids"][row][batch["completion_mask"][row].bool()].tolist()
        one = ResponseBatch.of([(prompt, ids, [True] * len(ids))])
        with torch.no_grad():
            logprobs = made._policy.scores(one, temperature=0.8)[0][0]
        terms = []
        for t in range(len(ids)):
            if not batch["tool_mask"][row, t]:
                continue
            old, ref = batch["old_per_token_logps"][row, t], batch["ref_per_token_logps"][row, t]
            advantage, ratio = batch["advantages"][row], (logprobs[t] - old).exp()
            clipped = ratio.clamp(0.8, 1.2)
            kl = ((ref - logprobs[t]).exp() - (ref - logprobs[t]) - 1) * (ratio if unbiased_kl else 1)
            terms.append(float(-torch.min(ratio * advantage, clipped * advantage) + 0.05 * kl))
        rows.append(fmean(terms))
    assert float(loss.detach()) == pytest.approx(fmean(rows), abs=1e-5)


def test_responses_of_similar_length_share_a_forward_pass_and_stay_whole() -> None:
    def part(lengths: list[int]) -> dict[str, Any]:
        mask = torch.arange(6)[None] < torch.tensor(lengths)[:, None]
        worth = torch.tensor(lengths) / 10
        return {
            "completion_mask": mask,
            "advantages": worth,
            "num_items_in_batch": torch.tensor(7),
            "images": None,
        }

    parts = by_length([part([1, 5, 2]), part([4, 3, 6])])
    assert [one["completion_mask"].sum(1).tolist() for one in parts] == [[6, 5, 4], [3, 2, 1]]
    for one in parts:
        assert torch.equal(one["advantages"], one["completion_mask"].sum(1) / 10)
        assert (one["num_items_in_batch"], one["images"]) == (7, None)


def test_without_a_mask_the_loss_is_trls_own(made: BudgetTrainer, tmp_path: Path) -> None:
    # GIVEN an adapter that changes nothing, so that it does not matter where it is on
    for name, parameter in made.model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    batch = generated(made)
    torch.manual_seed(4)
    batch["old_per_token_logps"] = batch["old_per_token_logps"] + 0.3 * torch.randn_like(
        batch["old_per_token_logps"]
    )
    ours = made._compute_loss(made.model, batch)
    # WHEN TRL finds the log-probabilities itself, in one pass over prompt and completion
    plain = lora_model()
    for name, parameter in plain.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    theirs = GRPOTrainer(
        model=plain,
        reward_funcs=lambda **_: [0.0],
        args=replace_output(made.args, tmp_path / "plain"),
        train_dataset=made.train_dataset,
        processing_class=made.processing_class,
    )
    theirs.model.train()
    theirs.current_gradient_accumulation_steps = 1
    # THEN
    assert float(theirs._compute_loss(theirs.model, batch).detach()) == pytest.approx(
        float(ours.detach()), abs=1e-5
    )


def replace_output(arguments, folder: Path):
    values = {
        name: getattr(arguments, name)
        for name in (
            "per_device_train_batch_size",
            "num_generations",
            "loss_type",
            "beta",
            "epsilon",
            "temperature",
            "use_cpu",
            "bf16",
        )
    }
    return type(arguments)(
        output_dir=str(folder),
        max_steps=1,
        activation_checkpointing=False,
        gradient_accumulation_steps=2,
        report_to="none",
        **values,
    )


def test_no_gradient_reaches_what_was_forced(made: BudgetTrainer, monkeypatch) -> None:
    batch = generated(made)
    shape = batch["completion_ids"].shape
    logprobs = torch.full(shape, -1.0, requires_grad=True)
    made._last_logprobs = logprobs.detach()
    monkeypatch.setattr(
        made, "_get_per_token_logps_and_entropies", lambda *_, **__: (logprobs, torch.zeros(shape), None)
    )
    batch["old_per_token_logps"] = torch.full(shape, -1.0)
    batch["ref_per_token_logps"] = torch.full(shape, -1.0)
    made._compute_loss(made.model, batch).backward()
    mask = (batch["completion_mask"] * batch["tool_mask"]).bool()
    assert (logprobs.grad[~mask] == 0).all()
    # On policy the gradient of a sampled token is −A over the response's tokens and the responses.
    expected = -batch["advantages"][:, None] / mask.sum(1, keepdim=True) / shape[0]
    torch.testing.assert_close(logprobs.grad[mask], expected.expand(shape)[mask], atol=1e-7, rtol=1e-4)


def test_groups_without_spread_teach_nothing(made: BudgetTrainer, monkeypatch) -> None:
    dull = sampler(4, redraws=0, judge=lambda *_: False)
    monkeypatch.setattr(made, "_draw", lambda ids, step: dull.sample(ids, step, in_torch(made._policy, None)))
    batch = generated(made)
    assert not batch["tool_mask"][batch["completion_mask"].bool()].any()
    loss = made._compute_loss(made.model, batch)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(p.grad is None or not p.grad.any() for p in made.model.parameters())


# ── runs ─────────────────────────────────────────────────────────────────────────────────────────


def test_every_update_leaves_a_line(finished: Path) -> None:
    found = lines(finished)
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    assert found[0]["kl"] == pytest.approx(0.0, abs=1e-6)  # the policy is the reference still
    assert found[-1]["kl"] > 1e-5
    assert all(line["mismatch"] < 1e-4 for line in found)  # torch drew, torch scores
    assert all(line["rollouts"]["tokens_per_s"] > 0 for line in found)
    assert all(line["seconds"] > 0 for line in found)


def test_the_policy_learns_what_is_rewarded(start: Path, tmp_path: Path) -> None:
    recipe = replace(
        RECIPE,
        training=replace(CONFIG, steps=25, prompts=4, samples=8, micro_rows=32, learning_rate=2e-2, beta=0.0),
    )
    train(tmp_path / "run", start, recipe)
    rewards = [line["rollouts"]["reward"] for line in lines(tmp_path / "run")]
    assert fmean(rewards[-5:]) > fmean(rewards[:5]) + 0.2


def test_more_can_be_drawn_than_are_learned_from(start: Path, tmp_path: Path) -> None:
    counts: list[int] = []

    def counting(policy, save):
        rollouts = in_torch(policy, save)

        def roll(wants):
            counts.extend(want.count for want in wants)
            return rollouts(wants)

        return roll

    recipe = replace(RECIPE, training=replace(CONFIG, steps=1, draws=7, redraws=0))
    train(tmp_path / "run", start, recipe, counting)
    assert counts == [7, 7]
    with pytest.raises(ConfigError, match="draws must be from samples = 4"):
        replace(CONFIG, draws=3)
    with pytest.raises(ConfigError, match="samples must be at most 64, got 65"):
        replace(CONFIG, samples=65)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_run_that_was_stopped_goes_on_to_the_same_adapter(
    finished: Path, start: Path, tmp_path: Path, stop_after: int
) -> None:
    assert train(tmp_path / "run", start, should_stop=after(stop_after)) is None
    assert len(lines(tmp_path / "run")) == stop_after
    train(tmp_path / "run", start)
    assert [one["text"] for one in responses(tmp_path / "run")] == [
        one["text"] for one in responses(finished)
    ]
    timed = ("seconds", "trained_tokens_per_s", "rollouts")
    for found, expected in zip(lines(tmp_path / "run"), lines(finished), strict=True):
        assert {k: v for k, v in found.items() if k not in timed} == pytest.approx(
            {k: v for k, v in expected.items() if k not in timed}, rel=1e-5, abs=1e-7
        )
    for name, tensor in learned(finished).items():
        torch.testing.assert_close(learned(tmp_path / "run")[name], tensor, atol=1e-6, rtol=1e-5)


def test_the_reference_is_the_adapter_that_the_run_began_with_also_after_a_resume(
    finished: Path, start: Path, tmp_path: Path
) -> None:
    expected = load_file(start / "adapter_model.safetensors")
    seen: list[dict[str, torch.Tensor]] = []

    def watched(policy, save):
        named = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
        seen.append({n.replace(".ref.", "."): p for n, p in named.items() if ".ref." in n})
        return in_torch(policy, save)

    train(tmp_path / "run", start, rollouts=watched, should_stop=after(2))
    train(tmp_path / "run", start, rollouts=watched)
    assert len(seen) == 4
    for reference in seen:
        assert len(reference) == len(expected)
        assert all(torch.equal(reference[name], tensor) for name, tensor in expected.items())
    assert any(not torch.equal(learned(finished)[name], tensor) for name, tensor in expected.items())


def test_a_light_checkpoint_goes_on_without_its_optimizer(
    finished: Path, start: Path, tmp_path: Path
) -> None:
    train(tmp_path / "a", start, should_stop=after(2))
    light = tmp_path / "a" / "light"
    assert not list(light.glob("optimizer*"))
    record = train(tmp_path / "b", start, resume=light)
    assert record["rewarmed_at"] == 2
    # The same problems, buckets and draws, from weights that are the same but for their rounding.
    assert responses(tmp_path / "b")[:2] == responses(finished)[4:6]
    # Stopped once more and gone on exactly, the rate still rises from where the light one was taken up.
    train(tmp_path / "c", start, resume=light, should_stop=after(1))
    assert train(tmp_path / "c", start)["rewarmed_at"] == 2
    rates = [[line["learning_rate"] for line in lines(tmp_path / name)] for name in "bc"]
    assert rates[0] == rates[1]


def test_a_run_of_several_passes_goes_on_with_the_problems_whose_turn_it_is(
    start: Path, tmp_path: Path
) -> None:
    # 12 problems, 4 an update: the fifth update is in the second pass.
    recipe = replace(RECIPE, training=replace(CONFIG, steps=5, prompts=4, micro_rows=16, learning_rate=1e-4))
    train(tmp_path / "whole", start, recipe)
    train(tmp_path / "run", start, recipe, should_stop=after(4))
    train(tmp_path / "run", start, recipe)
    assert responses(tmp_path / "run") == responses(tmp_path / "whole")


def test_every_pass_has_every_problem_once_in_an_order_of_its_own() -> None:
    names = [f"p{n}" for n in range(10)]
    passes = [[name for step in range(at, at + 5) for name in turn(names, step, 2, 0)] for at in (0, 5)]
    assert [sorted(one) for one in passes] == [sorted(names)] * 2
    assert passes[0] != passes[1]
    assert turn(names, 7, 3, 0) == turn(names, 7, 3, 0)


def test_no_update_has_a_problem_twice() -> None:
    # Bucket and seed follow from step and problem: the same twice would be the same responses.
    names = [f"p{n}" for n in range(6)]
    assert all(len({*turn(names, step, 4, 0)}) == 4 for step in range(60))
    assert {name for step in range(60) for name in turn(names, step, 4, 0)} == {*names}


def test_a_finished_run_is_not_trained_further(finished: Path, start: Path) -> None:
    before = learned(finished), lines(finished)
    assert train(finished, start)["steps"] == 4
    assert lines(finished) == before[1]
    assert all(torch.equal(learned(finished)[name], tensor) for name, tensor in before[0].items())


def test_a_finished_run_that_kept_its_light_checkpoint_alone_is_left_as_it_is(
    start: Path, tmp_path: Path
) -> None:
    train(tmp_path / "a", start, should_stop=after(2))
    folder = tmp_path / "b"
    record = train(folder, start, resume=tmp_path / "a" / "light")
    before = learned(folder)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    assert train(folder, start) == record  # where the light one was taken up, too
    assert all(torch.equal(learned(folder)[name], tensor) for name, tensor in before.items())
    # The light checkpoint would not have done: it is rounded.
    light = load_file(folder / "light" / "adapter_model.safetensors")
    assert any(not torch.equal(light[name].float(), tensor) for name, tensor in before.items())


def test_a_line_that_a_kill_tore_within_a_character_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    whole = [{"step": 1, "text": "2 × 3"}, {"step": 2, "text": "€"}]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in whole) + '{"step": 3, "text": "×'
    path.write_bytes(text.encode()[:-1])
    assert forget_lines_behind(path, 1) == whole[:1]
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == whole[:1]


def test_what_is_no_checkpoint_or_beyond_the_end_is_not_resumed(
    finished: Path, start: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="is not a checkpoint"):
        train(tmp_path / "run", start, resume=finished / "adapter")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="has 4 updates behind it"):
        train(tmp_path / "run", start, resume=finished / "light")


@pytest.mark.parametrize("settings", [{"dtype": "bfloat16"}, {"checkpoint_activations": True}])
def test_less_precision_and_less_memory_learn_nearly_the_same(
    finished: Path, start: Path, tmp_path: Path, settings: dict
) -> None:
    recipe = replace(RECIPE, training=replace(CONFIG, steps=1, learning_rate=1e-3, **settings))
    train(tmp_path / "run", start, recipe)
    (update,) = lines(tmp_path / "run")
    exact = lines(finished)[0]
    assert update["mismatch"] < (0.1 if "dtype" in settings else 1e-4)
    if "dtype" not in settings:
        assert update["loss"] == pytest.approx(exact["loss"], abs=1e-6)
        assert update["grad_norm"] == pytest.approx(exact["grad_norm"], rel=1e-4)
    assert any(
        not torch.equal(tensor, load_file(start / "adapter_model.safetensors")[name])
        for name, tensor in learned(tmp_path / "run").items()
    )


def test_two_processes_learn_what_one_learns_also_when_they_are_killed(start: Path, tmp_path: Path) -> None:
    command = [sys.executable, Path(__file__).with_name("two_processes_grpo.py"), start, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (lines(tmp_path / folder) for folder in ("one", "two"))
    timed = ("tokens_per_s",)
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "mismatch", "clipped"):
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-4), name
        # These are means of passes: of one process those of long and of short responses, of two a group each.
        assert b["entropy"] == pytest.approx(a["entropy"], rel=0.1)
        assert b["kl"] == pytest.approx(a["kl"], abs=2e-3)
        figures = [{k: v for k, v in line["rollouts"].items() if k not in timed} for line in (a, b)]
        assert figures[0] == figures[1]
    for name, tensor in learned(tmp_path / "one").items():
        torch.testing.assert_close(learned(tmp_path / "two")[name], tensor, atol=1e-3, rtol=1e-2)
    # Killed behind the first update, two go on to what two that were not killed have learned.
    for found, expected in zip(lines(tmp_path / "killed"), two, strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5, abs=1e-7)
    for name, tensor in learned(tmp_path / "two").items():
        torch.testing.assert_close(learned(tmp_path / "killed")[name], tensor, atol=1e-6, rtol=1e-5)


def test_a_reward_that_raises_stops_the_training_and_keeps_the_checkpoint(
    start: Path, tmp_path: Path, monkeypatch
) -> None:
    train(tmp_path / "run", start, should_stop=after(2))

    def broken(*_, **__):
        raise ValueError("no such grader")

    monkeypatch.setattr(groups_module, "extract", broken)
    with pytest.raises(TrainingError, match=r"response to p\d\d .*no such grader"):
        train(tmp_path / "run", start)
    monkeypatch.undo()
    assert train(tmp_path / "run", start)["steps"] == 4


def test_an_engine_that_dies_in_a_rollout_costs_one_update(
    finished: Path, start: Path, tmp_path: Path
) -> None:
    alive = iter([True, True, False])

    def mortal(policy, save):
        if not next(alive):
            raise EngineError("the engine died")
        return in_torch(policy, save)

    recipe = replace(RECIPE, training=replace(CONFIG, checkpoint_minutes=0.0))
    with pytest.raises(EngineError):
        train(tmp_path / "run", start, recipe, rollouts=mortal)
    assert len(lines(tmp_path / "run")) == 2
    train(tmp_path / "run", start, recipe)
    for name, tensor in learned(finished).items():
        torch.testing.assert_close(learned(tmp_path / "run")[name], tensor, atol=1e-6, rtol=1e-5)


def test_bad_input_is_refused_before_anything_is_written(start: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match="the context holds 256"):
        grpo(
            replace(RECIPE, budgets=BudgetsConfig(buckets=(8, 200))),
            base(),
            start,
            replace(MATERIAL, hints=HINTS | {200: (5,)}),
            in_torch,
            folder,
        )
    with pytest.raises(ConfigError, match="12 problems"):
        train(folder, start, replace(RECIPE, training=replace(CONFIG, prompts=16)))
    with pytest.raises(ConfigError, match="can't be shared out"):
        train(folder, start, replace(RECIPE, training=replace(CONFIG, micro_rows=3)))
    with pytest.raises(BundleError, match="made for the base"):
        grpo(RECIPE, replace(base(), sha256="cd" * 32), start, MATERIAL, in_torch, folder)
    with pytest.raises(ConfigError, match="must be positive and rise"):
        BudgetsConfig(buckets=(16, 8))
    assert not folder.exists()


def test_a_folder_with_another_run_is_refused(finished: Path, start: Path) -> None:
    with pytest.raises(ConfigError, match="holds another training"):
        train(finished, start, replace(RECIPE, reward=RewardConfig(margin=0.5)))
    for changed, said in (({"parallel": 3}, "parallel"), ({"redraws": 1}, "redraws"), ({"seed": 9}, "seed")):
        with pytest.raises(ConfigError, match=f"training.{said}: .* there, .* now"):
            train(finished, start, replace(RECIPE, training=replace(CONFIG, **changed)))


def test_another_base_is_refused_in_a_folder_that_has_no_checkpoint_yet(start: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train(folder, start, should_stop=after(1)) is None
    for path in [*folder.glob("checkpoint-*"), folder / "light"]:
        shutil.rmtree(path)
    save_adapter(lora_model(), tmp_path / "other", base_name="o", base_sha256="cd" * 32, opening=OPENING)
    other = TorchBase(base_model(), "cd" * 32, OPENING)
    with pytest.raises(ConfigError, match=r"base_file\.sha256: 'abab\w+' there, 'cdcd\w+' now"):
        grpo(RECIPE, other, tmp_path / "other", MATERIAL, in_torch, folder, RunContext())


def test_a_run_goes_on_to_the_same_bits_with_settings_that_teach_nothing(
    finished: Path, start: Path, tmp_path: Path
) -> None:
    """And in a folder of an earlier version, whose recipe lacks the base's hash."""
    folder = tmp_path / "run"
    assert train(folder, start, should_stop=after(2)) is None
    tables = tomllib.loads((folder / "recipe.toml").read_text())
    del tables["base_file"]
    (folder / "recipe.toml").write_text(tomli_w.dumps(tables))
    changed = replace(CONFIG, checkpoint_minutes=0.0, cached_prompt_bytes=500, checkpoint_activations=True)
    train(folder, start, replace(RECIPE, training=changed))
    for name, tensor in learned(finished).items():
        assert torch.equal(learned(folder)[name], tensor), name


def test_rows_of_a_forward_pass_may_change_when_a_run_goes_on(
    finished: Path, start: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert train(folder, start, should_stop=after(3)) is None
    train(folder, start, replace(RECIPE, training=replace(CONFIG, micro_rows=CONFIG.micro_rows // 2)))
    found, expected = (lines(one)[3] for one in (folder, finished))
    for name in ("loss", "grad_norm"):  # TRL's KL and entropy are means of the passes' means
        assert found[name] == pytest.approx(expected[name], rel=1e-4)
    for name, tensor in learned(finished).items():
        torch.testing.assert_close(learned(folder)[name], tensor, atol=1e-5, rtol=1e-4)


def test_only_an_earlier_lock_does_not_fill_a_folder(start: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    assert train(folder, start, should_stop=after(1)) is None


def test_a_folder_to_which_another_process_writes_is_left_alone(start: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train(folder, start, should_stop=after(1)) is None
    before = lines(folder)
    with FolderLock(folder), pytest.raises(ConfigError, match="another process writes"):
        train(folder, start)
    assert lines(folder) == before
    assert train(folder, start)["steps"] == 4  # and goes on once the other one is done


@pytest.mark.parametrize("name", ["qwen2.5-coder-0.5b", "smollm2-135m", "qwen2.5-7b-paper"])
def test_recipes_are_understood_and_share_out_evenly(name: str) -> None:
    recipe = GrpoRecipe.read(Path(__file__).parents[3] / "configs" / f"grpo-{name}.toml")
    assert recipe.training.accumulated(8 if "paper" in name else 1) >= 1
    if "paper" in name:  # section 3 and table 12
        training = recipe.training
        assert recipe.budgets.buckets == (1000, 3000, 4000, 6000)
        assert (training.steps, training.prompts * training.samples, training.samples) == (200, 256, 8)
        assert (training.learning_rate, training.warmup, training.temperature) == (2e-5, 0.05, 0.8)
