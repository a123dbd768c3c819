"""The attack on edgereason, see `__main__.py`; it uses the tests' small models and mutations."""

import sys
from pathlib import Path

_TESTS = Path(__file__).parents[2] / "tests"
sys.path[:0] = [folder for folder in (str(_TESTS / "unit"), str(_TESTS)) if folder not in sys.path]
