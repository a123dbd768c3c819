"""Pages of mapped files that are given back: what is resident before and after, by the system's own count."""

from __future__ import annotations

import mmap
import re
import sys
from pathlib import Path

import pytest

from edgereason.engine.llama import LlamaEngine
from edgereason.engine.mapped import give_back

PAGE = mmap.PAGESIZE
PAGES = 64

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems list no mappings")


def resident_bytes(path: Path) -> int:
    """Of all mappings of a file in this process."""
    found, is_wanted = 0, False
    for line in Path("/proc/self/smaps").read_text("utf-8", "replace").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_wanted = line.endswith(f" {path}")
        elif is_wanted and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "with a blank in its name"
    path.write_bytes(bytes(number % 251 for number in range(PAGES * PAGE)))
    return path


def test_pages_are_given_back_and_come_again_with_the_same_bytes(file: Path) -> None:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        assert sum(mapping[::PAGE]) >= 0
        assert resident_bytes(file) == PAGES * PAGE
        assert give_back(file) == PAGES * PAGE
        assert resident_bytes(file) == 0
        assert mapping[:] == file.read_bytes()


def test_a_mapping_that_may_be_written_keeps_what_was_written(file: Path) -> None:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) as private:
        private[:3] = b"new"
        assert give_back(file) == 0
        assert private[:3] == b"new"


def test_a_file_that_is_not_mapped_gives_nothing(file: Path) -> None:
    assert give_back(file) == 0
    assert give_back(file.with_name("missing")) == 0


@pytest.mark.model
def test_a_loaded_model_holds_no_page_of_its_file_that_it_has_not_read_since(smollm2: Path) -> None:
    with LlamaEngine(smollm2, threads=1) as engine:
        assert resident_bytes(smollm2.resolve()) == 0
        with engine.reserve(cells=8, sequences=1):
            sequence = engine.new_sequence()
            engine.encode(sequence, engine.tokenize("One, two, three,"))
            # Weights that are used as they lie in the file are there again.
            assert resident_bytes(smollm2.resolve()) > 0
