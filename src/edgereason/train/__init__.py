"""Training: examples, adapters by fine-tuning and GRPO, heads, quantized bases.

Importing any module of it loads the engine's library before torch: `engine/native.py` sets how long OpenMP's
threads spin, and torch reads that when it is imported.
"""

from edgereason.engine import native as native
