"""Chunk averages by hand, and their independence of how a prompt was cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgereason.heads.features import ALPHA, CHUNK_TOKENS, PromptFeatures


def constant(direction: int, tokens: int, scale: float = 1.0) -> np.ndarray:
    rows = np.zeros((tokens, 4), np.float32)
    rows[:, direction] = scale
    return rows


def features(*pushes: np.ndarray) -> np.ndarray:
    reader = PromptFeatures(4)
    for states in pushes:
        reader.push(states)
    return reader.value()


def test_the_newest_chunk_weighs_alpha_and_older_ones_decay() -> None:
    # sink, a chunk of e0, a chunk of e1, half a chunk of e2: ½e2 + ½(½e1 + ½e0)
    prompt = np.concatenate([constant(3, 1), constant(0, 128), constant(1, 128), constant(2, 64)])
    np.testing.assert_allclose(features(prompt), [0.25, 0.25, 0.5, 0.0], atol=1e-6)


def test_rows_count_by_direction_not_by_norm_and_the_sink_not_at_all() -> None:
    prompt = np.concatenate([constant(3, 1, 900.0), constant(0, 10, 5.0), constant(1, 10, 0.2)])
    np.testing.assert_allclose(features(prompt), [0.5, 0.5, 0.0, 0.0], atol=1e-6)


def test_nothing_read_is_zeros() -> None:
    assert not features().any()
    assert not features(constant(0, 1)).any()


@given(length=st.integers(2, 600), cuts=st.lists(st.integers(1, 599), max_size=6), seed=st.integers(0, 99))
def test_where_the_pushes_are_cut_does_not_matter(length: int, cuts: list[int], seed: int) -> None:
    prompt = np.random.default_rng(seed).standard_normal((length, 4)).astype(np.float32)
    parts = np.split(prompt, sorted({c for c in cuts if c < length}))
    np.testing.assert_allclose(features(*parts), features(prompt), atol=1e-5)
    # the definition, in float64 and all at once
    rows = prompt[1:].astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    average = None
    for start in range(0, len(rows), CHUNK_TOKENS):
        mean = rows[start : start + CHUNK_TOKENS].mean(axis=0)
        average = mean if average is None else ALPHA * mean + (1 - ALPHA) * average
    np.testing.assert_allclose(features(prompt), average, atol=1e-5)
