"""An adapter for PEFT on a model of the hub: its configuration names that model, and a card how to load it.

::

    training, or bundle ─→ FOLDER/adapter_config.json, adapter_model.safetensors, README.md ─→ hub, if asked
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from edgereason.config import load_json
from edgereason.core.bundle import MANIFEST, Bundle, temporary_folder_beside, write_atomically
from edgereason.core.chat import OPENING
from edgereason.errors import BundleError, ConfigError, PullError
from edgereason.hub.snapshot import import_hub
from edgereason.quant.gguf_file import Checkpoint, GgufModel
from edgereason.records.folder import file_entry
from edgereason.train.lora.adapters import CONFIG, INVOCATION, WEIGHTS, import_adapter
from edgereason.train.lora.run import ADAPTER, shipped

README: Final = "README.md"

_CARD: Final = """---
base_model: {hub_base}
library_name: peft
tags: [edgereason, reasoning, lora]
---

# {title}

A reasoning adapter for `{hub_base}`{revision}: PEFT's activated LoRA. It is off on the prompt, and on from
the ids {ids} on, `{opening}`.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{hub_base}"{revision_argument})
model = AutoModelForCausalLM.from_pretrained("{hub_base}"{revision_argument})
model = PeftModel.from_pretrained(model, "FOLDER_OR_REPOSITORY")

messages = [{{"role": "user", "content": "If 3 pens cost 4.50, what do 7 cost?"}}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
opening = {ids}
...                        # generate from prompt + opening
```

It was trained on the GGUF with SHA-256 `{sha256}`{origin}. Where that one is quantized, answers on
`{hub_base}` differ from those of edgereason.
"""


def export_peft(source: Path, base: Path, folder: Path, *, hub_base: str | None = None) -> dict[str, Any]:
    """Exports an adapter for PEFT, whole or not at all.

    Args:
        source: folder of a training, or a bundle.
        base: GGUF that it was trained on.
        folder: of the export; must be new.
        hub_base: OWNER/NAME or OWNER/NAME@REVISION that PEFT loads it on; None for the checkpoint that the
            base was converted from.

    Returns:
        The files, by name, and what the adapter names as its base.

    Raises:
        ConfigError: no model is named, and none is known.
        BundleError: the adapter can't be read, belongs to another base, or the folder is there.
    """
    bundle, part = shipped(source)
    model = GgufModel(base)
    name, revision = _named(hub_base, model.checkpoint, base.name)
    if folder.exists():
        raise BundleError(f"{folder} is there already: give a new folder (-o)")
    try:
        with temporary_folder_beside(folder) as partial:
            trained = source / ADAPTER
            if not (source / MANIFEST).is_file() and (trained / WEIGHTS).is_file():
                for file in (CONFIG, WEIGHTS):
                    shutil.copyfile(trained / file, partial / file)
            else:
                import_adapter(
                    bundle.verified_file(part),
                    model,
                    partial,
                    base_name=name,
                    base_sha256=bundle.base.sha256,
                    opening=bundle.opening_ids,
                )
            config = load_json((partial / CONFIG).read_text("utf-8"))
            config |= {"base_model_name_or_path": name, "revision": revision}
            write_atomically(partial / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
            write_atomically(partial / README, _card(bundle, model.checkpoint, config))
            files = {path.name: file_entry(path) for path in sorted(partial.iterdir())}
    except OSError as error:
        raise BundleError(f"{folder} can't be written: {error.strerror or error}") from error
    return {"base_model": name, "revision": revision, "files": files}


def push(folder: Path, repository: str) -> str:
    """Uploads an export to a repository of the hub, which is made if it is not there.

    Returns:
        Its address.

    Raises:
        PullError: huggingface_hub is not installed, or the hub can't be reached or refuses; the folder stays.
    """
    hub = import_hub("adapters are pushed")
    try:
        api = hub.HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # of an HTTP library that changes from release to release
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise PullError(
            f"can't push to {repository}: {reason}; the export is in {folder}, and can be uploaded later: "
            f"hf upload {repository} {folder}"
        ) from error
    return f"{api.endpoint}/{repository}"


def _named(hub_base: str | None, origin: Checkpoint | None, base_name: str) -> tuple[str, str | None]:
    """Repository and revision that PEFT loads."""
    if hub_base is not None:
        name, _, revision = hub_base.partition("@")
        return name, revision or None
    if origin is None or origin.name is None or origin.revision is None:
        raise ConfigError(
            f"it is not known which model of the hub {base_name} was made of: name it, as in "
            "--hub-base Qwen/Qwen2.5-7B-Instruct"
        )
    return origin.name, origin.revision


def _card(bundle: Bundle, origin: Checkpoint | None, config: dict[str, Any]) -> str:
    name, revision = config["base_model_name_or_path"], config["revision"]
    known = " at ".join(filter(None, (origin.name, origin.revision))) if origin else ""
    return _CARD.format(
        title=bundle.title,
        hub_base=name,
        revision=f" at `{revision}`" if revision else "",
        revision_argument=f', revision="{revision}"' if revision else "",
        ids=config[INVOCATION],
        opening=json.dumps(OPENING)[1:-1],
        sha256=bundle.base.sha256,
        origin=f", made of the checkpoint {known}, `{origin.sha256}`" if origin else "",
    )
