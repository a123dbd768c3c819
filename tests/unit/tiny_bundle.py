"""A base that the engine really runs, of 400 kB: random weights over the 256 bytes; and parts that fit it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tiny_gguf import Shape, random_weights, shaped_writer, write_out

from edgereason.core.bundle import file_sha256
from edgereason.core.types import Mode, Route, Stop
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.metrics import summarise
from edgereason.evals.record import open_folder, write_summary
from edgereason.evals.samples import RecordedTrace, Sample
from edgereason.heads.file import Heads, Storage, write_heads
from edgereason.heads.switcher import MlpSwitcher
from edgereason.heads.verifier import LinearVerifier, TraceFeatures
from edgereason.quant.adapter_file import AdapterGrid, Product, write_adapter
from edgereason.quant.gguf_file import GgufModel
from edgereason.records.folder import data_entry

SHAPE = Shape(arch="qwen2", vocab=259)
HIDDEN, FF = SHAPE.hidden, SHAPE.ff
OPENING = tuple(b"<think>\n")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_base(path: Path, *, seed: int = 1, context: int = 512) -> Path:
    """A two-layer Qwen2 whose tokens are bytes, the pair `ab`, and the template's two."""
    writer = shaped_writer(path, SHAPE, context=context)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*_byte_tokens(), "ab", "<|im_end|>", "<|im_start|>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    return write_out(writer, path, random_weights(SHAPE, seed))


def write_tiny_adapter(
    path: Path, base: Path, *, seed: int = 0, base_sha256: str | None = None, invocation: Any = OPENING
) -> Path:
    """A Q8_0 adapter on one linear, of rank 32."""
    random = np.random.default_rng(seed)
    a, b = (random.standard_normal(size).astype(np.float32) / 8 for size in ((32, HIDDEN), (FF, 32)))
    write_adapter(
        path,
        GgufModel(base),
        {"blk.1.ffn_up.weight": Product(a, b)},
        alpha=32.0,
        grid=AdapterGrid.Q8_0,
        base_sha256=base_sha256 or file_sha256(base),
        invocation=invocation,
    )
    return path


def write_tiny_heads(
    path: Path,
    base: Path,
    adapter: Path | None,
    *,
    seed: int = 0,
    kinds: tuple[str, ...] = ("switcher", "verifier"),
    storage: Storage = Storage.INT8,
) -> Path:
    """A switcher of wide opinions, and a verifier."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    switcher = MlpSwitcher(
        mean=normal(HIDDEN) / 100,
        std=np.full(HIDDEN, 0.05, np.float32),
        hidden_weight=normal(8, HIDDEN) / 8,
        hidden_bias=normal(8) / 8,
        output_weight=normal(1, 8),
        output_bias=normal(1),
    )
    verifier = LinearVerifier(
        mean=normal(HIDDEN),
        std=np.exp(normal(HIDDEN)),
        weight=normal(1, HIDDEN),
        bias=normal(1),
        features=TraceFeatures(behind_prompt=True),
        prompt="Right?",
        prompt_ids=(257, 10),
    )
    write_heads(
        path,
        Heads(
            base_sha256=file_sha256(base),
            adapter_sha256=file_sha256(adapter) if adapter and "verifier" in kinds else None,
            switcher=switcher if "switcher" in kinds else None,
            verifier=verifier if "verifier" in kinds else None,
            storage=storage,
        ),
    )
    return path


def write_questions(path: Path, count: int) -> Path:
    """Questions of GSM8K's form, each of another length."""
    rows = [
        {"id": f"q{n}", "question": f"{'And then? ' * n}How many are {n} pens?", "answer": str(n)}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_evaluation(
    folder: Path,
    mode: Mode,
    scores: list[float],
    *,
    base: Path,
    data: Path,
    parts: tuple[Path, ...] = (),
    tokens: int = 10,
    **settings: Any,
) -> Path:
    """The folder of a finished evaluation, by its own writers; question n scored `scores[n]`."""
    config = EvalConfig(
        task="gsm8k", mode=mode, bundle="b" if parts else None, model=None if parts else "tiny", **settings
    )
    size_bytes = sum(part.stat().st_size for part in parts)
    bundle = {"name": "b", "sha256": [file_sha256(part) for part in parts], "size_bytes": size_bytes}
    record = open_folder(
        folder,
        config,
        data=data_entry(data.name, file_sha256(data), None),
        model={"name": base.name, "sha256": file_sha256(base), "size_bytes": base.stat().st_size},
        bundle=bundle if parts else None,
    )
    route = Route.CHAT if mode is Mode.CHAT else Route.THINK
    samples = [_sample(f"q{n}", score, route, tokens) for n, score in enumerate(scores)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(one.to_json()) + "\n" for one in samples))
    write_summary(folder, config, record, summarise(samples), {"timed_samples": len(samples), "wall_s": 1.0})
    return folder


def _sample(id_: str, score: float, route: Route, tokens: int) -> Sample:
    trace = RecordedTrace(
        index=0,
        stop=Stop.NATURAL,
        thinking_tokens=tokens - 4,
        answer_tokens=4,
        answer="1",
        score=score,
        verifier_score=None,
        thinking="",
        text="1",
        token_ids=(),
    )
    return Sample(
        id=id_,
        repeat=0,
        seed=0,
        route=route,
        p_think=None,
        reference="1",
        answer="1",
        score=score,
        stop=Stop.NATURAL,
        winner=0,
        prompt_tokens=20,
        thinking_tokens=tokens - 4,
        answer_tokens=4,
        all_streams_tokens=tokens,
        kv_bytes=0,
        ttft_s=0.5,
        total_s=2.0,
        traces=(trace,),
    )


def _byte_tokens() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
