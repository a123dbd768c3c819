"""Training: the loss by hand, gradients against autograd's own, and runs that are stopped and go on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_gguf import QWEN2, random_weights, write_gguf
from tiny_torch import NO_CORRECTIONS, NO_TRANSFORMS, load, make_student, random_ids, stir

from edgereason.errors import ConfigError
from edgereason.train.quant import end_to_end
from edgereason.train.quant.checkpoint import Checkpoint
from edgereason.train.quant.end_to_end import (
    EndToEndConfig,
    backward,
    divergence,
    draw_windows,
    jsd,
    num_windows,
    require_text,
    train,
)
from edgereason.train.quant.student import CorrectionConfig
from edgereason.train.quant.transforms import TransformConfig

LN2 = math.log(2)
IDENTITY = "a recipe, a teacher, a text"
QUICK = {"windows": 2, "window_tokens": 12, "warmup": 0.0, "refresh_steps": 2}


def never() -> bool:
    return False


def after(num_calls: int):
    """False so many times, then True."""
    calls = iter(range(num_calls + 1))
    return lambda: next(calls) == num_calls


def windows_for(config, seed=0):
    return random_ids(config.steps * config.windows, config.window_tokens, seed).numpy()


def run(teacher, config, path, *, student=None, should_stop=never, windows=None):
    """A student trained, whether it finished, and its losses."""
    torch.manual_seed(0)
    student = student or make_student(teacher, None, TransformConfig(), CorrectionConfig(rank=2))
    told = []
    finished = train(
        student,
        teacher.model,
        windows_for(config) if windows is None else windows,
        config,
        checkpoint=Checkpoint(path, IDENTITY),
        report=told.append,
        should_stop=should_stop,
    )
    return student, finished, told


def same_parameters(one, other):
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    return all(a == b and torch.equal(p, q) for (a, p), (b, q) in pairs)


# The loss


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=10), st.floats(-5, 5))
def test_equal_distributions_do_not_diverge(row, shift):
    logits = torch.tensor([row], dtype=torch.float64)
    assert jsd(logits, logits + shift).abs().item() < 1e-12  # logits are known up to a sum


def test_disjoint_distributions_diverge_by_ln_2():
    sure = torch.tensor([[0.0, -1e4, -1e4], [0.0, -1e4, -1e4]])
    other = torch.tensor([[-1e4, 0.0, -1e4], [0.0, -1e4, -1e4]])
    assert jsd(sure, other).tolist() == [pytest.approx(LN2, rel=1e-6), 0.0]


def test_two_classes_by_hand():
    # p = (1/4, 3/4), q = (1/2, 1/2), m = (3/8, 5/8)
    student, teacher = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[2.0, 2.0]])
    kl_p = 1 / 4 * math.log(2 / 3) + 3 / 4 * math.log(6 / 5)
    kl_q = 1 / 2 * math.log(4 / 3) + 1 / 2 * math.log(4 / 5)
    assert jsd(student, teacher).item() == pytest.approx((kl_p + kl_q) / 2, rel=1e-5)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(2, 50), st.floats(0.01, 30))
def test_it_is_symmetric_between_0_and_ln_2_and_blind_to_the_order_of_words(seed, vocabulary, spread):
    random = torch.Generator().manual_seed(seed)
    p, q = spread * torch.randn(2, 4, vocabulary, generator=random, dtype=torch.float64)
    got = jsd(p, q)
    assert torch.allclose(got, jsd(q, p), rtol=1e-9, atol=1e-14)
    assert torch.all((got > -1e-14) & (got <= LN2 + 1e-12))
    order = torch.randperm(vocabulary, generator=random)
    assert torch.allclose(got, jsd(p[:, order], q[:, order]), rtol=1e-9, atol=1e-14)


def test_its_gradient_is_that_of_differences():
    random = torch.Generator().manual_seed(1)
    p, q = torch.randn(2, 3, 7, generator=random, dtype=torch.float64)
    assert torch.autograd.gradcheck(jsd, (p.requires_grad_(), q.requires_grad_()))


# The gradient of a batch


@pytest.fixture
def student(loaded):
    student = make_student(loaded["qwen2"], None, TransformConfig(), CorrectionConfig(rank=2))
    stir(student, spread=0.02)
    student.refresh()
    return student


@pytest.mark.parametrize("chunk", [1, 7, 24, 1000])
def test_logits_in_chunks_give_the_loss_and_the_gradients_of_all_at_once(loaded, student, monkeypatch, chunk):
    # GIVEN 24 tokens, and the loss written down whole
    teacher, ids = loaded["qwen2"].model, random_ids(2, 12)
    with torch.no_grad():
        wanted = teacher(input_ids=ids, use_cache=False).logits.flatten(0, 1)
    loss = jsd(student.hidden(ids).flatten(0, 1) @ student.head().T, wanted).mean()
    loss.backward()
    expected = {name: parameter.grad for name, parameter in student.named_parameters()}
    student.zero_grad()
    # WHEN
    monkeypatch.setattr(end_to_end, "_CHUNK", chunk)
    got = backward(student, teacher, ids, "float32")
    # THEN
    assert got == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in student.named_parameters():
        off = (parameter.grad - expected[name]).abs().max()
        assert off <= 1e-4 * expected[name].abs().max(), name


def test_gradients_add_up_over_batches(loaded, student):
    teacher, first, second = loaded["qwen2"].model, random_ids(1, 12), random_ids(1, 12, seed=1)
    both = backward(student, teacher, torch.cat([first, second]), "float32")
    whole = {name: parameter.grad.clone() for name, parameter in student.named_parameters()}
    student.zero_grad()
    losses = [backward(student, teacher, ids, "float32") for ids in (first, second)]
    assert both == pytest.approx(sum(losses) / 2, rel=1e-5)
    for name, parameter in student.named_parameters():
        assert torch.allclose(parameter.grad / 2, whole[name], rtol=1e-3, atol=1e-7), name


def test_a_head_that_nothing_is_learned_of_needs_no_gradient(loaded):
    # T_u alone: the head is the teacher's on its grid.
    teacher = loaded["qwen2"]
    config = TransformConfig(residual=False, keys=False, values=False)
    student = make_student(teacher, None, config, NO_CORRECTIONS)
    student.refresh()
    assert not student.head().requires_grad
    assert backward(student, teacher.model, random_ids(1, 12), "float32") > 0
    assert student.transforms.layers[0].log_up.grad.abs().max() > 0


def test_products_in_bfloat16_are_close_to_those_in_float32(loaded, student):
    teacher, ids = loaded["qwen2"].model, random_ids(2, 12)
    exact = backward(student, teacher, ids, "float32")
    student.zero_grad()
    assert backward(student, teacher, ids, "bfloat16") == pytest.approx(exact, rel=0.2)
    assert all(torch.isfinite(parameter.grad).all() for parameter in student.parameters())


def test_divergence_is_the_mean_loss_of_a_token(loaded, student, monkeypatch):
    texts = random_ids(3, 12).numpy()
    losses = [backward(student, loaded["qwen2"].model, torch.from_numpy(t)[None], "float32") for t in texts]
    for chunk in (5, 256):
        monkeypatch.setattr(end_to_end, "_CHUNK", chunk)
        got = divergence(student, loaded["qwen2"].model, texts, "float32")
        assert got == pytest.approx(sum(losses) / 3, rel=1e-4)


# Training


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A teacher whose feed-forward has channels of different size: T_u evens them out, T_r blurs them."""
    weights, rng = random_weights(QWEN2, 11), np.random.default_rng(0)
    for n in range(QWEN2.layers):
        sizes = np.exp(rng.standard_normal(QWEN2.ff)).astype(np.float32)
        weights[f"blk.{n}.ffn_up.weight"] *= sizes[:, None]
        weights[f"blk.{n}.ffn_down.weight"] /= sizes
    folder = tmp_path_factory.mktemp("uneven")
    return load(write_gguf(folder / "uneven.gguf", QWEN2, weights), folder)


