"""Where a bundle's switcher sends labelled prompts: the share that goes the right way, by kind.

::

    label 0 should chat, label 1 should think     {id, prompt, label, source}; source is the kind

    python tools/study/routes.py benchmarks/prompts/everyday-120.jsonl --bundle DIR -o routes.json

Prompts are read as `edgereason ask` reads them, and nothing is answered. Without `--bundle` it is the bundle
that comes with the package.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import edgereason
from edgereason.bundles.calibrate import probabilities
from edgereason.core.bundle import Bundle
from edgereason.core.types import Request
from edgereason.data.questions import label_of, prompt_of
from edgereason.data.rows import read_file
from edgereason.heads.file import read_heads
from edgereason.heads.reliability import auroc
from edgereason.hub.catalog import bundle_folder
from edgereason.hub.pull import resolve
from edgereason.records.folder import about, file_entry, source_entry


def routes(prompts: Path, folder: Path, base: Path, threads: int | None) -> dict[str, Any]:
    """The record: every prompt's probability, and shares that go the right way."""
    rows = read_file(prompts)
    bundle = Bundle.read(folder)
    assert bundle.heads is not None
    heads = folder / bundle.heads.file
    switcher = read_heads(heads).switcher
    assert switcher is not None
    with edgereason.load(folder, base=base, threads=threads) as model:
        said = probabilities(model, [Request(messages=prompt_of(row)) for row in rows.rows])
    assert said is not None
    found = [
        {"id": row.text("id"), "kind": row.text("source"), "label": int(label_of(row)), "p_think": p}
        for row, p in zip(rows.rows, said, strict=True)
        if p is not None
    ]
    right: dict[str, list[bool]] = defaultdict(list)
    for one in found:
        is_right = (one["p_think"] >= switcher.threshold) == bool(one["label"])
        for group in ("all", f"label {one['label']}", one["kind"]):
            right[group].append(is_right)
    return {
        "format": "edgereason-routes",
        "data": source_entry(rows),
        "base": bundle.base.sha256,
        "heads": file_entry(heads),
        "threshold": switcher.threshold,
        "auroc": auroc([one["p_think"] for one in found], [bool(one["label"]) for one in found]),
        "right": {group: {"n": len(of), "share": sum(of) / len(of)} for group, of in right.items()},
        "prompts": found,
        **about(threads),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--base", default="qwen2.5-coder-0.5b-w4")
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    record = routes(given.prompts, bundle_folder(given.bundle), resolve(given.base), given.threads)
    given.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    right = record["right"]
    print(f"{right['all']['share']:.1%} of {right['all']['n']} go the right way, AUROC {record['auroc']:.3f}")
    for group, of in right.items():
        print(f"  {of['share']:6.1%} of {of['n']:3}  {group}")


if __name__ == "__main__":
    main()
