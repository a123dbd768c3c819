"""The bundle that comes with this package: what answers where no model is named.

Adapter and heads are inside; the base is one of the catalogue and is pulled or made when it is first needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

DEFAULT_BUNDLE: Final = Path(__file__).parent / "bundles" / "qwen2.5-coder-0.5b-think"


def bundle_folder(named: str | Path | None) -> Path:
    """The folder that is named; the default bundle's if none is, or if it is called by its name."""
    folder = Path(named or DEFAULT_BUNDLE)
    return DEFAULT_BUNDLE if str(folder) == DEFAULT_BUNDLE.name and not folder.is_dir() else folder
