"""The files beside the graphs that other runtimes read: tokenizer, templates, GENIE's and GenieX's settings.

::

    tokenizer.json, tokenizer_config.json    Hugging Face's forms; the latter has the chat template
    genie_config.json                        a dialog of Qualcomm's GENIE SDK (`genie-t2t-run -c`)
    metadata.json                            what GenieX asks of a folder (`geniex pull --local-path`)

GENIE runs context binaries, which Qualcomm's tools make of the graphs and the encodings for one chip:
`CONTEXT_BINARY` is the name that the settings expect. The adapter's strength is the input `lora_alpha`
(`GenieDialog_setLoraStrength`).

Source: Qualcomm AI Hub's `create_genie_config`, and GenieX's model manager. Not tried on a device.
"""

from __future__ import annotations

from typing import Any, Final

from edgereason.export.graph import SWITCH
from edgereason.export.tokenizer import tokenizer_json
from edgereason.quant.gguf_file import GgufModel

CONTEXT_BINARY: Final = "decoder.bin"
THINK: Final = "think"
"""What GENIE calls the adapter."""


def tokenizer_files(model: GgufModel) -> dict[str, dict[str, Any]]:
    """Contents of the tokenizer's files, by name.

    Raises:
        ModelFileError: the vocabulary is of a kind that is not known here.
    """
    tokens = model.value("tokenizer.ggml.tokens")
    texts = {
        f"{role}_token": str(tokens[int(id_)])
        for role in ("bos", "eos")
        if (id_ := model.value(f"tokenizer.ggml.{role}_token_id")) is not None
    }
    return {
        "tokenizer.json": tokenizer_json(model),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": bool(model.value("tokenizer.ggml.add_bos_token", False)),
            "chat_template": model.text("tokenizer.chat_template"),
            "model_max_length": model.dims.context_length,
            **texts,
        },
    }


def genie_files(model: GgufModel, name: str, context: int, *, has_adapter: bool) -> dict[str, dict[str, Any]]:
    """Contents of the files that GENIE and GenieX read, by name.

    Args:
        model: the base.
        name: of the bundle.
        context: that the graphs were made for.
        has_adapter: whether they have one.
    """
    dims = model.dims
    binary: dict[str, Any] = {"version": 1, "ctx-bins": [CONTEXT_BINARY]}
    if has_adapter:
        adapter = {"version": 1, "name": THINK, "alphas": [SWITCH], "bin-sections": []}
        binary["lora"] = {"version": 1, "alpha-tensor-name": SWITCH, "adapters": [adapter]}
    htp = {
        "version": 1,
        "use-mmap": True,
        "spill-fill-bufsize": 0,
        "mmap-budget": 0,
        "poll": True,
        "cpu-mask": "0xe0",
        "kv-dim": dims.head_dim,
        "pos-id-dim": dims.head_dim // 2,
        "allow-async-init": False,
        "rope-theta": int(dims.rope_base),
    }
    eos = int(model.value("tokenizer.ggml.eos_token_id", -1))
    dialog = {
        "version": 1,
        "type": "basic",
        "context": {
            "version": 1,
            "size": context,
            "n-vocab": dims.vocab_size,
            "bos-token": int(model.value("tokenizer.ggml.bos_token_id", eos)),
            "eos-token": eos,
        },
        "sampler": {"version": 1, "seed": 42, "temp": 0.7, "top-k": 40, "top-p": 0.95},
        "tokenizer": {"version": 1, "path": "tokenizer.json"},
        "engine": {
            "version": 1,
            "n-threads": 3,
            "backend": {
                "version": 1,
                "type": "QnnHtp",
                "QnnHtp": htp,
                "extensions": "htp_backend_ext_config.json",
            },
            "model": {"version": 1, "type": "binary", "binary": binary},
        },
    }
    return {
        "genie_config.json": {"dialog": dialog},
        "metadata.json": {"name": name, "genie": {"supports_vision": False}},
    }
