"""The command that measures again what a record holds, from its configuration alone.

::

    {"task": "gsm8k", "mode": "think", "limit": 200} ─→ edgereason eval gsm8k --mode think --limit 200 …

Files are named as the record names them, a bundle as BUNDLE. Knows options; does not know figures.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Final

from edgereason.evals.curves.votes import NUM_DRAWS
from edgereason.evals.evaluate import EvalConfig
from edgereason.evals.likelihood.tasks import LOGLIK_TASKS
from edgereason.evals.record import BEFORE_NAMED

BUNDLE: Final = "BUNDLE"
"""Stands for a bundle's folder in commands."""

BENCH_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "engine": ("model", "rounds", "only"),
    "switch": ("model", "rounds", "lengths", "as_is"),
    "train": (
        *("model", "rounds", "prompt_tokens", "responses", "response_tokens", "dtype", "only"),
        *("from", "samples", "cap_tokens"),
    ),
}
"""Settings of a bench that are options of its command."""

_LOGLIK_DEFAULTS: Final[Mapping[str, Any]] = {"orders": "cyclic", "shots": 0}
_NO_OPTIONS: Final = frozenset({"task", "score", "model", "bundle", "threads", "label"})

Values = Mapping[str, Any]


def eval_command(record: Values, model: str) -> str:
    """Of an evaluation of a model, or of a bundle on it; settings that are the defaults are left out."""
    config, data = record.get("config", {}), record.get("data") or {}
    is_weighed = "acc" in record
    if is_weighed and (known := LOGLIK_TASKS.get(record["task"])) and known.has_letters:
        config = {"orders": BEFORE_NAMED["orders"]} | config
    defaults = {field.name: field.default for field in fields(EvalConfig)} | dict(_LOGLIK_DEFAULTS)
    changed = {
        name: value
        for name, value in config.items()
        if name not in _NO_OPTIONS and value != defaults.get(name)
    }
    is_local = data.get("sha256") and not data.get("revision")
    return _join(
        ["edgereason", "eval", record["task"]],
        ["--score", "loglik"] if is_weighed else [],
        ["--bundle", BUNDLE] if record.get("bundle") else ["--model", model],
        ["--data", data["name"]] if is_local else [],
        _options(changed),
    )


def ppl_command(record: Values, model: str) -> str:
    """Of a text's perplexity."""
    options = {
        "model": model,
        "window": record.get("window_tokens"),
        "stride": record.get("stride_tokens"),
        "limit_tokens": record.get("limit_tokens"),
        "kv": kv if (kv := record.get("kv")) != BEFORE_NAMED["kv"] else None,
    }
    return _join(["edgereason", "eval", "ppl", record["data"]["name"]], _options(options))


def bench_command(record: Values, kind: str, model: str) -> str:
    """Of a bench of `BENCH_OPTIONS`."""
    config = record.get("config", {}) | {"model": model}
    settings = {name: config[name] for name in BENCH_OPTIONS[kind] if name in config}
    each = [option for name in settings.pop("only", []) for option in ("--only", name)]
    joined = {
        name: ",".join(map(str, value)) if isinstance(value, list) else value
        for name, value in settings.items()
    }
    return _join(["edgereason", "bench", kind], _options(joined), each, ["--json"])


def sweep_command(record: Values, run: str, *, is_cut: bool = False) -> str:
    """Of a curve from an evaluation's rows: of its votes, or at hard budgets, which cuts its traces."""
    subject = record["runs"][run]
    draws = record["votes"].get(run, {}).get("num_draws", NUM_DRAWS)
    options: dict[str, Any] = {}
    if is_cut:
        options["budgets"] = ",".join(map(str, record["budgets"][run]["budgets"]))
        data = subject.get("data") or {}
        options["data"] = data["name"] if data.get("sha256") and not data.get("revision") else None
        options["model"] = BUNDLE if subject.get("bundle") else subject["model"]["name"]
    options |= {
        "draws": draws if draws != NUM_DRAWS and not is_cut else None,
        "seed": record.get("seed") or None,
    }
    return _join(["edgereason", "eval", "sweep", run], _options(options))


def _options(settings: Values) -> list[str]:
    words: list[str] = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        if name == "stop_early" and value is False:
            words.append("--no-stop-early")
        elif value is True:
            words.append(f"--{option}")
        elif value is not None and value is not False:
            words += [f"--{option}", f"{value:g}" if isinstance(value, float) else str(value)]
    return words


def _join(*words: Iterable[str]) -> str:
    return " ".join(shlex.quote(word) for part in words for word in part)
