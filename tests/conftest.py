"""What several test folders need: lanes, a worker's cores, the small real model, and engines over it.

Lanes: `make test` runs all that is not marked slow. `make test-fast` is `pytest --fast`: what needs no model
and no torch, where neither can be had. A test that needs one of them and is not left out fails there.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from edgereason.bench.files import write_random_adapter
from edgereason.engine.llama import LlamaEngine
from edgereason.hub.pull import resolve
from shallow_model import write_shallow

# A loaded machine takes longer over an example, which says nothing of what is tested.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

TORCH = ("torch", "transformers", "trl", "peft", "accelerate")
NEED_TORCH = (
    *("parity", "unit/train", "unit/quant/learn", "integration/test_heads.py"),
    *("unit/bench/test_bench_study.py", "unit/cli/test_cli_train.py", "unit/recipe"),
)
"""Where modules may import torch at their top; elsewhere a test that needs it is marked so."""
MODELS = {"smollm2", "qwen", "shallow", "real_model"}
"""Fixtures that are or need a real model; who asks for one is marked."""

# A shell's background job starts with interrupts ignored, and hands that on to every process that a test
# starts to interrupt it: tests should not depend on how they were started.
signal.signal(signal.SIGINT, signal.default_int_handler)


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="Leave out what needs a model or torch.")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: a core each, but two gigabytes each, too."""
    return min(len(usable_cores()) or os.cpu_count() or 1, 4)


def pytest_configure(config: pytest.Config) -> None:
    # Each worker of `pytest -n` keeps to its share of the cores. Native threads spin while they wait for each
    # other: as many as there are cores in each of the workers would slow all down, several times.
    worker, count = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    if worker and (cores := usable_cores()):
        os.sched_setaffinity(0, cores[int(worker.removeprefix("gw")) % len(cores) :: int(count)])
    if config.getoption("--fast"):
        sys.modules.update(dict.fromkeys(TORCH))  # an import of one of them fails
        os.environ["EDGEREASON_CACHE"] = f"{os.devnull}/cache"  # no model is there, and none can be put there


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.failed and collector.config.getoption("--fast") and isinstance(collector, pytest.Module):
        place = collector.path.relative_to(Path(__file__).parent).as_posix()
        is_torch = any(f"import of {name} halted" in str(report.longrepr) for name in TORCH)
        if is_torch and place.startswith(NEED_TORCH):
            report.outcome, report.longrepr = "skipped", (str(collector.path), 0, "Skipped: needs torch")
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if MODELS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.model)
    if config.getoption("--fast"):
        needing = [
            item for item in items if item.get_closest_marker("model") or item.get_closest_marker("torch")
        ]
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]


def pytest_collection_finish() -> None:
    # What is imported by now stays: trainers collect garbage after each run, and would look through torch.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, pulled once (98 MB)."""
    return resolve("smollm2-135m")


@pytest.fixture(scope="session")
def shallow(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six of SmolLM2's 30 layers: real weights and vocabulary, but what it says makes no sense."""
    return write_shallow(smollm2, tmp_path_factory.mktemp("shallow") / "six-layers.gguf", layers=6)


@pytest.fixture(scope="session", params=["shallow", pytest.param("smollm2", marks=pytest.mark.slow)])
def real_model(request: pytest.FixtureRequest) -> Path:
    """For claims that hold at any depth: six layers, and the whole model among the slow tests."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def random_adapter(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LoRA on all of SmolLM2's linears; making it takes seconds, so tests copy it."""
    path = tmp_path_factory.mktemp("random") / "adapter.gguf"
    write_random_adapter(smollm2, path, rank=32, seed=1)
    return path


@pytest.fixture(scope="session")
def qwen() -> Path:
    """The default model, pulled once (491 MB); for slow tests."""
    return resolve("qwen2.5-coder-0.5b")


@pytest.fixture
def engine(smollm2: Path) -> Iterator[LlamaEngine]:
    with LlamaEngine(smollm2) as engine:
        yield engine
