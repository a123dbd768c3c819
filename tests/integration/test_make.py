"""`edgereason make` on the recipe of the tutorial, from the smallest model to a bundle."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgereason.core.bundle import Bundle

pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(5400)]

RECIPE = Path(__file__).parents[2] / "configs" / "make-smollm2-135m.toml"
NAME = "smollm2-135m-sums"
MOST_S = 20 * 60
KILLS = 5


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The command, with what it says in a file beside the folder."""
    command = [sys.executable, "-m", "edgereason", "make", str(RECIPE), "-o", str(folder)]
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def parts(folder: Path) -> dict[str, str]:
    """What the bundle answers with, by hash."""
    return {part.file: part.sha256 for part in Bundle.read(folder / NAME).parts}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> tuple[Path, float]:
    """A folder that was made in one go, and the seconds that it took."""
    folder, start_s = tmp_path_factory.mktemp("make") / "whole", time.monotonic()
    assert start(folder).wait() == 0, folder.with_suffix(".log").read_text()
    return folder, time.monotonic() - start_s


def test_the_recipe_of_the_tutorial_ends_in_twenty_minutes(whole: tuple[Path, float]) -> None:
    folder, seconds = whole
    assert seconds < MOST_S  # on two cores without other work
    record: dict[str, Any] = json.loads((folder / "record.json").read_text())
    assert {one["standing"] for one in record["stages"].values()} == {"finished"}
    checks = subprocess.run(
        [sys.executable, "-m", "edgereason", "bundle", "verify", str(folder / NAME)],
        capture_output=True,
        text=True,
        check=True,  # the base is found by its hash
    )
    assert all(line.startswith("ok ") for line in checks.stdout.splitlines()), checks.stdout


def test_a_run_that_is_killed_five_times_makes_the_same_bundle(whole: tuple[Path, float]) -> None:
    folder, seconds = whole
    killed = folder.with_name("killed")
    dice, num_kills = random.Random(1), 0
    while num_kills < KILLS:
        process = start(killed)
        try:
            process.wait(dice.uniform(0.1, 0.3) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            num_kills += 1
        else:
            break  # done before the fifth
    assert num_kills >= 3
    assert start(killed).wait() == 0, killed.with_suffix(".log").read_text()
    assert parts(killed) == parts(folder)
