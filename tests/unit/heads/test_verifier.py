"""The verifier by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from some_heads import random_verifier

from edgereason.errors import BundleError
from edgereason.heads.base import Verifier
from edgereason.heads.verifier import LinearVerifier, TraceFeatures, TraceMean


def test_the_equation_by_hand() -> None:
    verifier: Verifier = LinearVerifier(
        mean=np.array([1, 0], np.float32),
        std=np.array([2, 4], np.float32),
        weight=np.array([[1, -2]], np.float32),
        bias=np.array([0.5], np.float32),
        features=TraceFeatures(behind_prompt=True),
        prompt="Is it right?",
        prompt_ids=(1, 2),
    )
    # (3, 4): (1, 1) → 1 − 2 + 0.5 = −0.5; (1, −4): (0, −1) → 2.5
    p = verifier.score(np.array([[3, 4], [1, -4]], np.float32))
    np.testing.assert_allclose(p, [1 / (1 + math.exp(0.5)), 1 / (1 + math.exp(-2.5))], rtol=1e-6)
    assert verifier.prompt_ids == (1, 2)


def test_each_trace_is_scored_by_itself() -> None:
    verifier = random_verifier()
    states = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    alone = np.concatenate([verifier.score(row[None]) for row in states])
    np.testing.assert_allclose(verifier.score(states), alone, rtol=1e-5)
    assert verifier.score(states[:0]).shape == (0,)


def test_what_is_read_must_be_something_and_agree_with_the_prompt() -> None:
    with pytest.raises(BundleError, match="must read something"):
        TraceFeatures()
    with pytest.raises(BundleError, match="does not read behind a prompt has 3 tokens"):
        replace(random_verifier(), features=TraceFeatures(layers=(-2,)))
    with pytest.raises(BundleError, match="reads behind a prompt has 0 tokens"):
        replace(random_verifier(), prompt_ids=())


def test_features_come_back_from_a_file_and_others_are_refused() -> None:
    features = TraceFeatures(layers=(-9, -2), behind_prompt=True)
    assert TraceFeatures.from_json(features.to_json()) == features
    assert features.num_states == 3
    for described in ({"states": "final norm"}, features.to_json() | {"more": 1}, {"mean_of_layers": []}):
        with pytest.raises(BundleError, match=r"the verifier reads features.*train it again"):
            TraceFeatures.from_json(described)


def test_a_mean_over_a_trace_does_not_depend_on_how_its_tokens_arrive() -> None:
    rows = np.random.default_rng(0).standard_normal((2, 7, 4)).astype(np.float32)
    one_by_one, at_once = TraceMean((-3, -2), 4), TraceMean((-3, -2), 4)
    assert at_once.value().tolist() == [0.0] * 8
    for layer, states in zip((-3, -2), rows, strict=True):
        for cut in (states[:1], states[1:5], states[5:]):
            one_by_one.takers[layer](cut)
        at_once.takers[layer](states)
    by_hand = np.concatenate([rows[0].mean(axis=0), rows[1].mean(axis=0)])
    np.testing.assert_allclose(at_once.value(), by_hand, rtol=1e-5)
    np.testing.assert_allclose(one_by_one.value(), by_hand, rtol=1e-5)
