"""`edgereason models` and `edgereason pull`: what goes to stdout and what to stderr."""

from __future__ import annotations

import json

import pytest
from fake_hub import CONTENT, make_model

from edgereason.cli.models import models, pull
from edgereason.errors import PullError
from edgereason.hub import catalog
from edgereason.hub import pull as hub_pull


@pytest.fixture
def tiny(monkeypatch):
    """The catalogue is one tiny model, and it is the default."""
    model = make_model()
    for module in (catalog, hub_pull):
        monkeypatch.setattr(module, "CATALOG", (model,))
    monkeypatch.setattr(catalog, "DEFAULT_MODEL", model.name)
    return model


def test_pull_prints_the_path_alone_on_stdout(hub, tiny, cache, capsys):
    pull("tiny")
    printed = capsys.readouterr()
    assert printed.out == f"{cache / 'tiny.gguf'}\n"
    lines = printed.err.splitlines()
    assert 2 <= len(lines) <= 11, "sparse lines when stderr is no terminal"
    assert lines[-1] == "hub tiny.gguf: 1 of 1 MB"


def test_pull_without_a_name_is_the_default_model(hub, tiny, capsys):
    pull()
    assert capsys.readouterr().out.endswith("tiny.gguf\n")


def test_pull_lets_errors_through(hub, tiny):
    hub.status = 404
    with pytest.raises(PullError, match="HTTP 404"):
        pull("tiny")


def test_models_as_json_says_what_is_here(hub, tiny, cache, capsys):
    models(as_json=True)
    (before,) = json.loads(capsys.readouterr().out)
    assert (before["name"], before["path"], before["is_default"]) == ("tiny", None, True)
    assert before["mirror"] is None
    (cache).mkdir(parents=True)
    (cache / "tiny.gguf").write_bytes(CONTENT)
    models(as_json=True)
    (after,) = json.loads(capsys.readouterr().out)
    assert after["path"] == str(cache / "tiny.gguf")


def test_models_marks_the_default_and_the_model_that_only_the_mirror_has(capsys):
    models()
    lines = capsys.readouterr().out.splitlines()
    (default,) = [line for line in lines if "qwen2.5-coder-0.5b-w4 *" in line]
    assert "352 MB" in default
    (smol,) = [line for line in lines if "smollm2-135m" in line]
    assert "mirror only" in smol