@pytest.mark.parametrize(
    ("transforms", "corrections", "rates", "share"),
    [
        (NO_TRANSFORMS, CorrectionConfig(rank=2), {"corrections_rate": 3e-3}, 0.7),
        (replace(NO_TRANSFORMS, up=True), NO_CORRECTIONS, {"transforms_rate": 3e-2}, 0.9),
        (replace(NO_TRANSFORMS, residual=True), NO_CORRECTIONS, {"rotation_rate": 3e-3}, 0.9),
    ],
    ids=["corrections", "up", "rotation"],
)
def test_training_lowers_the_loss(uneven, tmp_path, transforms, corrections, rates, share):
    # The same texts in every step.
    rates = {"transforms_rate": 0.0, "rotation_rate": 0.0, "corrections_rate": 0.0} | rates
    config = EndToEndConfig(steps=50, windows=4, window_tokens=24, warmup=0.0, refresh_steps=5, **rates)
    windows = np.tile(random_ids(4, 24).numpy(), (50, 1))
    torch.manual_seed(0)
    student = make_student(uneven, None, transforms, corrections)
    _, finished, told = run(uneven, config, tmp_path / "c", student=student, windows=windows)
    assert finished
    assert [(report.step, report.steps) for report in told] == [(n, 50) for n in range(1, 51)]
    assert np.mean([report.loss for report in told[-5:]]) < share * told[0].loss
    assert all(report.grad_norm > 0 for report in told)


