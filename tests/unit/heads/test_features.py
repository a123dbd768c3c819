"""Chunk averages by hand, and their independence of how a prompt was cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgereason.errors import BundleError
from edgereason.heads.features import ALPHA, CHUNK_TOKENS, FeaturePart, Features, PromptFeatures


def constant(direction: int, tokens: int, scale: float = 1.0) -> np.ndarray:
    rows = np.zeros((tokens, 4), np.float32)
    rows[:, direction] = scale
    return rows


def features(*pushes: np.ndarray, which: Features | None = None) -> np.ndarray:
    reader = PromptFeatures(4, which)
    for states in pushes:
        reader.push(states)
    return reader.value()


def test_the_newest_chunk_weighs_alpha_and_older_ones_decay() -> None:
    # sink, a chunk of e0, a chunk of e1, a chunk of e2: ½e2 + ½(½e1 + ½e0)
    prompt = np.concatenate([constant(3, 1), constant(0, 128), constant(1, 128), constant(2, 128)])
    np.testing.assert_allclose(features(prompt), [0.25, 0.25, 0.5, 0.0], atol=1e-6)


def test_a_chunk_that_is_not_full_weighs_by_its_tokens() -> None:
    # half a chunk of e1 behind a chunk of e0: ¼e1 + ¾e0; one token of it, 1/256; a first chunk is all
    first = np.concatenate([constant(3, 1), constant(0, 128)])
    np.testing.assert_allclose(features(first, constant(1, 64)), [0.75, 0.25, 0, 0], atol=1e-6)
    np.testing.assert_allclose(features(first, constant(1, 1)), [255 / 256, 1 / 256, 0, 0], atol=1e-6)
    np.testing.assert_allclose(features(constant(3, 1), constant(1, 7)), [0, 1, 0, 0], atol=1e-6)


def test_the_last_tokens_state_stands_where_the_parts_say() -> None:
    prompt = np.concatenate([constant(3, 1), constant(0, 10), constant(1, 1, 5.0)])
    last, both = Features(parts=(FeaturePart.LAST,)), Features(parts=(FeaturePart.LAST, FeaturePart.AVERAGE))
    np.testing.assert_allclose(features(prompt, which=last), [0, 1, 0, 0])
    np.testing.assert_allclose(features(prompt, which=both), [0, 1, 0, 0, 10 / 11, 1 / 11, 0, 0], atol=1e-6)
    assert features(constant(3, 1), which=both).tolist() == [0] * 8
    assert (last.size(4), both.size(4)) == (4, 8)


def test_what_a_template_begins_with_is_left_out_however_it_comes() -> None:
    which = Features(parts=(FeaturePart.AVERAGE, FeaturePart.LAST), skipped_tokens=5)
    expected = [0, 1, 0, 0, 0, 1, 0, 0]
    for cut in (1, 3, 5, 6):
        prompt = np.concatenate([constant(0, 5), constant(1, 3)])
        assert features(prompt[:cut], prompt[cut:], which=which).tolist() == expected
    assert features(constant(0, 5), which=which).tolist() == [0] * 8


@pytest.mark.parametrize(
    "bad",
    [{"layer": -1}, {"parts": ()}, {"parts": (FeaturePart.LAST, FeaturePart.LAST)}, {"skipped_tokens": -1}],
)
def test_features_that_can_not_be_had_are_refused(bad: dict) -> None:
    with pytest.raises(BundleError):
        Features(**bad)


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
        chunk = rows[start : start + CHUNK_TOKENS]
        weight = 1 if average is None else ALPHA * len(chunk) / CHUNK_TOKENS
        average = weight * chunk.mean(axis=0) + (0 if average is None else (1 - weight) * average)
    np.testing.assert_allclose(features(prompt), average, atol=1e-5)
