"""Small heads with chosen weights, for tests."""

from __future__ import annotations

import numpy as np

from edgereason.heads.features import Features
from edgereason.heads.file import Heads, Storage
from edgereason.heads.switcher import MlpSwitcher
from edgereason.heads.verifier import LinearVerifier, TraceFeatures

BASE, ADAPTER = "b" * 64, "a" * 64
BUCKETS = (128, 256)


def random_switcher(
    seed: int = 0, size: int = 16, threshold: float = 0.5, features: Features | None = None
) -> MlpSwitcher:
    rng = np.random.default_rng(seed)
    features = features or Features()
    size = features.size(size)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return MlpSwitcher(
        mean=normal(size),
        std=np.exp(normal(size)),
        hidden_weight=normal(8, size) / 16,
        hidden_bias=normal(8),
        output_weight=normal(1, 8),
        output_bias=normal(1),
        features=features,
        threshold=threshold,
    )


def random_verifier(seed: int = 1, size: int = 16) -> LinearVerifier:
    rng = np.random.default_rng(seed)
    return LinearVerifier(
        mean=rng.standard_normal(size).astype(np.float32),
        std=np.exp(rng.standard_normal(size)).astype(np.float32),
        weight=rng.standard_normal((1, size)).astype(np.float32),
        bias=rng.standard_normal(1).astype(np.float32),
        features=TraceFeatures(behind_prompt=True),
        prompt="Is it right?",
        prompt_ids=(256, 10, 257),
    )


def both_heads(storage: Storage = Storage.F32) -> Heads:
    return Heads(
        base_sha256=BASE,
        adapter_sha256=ADAPTER,
        buckets=BUCKETS,
        switcher=random_switcher(threshold=0.3),
        verifier=random_verifier(),
        storage=storage,
    )