@pytest.mark.parametrize(
    ("rate", "moved"),
    [
        ("transforms_rate", {"mix", "angle", "log_scale", "log_up"}),
        ("rotation_rate", {"original"}),
        ("corrections_rate", {"log_rows", "added", "left", "right"}),
    ],
)
def test_a_rate_moves_its_own_parameters_and_no_others(loaded, tmp_path, rate, moved):
    rates = {"transforms_rate": 0.0, "rotation_rate": 0.0, "corrections_rate": 0.0, rate: 1e-2}
    config = EndToEndConfig(steps=2, **QUICK, **rates)
    student = make_student(loaded["qwen2"], None, TransformConfig(), CorrectionConfig(rank=2))
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    run(loaded["qwen2"], config, tmp_path / "c", student=student)
    for name, parameter in student.named_parameters():
        assert torch.equal(parameter, before[name]) != bool(set(name.split(".")) & moved), name


def test_rates_rise_then_fall_as_a_cosine_to_nothing(loaded, tmp_path, monkeypatch):
    # Of 20 steps a fifth warms up: ¼, ½, ¾, 1; then ½ (1 + cos(π n / 16)) for n = 0 … 15.
    expected = [0.25, 0.5, 0.75, 1.0, *(0.5 * (1 + math.cos(math.pi * n / 16)) for n in range(16))]
    seen, step = [], torch.optim.AdamW.step

    def watched(optimizer, *args, **kwargs):
        seen.append([group["lr"] for group in optimizer.param_groups])
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    rates = {"rotation_rate": 1e-4, "transforms_rate": 1e-3, "corrections_rate": 2e-3}
    run(loaded["qwen2"], EndToEndConfig(steps=20, **QUICK | {"warmup": 0.2}, **rates), tmp_path / "c")
    assert np.allclose(seen, np.outer(expected, [1e-4, 1e-3, 2e-3]), rtol=1e-9)
    assert seen[-1][0] < 0.01 * 1e-4


def test_windows_are_taken_in_their_order(loaded, tmp_path, monkeypatch):
    batches = []
    monkeypatch.setattr(end_to_end, "backward", lambda s, t, batch, d: batches.append(batch) or 1.0)
    config = EndToEndConfig(steps=3, **QUICK)
    run(loaded["qwen2"], config, tmp_path / "c")
    assert torch.equal(torch.cat(batches), torch.from_numpy(windows_for(config)))


CORRECTIONS_ONLY = {"transforms_rate": 0.0, "rotation_rate": 0.0}


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
@pytest.mark.parametrize("rates", [{}, CORRECTIONS_ONLY], ids=["all", "corrections"])
def test_a_run_that_is_stopped_and_goes_on_is_a_run_that_was_not(loaded, tmp_path, stop, rates):
    # Scales are searched anew before steps 3 and 5 (of 6): stops lie between searches and at them.
    teacher, config = loaded["qwen2"], EndToEndConfig(steps=6, **QUICK, **rates)
    whole, _, expected = run(teacher, config, tmp_path / "whole")
    _, finished, first = run(teacher, config, tmp_path / "cut", should_stop=after(stop))
    assert not finished
    assert len(first) == stop
    again, finished, second = run(teacher, config, tmp_path / "cut")
    assert finished
    assert first + second == expected
    assert same_parameters(again, whole)


