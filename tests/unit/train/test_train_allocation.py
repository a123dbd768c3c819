"""What the allocator is told, seen from outside: page faults of a process that frees and allocates again."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, numpy as np
if sys.argv[1] == "keep":
    from edgereason.train.allocation import keep_freed_memory
    if not keep_freed_memory():
        print(-1); sys.exit()
def touch():
    block = np.empty(8_000_000)
    block.fill(1.0)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_that_was_freed_is_used_again_without_page_faults():
    kept = faults("keep")
    if kept < 0:
        pytest.skip("the C library is not glibc")
    assert kept < faults("plain") / 10
