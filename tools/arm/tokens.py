"""Asks a model one question, greedily, and prints the tokens as JSON; `emulate.py` runs it twice."""

from __future__ import annotations

import json
import platform
import re
import sys
from dataclasses import replace

import edgereason
from edgereason.engine.native import C
from edgereason.reasoning.request import make_request
from edgereason.reasoning.runs import last_response
from edgereason.records.machine import features, kernels_note

QUESTION = "What is the capital of France? Answer in one sentence."
MAX_TOKENS = 24
logged: list[str] = []


def main(path: str) -> None:
    listener = C.llama_log_callback(
        lambda _level, text, _data: logged.append((text or b"").decode("utf-8", "replace"))
    )
    C.llama_log_set(listener, None)
    with edgereason.load(path) as model:
        request = make_request(QUESTION, mode="chat", temperature=0.0, max_tokens=MAX_TOKENS)
        events = model.run(replace(request, want_logprobs=True))
        trace = last_response(events).candidates[0].trace
    repacked = re.findall(r"CPU_REPACK model buffer size = +([\d.]+)", "".join(logged))
    print(
        json.dumps(
            {
                "machine": platform.machine(),
                "kernels": kernels_note(),
                "features": features(),
                "repacked_mib": sum(map(float, repacked)),
                "text": trace.text,
                "ids": trace.token_ids,
                "logprobs": trace.logprobs,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
