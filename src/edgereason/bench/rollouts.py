"""`edgereason bench train`, second half: responses drawn on the engine against transformers in float32.

Owns the order of what is timed. Does not know how responses are drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edgereason.train.grpo.rollout import Drawn, Roller, Want
    from edgereason.train.grpo.rollout_cost import RolloutShape

BATCHES: Final = (8, 16, 32, 64)
"""Rows that torch is tried with; the quickest counts."""


def measure_rollouts(
    path: Path,
    base: PreTrainedModel,
    start: Path | None,
    shape: RolloutShape,
    rounds: int,
    threads: int,
    told: Callable[[], None],
) -> dict[str, Any]:
    """Figures of both ways: useful tokens a second, and what their ratio is made of.

    Args:
        path: of the base.
        base: the same in torch.
        start: folder of a training, or a bundle, whose adapter draws; None for the bare base.
        shape: of the draws.
        rounds: of both ways, in turns.
        threads: CPU threads.
        told: called after every round.
    """
    from edgereason.engine.llama import LlamaEngine
    from edgereason.quant.gguf_file import GgufModel
    from edgereason.reasoning.model import describe_base
    from edgereason.records.measure import interleave, timed
    from edgereason.train.grpo import rollout_cost
    from edgereason.train.lora.start import shipped, trainable

    gguf, bucket = None, None
    if start is not None:
        bundle, part = shipped(start)
        gguf = bundle.verified_file(part)
        bucket = max((one for one in bundle.buckets if one <= shape.cap_tokens), default=None)
    with LlamaEngine(path, threads=threads, shares_cells=False) as engine:
        asked = rollout_cost.wants(engine, shape, bucket)
        about_base = describe_base(engine, path)
        with nullcontext() if start is None else trainable(start, GgufModel(path), about_base) as adapter:
            on_engine, in_torch = rollout_cost.rollers(
                engine, base, shape, adapter=adapter, adapter_gguf=gguf, base_sha256=about_base.sha256
            )
        probes = rollout_cost.probes(asked)
        rows = [n for n in BATCHES if n >= shape.samples]
        tried = interleave({str(n): timed(partial(in_torch(n), probes)) for n in rows}, 1)
        best = min(rows, key=lambda n: tried.best(str(n)))
        drawn: dict[str, list[list[Drawn]]] = {}

        def case(name: str, roller: Roller, wanted: list[Want]) -> Callable[[], object]:
            def draw() -> None:
                drawn[name] = roller(wanted)

            return draw

        cases = {
            "engine": case("engine", on_engine, asked),
            "torch": case("torch", in_torch(best), asked),
            "engine_full": case("engine_full", on_engine, probes),
            "torch_full": case("torch_full", in_torch(best), probes),
        }
        samples = interleave({name: timed(action) for name, action in cases.items()}, rounds, told)
    rates = {name: rollout_cost.num_tokens(drawn[name]) / samples.best(name) for name in cases}
    lengths = [len(one.ids) for of_want in drawn["engine"] for one in of_want]
    return {
        "rollout_speedup": rates["engine"] / rates["torch"],
        "rollout_speedup_of_full_batches": rates["engine_full"] / rates["torch_full"],
        "rollout_speedup_of_utilisation": (rates["engine"] / rates["engine_full"])
        / (rates["torch"] / rates["torch_full"]),
        "rollout_tokens_per_s": rates["engine"],
        "rollout_torch_tokens_per_s": rates["torch"],
        "rollouts": {
            "torch_rows": best,
            "torch_probe_s": {n: tried.best(str(n)) for n in rows},
            "full_tokens_per_s": {"engine": rates["engine_full"], "torch": rates["torch_full"]},
            "mean_tokens": sum(lengths) / len(lengths),
            "share_whole": sum(one.is_whole for of_want in drawn["engine"] for one in of_want) / len(lengths),
            "rounds": samples.summary(),
        },
    }
