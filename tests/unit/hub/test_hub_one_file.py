"""Models of several files: a checkpoint's folder or repository, converted once and named by what is in it."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint

import edgereason
from edgereason.core.bundle import Base, Bundle, file_sha256
from edgereason.errors import BundleError, ModelFileError, PullError
from edgereason.hub.pull import base_file, resolve
from edgereason.hub.snapshot import repository_of
from edgereason.quant.gguf_file import Checkpoint, GgufModel

REVISION = "c0ffee" + "0" * 34


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "my-llama")


def made(cache: Path) -> list[str]:
    """Files of the cache's folder of conversions, but locks and fingerprints."""
    found = (path for path in (cache.parent / "gguf").rglob("*") if path.is_file())
    return sorted(path.name for path in found if path.suffix != ".lock" and not path.name.startswith("."))


def test_a_folder_is_converted_once_and_answers(folder: Path, cache: Path) -> None:
    # WHEN it is asked for twice
    notices: list[str] = []
    shares: list[float] = []
    path = resolve(
        str(folder), notice=notices.append, progress=lambda s: shares.append(s.done_bytes / s.total_bytes)
    )
    written = path.stat().st_mtime_ns
    assert resolve(str(folder), notice=notices.append) == path
    # THEN
    assert notices == [f"converting my-llama to GGUF, once: {path}"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert path.stat().st_mtime_ns == written
    assert made(cache) == ["checkpoint.json", "my-llama.gguf"]
    assert sorted(file.name for file in folder.iterdir()) == [
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ]
    with edgereason.load(folder) as model:
        assert model.ask("Hi", mode="chat", max_tokens=4).usage.prompt_tokens == 21


def test_a_copy_under_another_name_is_the_same_file(folder: Path, tmp_path: Path, cache: Path) -> None:
    path = resolve(str(folder))
    shutil.copytree(folder, tmp_path / "copy")
    assert resolve(str(tmp_path / "copy")) == path
    # A change of the template makes another base.
    config = tmp_path / "copy" / "tokenizer_config.json"
    config.write_text(config.read_text().replace("assistant", "model"))
    assert resolve(str(tmp_path / "copy")) != path
    assert made(cache) == ["checkpoint.json", "checkpoint.json", "copy.gguf", "my-llama.gguf"]


def test_a_snapshot_of_the_hub_is_known_by_its_revision(folder: Path, tmp_path: Path) -> None:
    resolve(str(folder))  # as a folder without a revision first
    place = tmp_path / "hub" / "models--maker--My-Llama" / "snapshots" / REVISION
    shutil.copytree(folder, place)
    origin = GgufModel(resolve(str(place))).checkpoint
    assert origin is not None
    assert (origin.name, origin.revision) == ("maker/My-Llama", REVISION)
    # What stands beside a file counts for its own checkpoint alone.
    assert Checkpoint.read(resolve(str(place)).parent, "ab" * 32) == Checkpoint(sha256="ab" * 32)


def test_a_bundle_whose_base_was_converted_fetches_its_checkpoint_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a machine that has not seen the base
    path, asked = resolve(str(folder)), list[str]()
    monkeypatch.setattr("edgereason.hub.pull.remembered_base", lambda sha256: None)
    base = Base(
        name=path.name, sha256=file_sha256(path), arch="llama", hidden_size=32, num_layers=1, vocab_sha256=""
    )
    origin = {"sha256": "ab" * 32, "name": "maker/My-Llama", "revision": REVISION}
    made = Bundle(folder=tmp_path, base=base, opening_ids=(1,), closing="", provenance={"checkpoint": origin})
    # THEN
    assert base_file(made, lambda name: asked.append(name) or path) == path
    assert asked == [f"maker/My-Llama@{REVISION}"]
    for provenance in ({"checkpoint": origin, "base": {}}, {"checkpoint": {"sha256": "ab" * 32}}, {}):
        with pytest.raises(BundleError, match="known on this machine"):
            base_file(replace(made, provenance=provenance), Path)


def test_what_is_refused_leaves_nothing_in_the_cache(folder: Path, cache: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelFileError, match=r"lacks tokenizer.json"):
        resolve(str(folder))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFileError, match="can run code when it is loaded"):
        resolve(str(folder))
    assert made(cache) == []


