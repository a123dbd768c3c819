"""Exports of tiny bundles; without onnx and onnxruntime none of this is tested."""

from __future__ import annotations

import importlib.util

if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
    collect_ignore_glob = ["test_*.py"]
