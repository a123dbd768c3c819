"""Pre-optimisation without data: weights become more even, and the function stays."""

from __future__ import annotations

import pytest
import torch
from tiny_gguf import QWEN2, learned_for, random_weights, write_gguf
from tiny_torch import distance, hf_model, load, logits, make_student, random_ids

from edgereason.errors import ConfigError
from edgereason.quant.merge import Merge
from edgereason.train.quant.end_to_end import LocalConfig, pre_optimise, unevenness
from edgereason.train.quant.transforms import TransformConfig

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A teacher with channels far larger than the others, as language models have them."""
    weights = random_weights(QWEN2, 11)
    for values in weights.values():
        if values.ndim == 2:
            values[:, 3] *= 4
            values[5] *= 2
    folder = tmp_path_factory.mktemp("uneven")
    return load(write_gguf(folder / "uneven.gguf", QWEN2, weights), folder), weights


def full_sum(teacher, student):
    """Σ over all matrices (mean |W|⁴)^¼, by the definition, from the merged layers."""
    with torch.no_grad():
        q = student.transforms.q()
        total = 0.0
        for layer, transforms in zip(teacher.model.model.layers, student.transforms.layers, strict=True):
            merged = transforms.merged({n: p.detach() for n, p in layer.named_parameters()}, q)
            matrices = [w for name, w in merged.items() if name.split(".")[-2] in LINEARS and w.ndim == 2]
            assert len(matrices) == 7
            total += sum(float((w.double() ** 4).mean() ** 0.25) for w in matrices)
        embedding, head = (m.weight for m in (teacher.model.model.embed_tokens, teacher.model.lm_head))
        if q is not None:
            embedding, head = embedding @ q, (head * teacher.model.model.norm.weight) @ q
        return total + sum(float((w.double() ** 4).mean() ** 0.25) for w in (embedding, head))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, -1.0, 1.0, -1.0], 1.0),
        ([2.0, 0.0, 0.0, 0.0], 2**0.5),  # (16 / 4)^¼
        ([[3.0, 3.0], [-3.0, 3.0]], 3.0),
    ],
)
def test_unevenness_is_the_fourth_power_mean(values, expected):
    assert unevenness(torch.tensor(values)).item() == pytest.approx(expected, rel=1e-6)


def test_of_equal_energy_the_even_one_has_the_least():
    even, one = torch.full((16,), 0.25), torch.zeros(16)
    one[3] = 1.0
    assert unevenness(one) == pytest.approx(2 * unevenness(even).item())  # (1/16)^¼ = ½ and ¼


@pytest.mark.parametrize("start", ["hadamard", "identity"])
def test_weights_become_more_even_and_the_function_stays(uneven, start):
    # GIVEN
    teacher, weights = uneven
    student = make_student(teacher, None, TransformConfig(start=start))
    before, told = full_sum(teacher, student), []
    # WHEN
    pre_optimise(student, LocalConfig(steps=40, layers=2), 0, lambda *f: told.append(f), never)
    # THEN
    after = full_sum(teacher, student)
    assert after < 0.97 * before
    assert [step for step, _ in told] == list(range(1, 41))
    merge = Merge(teacher.file, learned_for(teacher.path, student.learned()))
    merged = {name: merge.tensor(name) for name in teacher.file.names}
    ids = random_ids(2, 20)
    expected = logits(hf_model(QWEN2, weights), ids)
    assert distance(logits(hf_model(QWEN2, merged), ids), expected) < 1e-4


def test_what_is_told_is_the_sum_when_nothing_is_left_to_chance(uneven):
    # Both layers; a rotation off means embedding and head don't change, and are left out.
    teacher, _ = uneven
    student = make_student(teacher, None, TransformConfig(residual=False))
    outside = sum(
        float(unevenness(m.weight)) for m in (teacher.model.model.embed_tokens, teacher.model.lm_head)
    )
    expected, told = full_sum(teacher, student) - outside, []
    pre_optimise(student, LocalConfig(steps=1, layers=2), 0, lambda *f: told.append(f), never)
    assert told == [(1, pytest.approx(expected, rel=1e-5))]


def test_a_sample_of_layers_has_the_sum_as_its_mean(uneven):
    # One of two layers, doubled: the mean of both draws is the sum of both layers.
    teacher, _ = uneven
    student = make_student(teacher, None, TransformConfig(residual=False))
    both = student.unevenness(unevenness, 2, 1, torch.Generator()).item()
    seen = {
        round(student.unevenness(unevenness, 1, 1, torch.Generator().manual_seed(s)).item(), 3)
        for s in range(20)
    }
    assert len(seen) == 2
    assert sum(seen) / 2 == pytest.approx(both, rel=1e-4)


def test_every_transform_is_moved(uneven):
    student = make_student(uneven[0], None, TransformConfig())
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    pre_optimise(student, LocalConfig(steps=2, layers=2), 0, lambda *f: None, never)
    for name, parameter in student.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_the_same_seed_gives_the_same_and_another_another(uneven):
    def outcome(seed):
        student = make_student(uneven[0], None, TransformConfig())
        pre_optimise(student, LocalConfig(steps=4, layers=1), seed, lambda *f: None, never)
        return torch.cat([parameter.detach().flatten() for parameter in student.parameters()])

    assert torch.equal(outcome(3), outcome(3))
    assert not torch.equal(outcome(3), outcome(4))


def test_it_stops_when_told_and_does_nothing_in_no_steps(uneven):
    student = make_student(uneven[0], None, TransformConfig())
    told = []
    pre_optimise(student, LocalConfig(steps=0), 0, lambda *f: told.append(f), never)
    assert not told
    pre_optimise(
        student, LocalConfig(steps=10, layers=1), 0, lambda *f: told.append(f), lambda: len(told) == 3
    )
    assert len(told) == 3


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"learning_rate": 0.0}, {"layers": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="local"):
        LocalConfig(**wrong)
