"""A bundle's adapter for llama.cpp's server: an activated LoRA, and a chat template that opens thinking.

::

    FOLDER/
      reasoning.gguf       the adapter as it ships: `adapter.alora.invocation_tokens` turns it on
      chat_template.jinja  the base's template, and the opening behind the generation prompt
      README.md            the command, and what the server does otherwise than edgereason

The server looks for the ids in the prompt, which it tokenizes as one text. Whether it will find them is tried
here with the base's vocabulary.

Source: llama.cpp's `tools/server/server-context.cpp` and `src/llama-adapter.cpp`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from edgereason.core.bundle import Bundle, temporary_folder_beside, write_atomically
from edgereason.core.chat import OPENING, ChatTemplate
from edgereason.core.template import render
from edgereason.core.types import Message
from edgereason.engine.llama import LlamaEngine
from edgereason.errors import BundleError
from edgereason.quant.adapter_file import read_adapter_info, require_fit
from edgereason.quant.gguf_file import GgufModel
from edgereason.records.folder import file_entry

ADAPTER: Final = "reasoning.gguf"
TEMPLATE: Final = "chat_template.jinja"
README: Final = "README.md"
_QUESTION: Final = "What is 2+2?"

_TEXT: Final = """# {title} for llama.cpp's server

```
llama-server -m {base} --lora {adapter} --jinja --chat-template-file {template}
```

- The base is `{base}`, SHA-256 `{sha256}`.{origin}
- `{adapter}` is an activated LoRA: the server leaves it off on the prompt up to the ids {ids}, `{opening}`.
- `{template}` ends in them, so that every answer thinks. Without `--chat-template-file`, the server finds no
  ids, and answers by the base alone.
- The server adapts one token earlier than edgereason, and knows neither budgets nor votes, nor the switcher.
"""


def export_adapter_for_server(bundle: Bundle, base: Path, folder: Path) -> dict[str, Any]:
    """Exports a bundle's adapter for llama.cpp's server, whole or not at all.

    Args:
        bundle: with an adapter.
        base: its base's file.
        folder: of the export; must be new.

    Returns:
        The files, by name.

    Raises:
        BundleError: there is no adapter, it does not fit, or the server would not find its ids.
    """
    if bundle.adapter is None:
        raise BundleError(f"{bundle.title} has no adapter: there is nothing to export for llama.cpp's server")
    if folder.exists():
        raise BundleError(f"{folder} is there already: give a new folder (-o)")
    source = bundle.verified_file(bundle.adapter)
    info, model = read_adapter_info(source), GgufModel(base)
    require_fit(info, model)
    if info.invocation != bundle.opening_ids:
        raise BundleError(
            f"the adapter says that the ids {list(info.invocation)} turn it on, and the bundle "
            f"{list(bundle.opening_ids)}: get the bundle again"
        )
    with LlamaEngine(base) as engine:
        template = opening_template(engine, bundle.opening_ids)
    origin = model.checkpoint
    called = " at ".join(filter(None, (origin.name, origin.revision))) if origin else ""
    try:
        with temporary_folder_beside(folder) as partial:
            shutil.copyfile(source, partial / ADAPTER)
            write_atomically(partial / TEMPLATE, template)
            text = _TEXT.format(
                title=bundle.title,
                base=base.name,
                sha256=bundle.base.sha256,
                origin=f" It was made of the checkpoint {called}, {origin.sha256}." if origin else "",
                adapter=ADAPTER,
                template=TEMPLATE,
                ids=list(bundle.opening_ids),
                opening=json.dumps(OPENING)[1:-1],
            )
            write_atomically(partial / README, text)
            return {"files": {path.name: file_entry(path) for path in sorted(partial.iterdir())}}
    except OSError as error:
        raise BundleError(f"{folder} can't be written: {error.strerror or error}") from error


def opening_template(engine: LlamaEngine, opening_ids: tuple[int, ...]) -> str:
    """The engine's chat template with the opening behind it, unless it opens thinking itself.

    Raises:
        BundleError: a prompt that the server tokenizes would not end in these ids.
    """
    info = engine.info
    own = ChatTemplate(info.chat_template, info.bos_text, info.eos_text, add_bos=info.add_bos)
    source = info.chat_template
    if not own.opens_thinking([Message("user", _QUESTION)]):
        opening = json.dumps(OPENING)
        source = source.removesuffix("\n") + "{% if add_generation_prompt %}{{ " + opening + " }}{% endif %}"
    rendered = render(
        source,
        messages=[{"role": "user", "content": _QUESTION}],
        add_generation_prompt=True,
        bos_token=info.bos_text,
        eos_token=info.eos_text,
    )
    ids = tuple(engine.tokenize(rendered, special=True))
    if ids[-len(opening_ids) :] != opening_ids:
        raise BundleError(
            f"llama.cpp's server would not find the ids {list(opening_ids)} that turn the adapter on: a "
            "prompt "
            f"ends in {list(ids[-len(opening_ids) :])}, as its tokenizer joins the opening and what is "
            "before it"
        )
    return source