def test_two_processes_make_one_file(folder: Path, cache: Path) -> None:
    code = f"from edgereason.hub.pull import resolve; print(resolve({str(folder)!r}, notice=print))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert "".join(said).count("converting my-llama") == 1
    assert len({text.splitlines()[-1] for text in said}) == 1
    assert made(cache) == ["checkpoint.json", "my-llama.gguf"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", ("Qwen/Qwen2.5-7B-Instruct", None)),
        ("Qwen/Qwen3-4B@abc123", ("Qwen/Qwen3-4B", "abc123")),
        ("maker/tiny@refs/pr/1", ("maker/tiny", "refs/pr/1")),
        ("maker/tiny.gguf", None),
        ("qwen", None),
        ("/abs/path", None),
        ("a/b/c", None),
        ("./a", None),
        ("../a", None),
    ],
)
def test_names_of_repositories_and_paths(name: str, expected: object) -> None:
    assert repository_of(name) == expected


def test_a_path_whose_folder_is_there_is_never_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(PullError, match="'models/mine' is neither a file nor a known model"):
        resolve("models/mine")


def test_without_huggingface_hub_only_names_of_repositories_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PullError, match=r"pip install 'edgereason\[hub\]'; a folder that holds the"):
        resolve("maker/My-Llama")
    resolve(str(folder))


# ── the hub, as huggingface_hub speaks to it: in another process, which reads its address when it begins ──


@pytest.fixture
def files_hub(folder: Path) -> Iterator[str]:
    """A server of one repository's files; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(has_body=False)

        def do_GET(self) -> None:
            self.answer(has_body=True)

        def answer(self, *, has_body: bool) -> None:
            path = self.path.partition("?")[0]
            names = [*(file.name for file in folder.iterdir()), "consolidated.safetensors", "model.bin"]
            code, body, name = 404, b"{}", path.rpartition("/")[2]
            if path.startswith("/api/models/maker/My-Llama/tree/"):
                found = [one for one in names if (folder / one).is_file()]
                entries = [
                    {"type": "file", "oid": one, "size": (folder / one).stat().st_size, "path": one}
                    for one in found
                ]
                code, body = 200, json.dumps(entries).encode()
            elif path.startswith("/api/models/maker/My-Llama"):
                siblings = [{"rfilename": one} for one in names]
                about = {"_id": "1", "id": "maker/My-Llama", "sha": REVISION, "siblings": siblings}
                code, body = 200, json.dumps(about).encode()
            elif path == f"/maker/My-Llama/resolve/{REVISION}/{name}" and (folder / name).is_file():
                code, body = 200, (folder / name).read_bytes()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("ETag", f'"{name}"')
            self.end_headers()
            if has_body:
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask_for(name: str, endpoint: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from edgereason.cli.main import main\n"
        f"sys.argv = ['edgereason', 'ask', 'Hi', '--model', {name!r}, '--mode', 'chat', '--max-tokens', "
        "'4']\nmain()"
    )
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    environment = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250, check=False)


@pytest.mark.torch  # huggingface_hub comes with transformers
def test_a_repository_of_the_hub_is_fetched_once_and_found_without_the_hub(
    files_hub: str, tmp_path: Path, cache: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    # WHEN it is asked; then without the hub
    first = ask_for("maker/My-Llama", files_hub, tmp_path)
    again = ask_for(f"maker/My-Llama@{REVISION}", "http://127.0.0.1:9", tmp_path)
    # THEN
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert f"fetching maker/My-Llama at {REVISION}" in first.stderr
    assert "converting maker/My-Llama to GGUF" in first.stderr
    assert "taken from huggingface_hub's cache" in again.stderr
    assert "converting" not in again.stderr
    assert made(cache) == ["My-Llama.gguf", "checkpoint.json"]
    fetched = {path.name for path in (tmp_path / "hf").rglob("*") if path.suffix in (".bin", ".safetensors")}
    assert fetched == {"model.safetensors"}
    origin = next((cache.parent / "gguf").rglob("checkpoint.json")).read_text()
    assert json.loads(origin) | {"sha256": ""} == {
        "sha256": "", "name": "maker/My-Llama", "revision": REVISION
    }  # fmt: skip
    # AND what the hub does not have is refused in a line
    unknown = ask_for("maker/unknown", files_hub, tmp_path)
    assert unknown.returncode == 1
    assert "can't fetch maker/unknown from the hub" in unknown.stderr
    assert "Traceback" not in unknown.stderr