def test_a_run_can_be_stopped_before_its_first_step(loaded, tmp_path):
    config = EndToEndConfig(steps=3, **QUICK)
    whole, _, _ = run(loaded["qwen2"], config, tmp_path / "whole")
    assert not run(loaded["qwen2"], config, tmp_path / "cut", should_stop=lambda: True)[1]
    assert same_parameters(run(loaded["qwen2"], config, tmp_path / "cut")[0], whole)


def test_a_run_that_ends_leaves_no_checkpoint_unless_ten_minutes_passed(loaded, tmp_path):
    run(loaded["qwen2"], EndToEndConfig(steps=2, **QUICK), tmp_path / "c")
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_is_refused_with_its_step(loaded, tmp_path):
    student = make_student(loaded["qwen2"], None, TransformConfig(), CorrectionConfig())
    with torch.no_grad():
        student.corrected.added["model/norm/weight"][3] = math.nan
    with pytest.raises(ConfigError, match="loss of step 1 is nan"):
        run(loaded["qwen2"], EndToEndConfig(steps=2, **QUICK), tmp_path / "c", student=student)


def test_nothing_to_train_is_refused(loaded, tmp_path):
    config = EndToEndConfig(steps=1, **QUICK, **CORRECTIONS_ONLY)
    student = make_student(loaded["qwen2"], None, TransformConfig(), NO_CORRECTIONS)
    with pytest.raises(ConfigError, match="trains nothing"):
        run(loaded["qwen2"], config, tmp_path / "c", student=student)
    nothing = make_student(loaded["qwen2"], None, NO_TRANSFORMS, NO_CORRECTIONS)
    with pytest.raises(ConfigError, match="trains nothing"):
        run(loaded["qwen2"], EndToEndConfig(steps=1, **QUICK), tmp_path / "c", student=nothing)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": -1},
        {"windows": 0},
        {"window_tokens": 1},
        {"refresh_steps": 0},
        {"transforms_rate": -1e-3},
        {"warmup": 1.0},
        {"warmup": -0.1},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="end_to_end"):
        EndToEndConfig(**wrong)


# Texts


def test_windows_come_from_all_texts_in_turn_until_one_is_used_up():
    # GIVEN texts of 2, 4 and 0 whole windows of 3 tokens, their tokens telling where they come from
    texts = [np.arange(8), 100 + np.arange(13), 200 + np.arange(2)]
    windows = draw_windows(texts, 3, 6, seed=1)
    # THEN each window is one of its text's, none twice, in turn and then from what is left
    assert [int(window[0]) // 100 for window in windows] == [0, 1, 0, 1, 1, 1]
    assert sorted(map(tuple, windows.tolist())) == [
        (0, 1, 2),
        (3, 4, 5),
        (100, 101, 102),
        (103, 104, 105),
        (106, 107, 108),
        (109, 110, 111),
    ]
    assert num_windows(texts, 3) == 6


def test_windows_follow_from_the_seed_and_fewer_are_the_first():
    texts = [np.arange(300), 1000 + np.arange(300)]
    many = draw_windows(texts, 5, 100, seed=3)
    assert np.array_equal(draw_windows(texts, 5, 40, seed=3), many[:40])
    assert not np.array_equal(draw_windows(texts, 5, 100, seed=4), many)


def test_too_little_text_is_refused_with_what_there_is_and_what_is_needed():
    # 10 steps of 2 windows and 4 more are 24 windows of 50 = 1,200 tokens.
    config = EndToEndConfig(steps=10, windows=2, window_tokens=50)
    require_text([np.zeros(600), np.zeros(649)], config, 4)
    with pytest.raises(ConfigError, match=r"(?=.*\b1,199 tokens)(?=.*\b1,200\b)(?=.*10 steps of 2 × 50)"):
        require_text([np.zeros(600), np.zeros(599)], config, 4)
    assert config.num_tokens == 1000
