"""Reading files and the hub: what is read, and what a broken row is called."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
import sys
import types

import pytest

from edgereason.data import rows as rows_module
from edgereason.data.rows import Row, RowError, read_file, read_hub, stream_files, stream_hub
from edgereason.errors import ConfigError

GOOD = b'{"question": "1 + 1?", "answer": "2"}\n'


def error_of(action) -> str:
    with pytest.raises(ConfigError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_lines_are_counted_from_one_with_the_blank_ones(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\n  \r\n" + GOOD)
    rows = read_file(path)
    assert [row.number for row in rows.rows] == [1, 4]
    assert rows.rows[1].values == {"question": "1 + 1?", "answer": "2"}
    assert (rows.name, rows.revision) == ("a.jsonl", None)
    assert rows.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_text_may_hold_line_separators_that_are_no_line_ends(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "a\u2028b\x85c"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [row.text("question") for row in read_file(path).rows] == ["a\u2028b\x85c"]


def test_gzip_and_plain_give_the_same_rows_and_gzip_counts_lines_too(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD * 2)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(GOOD * 2))
    plain, zipped = read_file(tmp_path / "a.jsonl"), read_file(tmp_path / "a.jsonl.gz")
    assert [row.values for row in plain.rows] == [row.values for row in zipped.rows]
    assert zipped.rows[1].place == "a.jsonl.gz, line 2"
    assert plain.sha256 != zipped.sha256  # of the file as it lies there


def test_parquet_rows_are_counted_as_rows(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "test.parquet"
    parquet.write_table(arrow.table({"question": ["a", "b"], "choices": [["x", "y"], None]}), path)
    first, second = read_file(path).rows
    assert first.texts("choices") == ["x", "y"]
    assert error_of(lambda: second.texts("choices")).startswith("test.parquet, row 2: choices is null;")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": 1', "not JSON (Expecting ',' delimiter"),
        (b"[1]", "a list; expected one JSON object a line"),
        (b"null", "null; expected one JSON object a line"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 8 of the line"),
        (b"[" * 100_000, "not JSON ("),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, said):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD)
    assert error_of(lambda: read_file(path)).startswith(f"a.jsonl, line 3: {said}")


def test_files_that_cannot_be_read_are_named_without_their_folders(tmp_path):
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(GOOD)[:-9])
    (tmp_path / "plain.jsonl.gz").write_bytes(GOOD)
    (tmp_path / "table.csv").write_bytes(b"a,b\n")
    said = {name: error_of(lambda name=name: read_file(tmp_path / name)) for name in
            ("empty.jsonl", "cut.jsonl.gz", "plain.jsonl.gz", "table.csv")}  # fmt: skip
    assert said["empty.jsonl"] == "empty.jsonl holds no rows; expected at least one"
    assert said["cut.jsonl.gz"].startswith("cut.jsonl.gz can't be read (Compressed file ended")
    assert said["plain.jsonl.gz"].startswith("plain.jsonl.gz can't be read (Not a gzipped file")
    assert said["table.csv"].startswith("table.csv has an unknown format; expected .jsonl,")
    assert "is not a file" in error_of(lambda: read_file(tmp_path / "none.jsonl"))


def test_a_broken_parquet_file_is_named(tmp_path):
    pytest.importorskip("pyarrow.parquet")
    (tmp_path / "a.parquet").write_bytes(GOOD)
    assert error_of(lambda: read_file(tmp_path / "a.parquet")).startswith("a.parquet can't be read (")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"id": "x"}, "answer is missing; fields here: id"),
        ({"answer": None}, "answer is null; fields here: answer"),
        ({"answer": " \n"}, "answer is empty; expected a text"),
        ({"answer": 3}, "answer is a number; expected a text"),
        ({"answer": True}, "answer is true or false; expected a text"),
        ({"answer": {"a": 1}}, "answer is an object; expected a text"),
        ({"answer": "\ud800"}, "answer holds a lone surrogate; expected valid Unicode"),
    ],
)
def test_a_field_that_is_no_text_names_file_line_and_field(values, said):
    assert error_of(lambda: Row("a.jsonl", 17, values).text("answer")) == f"a.jsonl, line 17: {said}"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "tests is an empty list; expected texts"),
        ("assert True", "tests is a text; expected a list of texts"),
        (["assert True", 2], "tests[1] is a number; expected a text"),
        (["assert True", ""], "tests[1] is empty; expected a text"),
    ],
)
def test_a_list_is_checked_entry_by_entry(value, said):
    row = Row("openai/x", 3, {"tests": value})
    assert error_of(lambda: row.texts("tests")) == f"openai/x, row 3: {said}"


def test_a_row_has_a_field_only_if_it_says_something():
    row = Row("a.jsonl", 1, {"null": None, "empty": "", "blank": " ", "none": [], "zero": 0, "text": "a"})
    assert [field for field in (*row.values, "absent") if row.has(field)] == ["zero", "text"]


class Hub(list):
    """What `datasets.load_dataset` gives: records in order, with a fingerprint and what is known of files."""

    _fingerprint = "4f3c0121bdf331a5"

    def __init__(self, records, urls=()):
        super().__init__(records)
        self.info = types.SimpleNamespace(download_checksums={url: {} for url in urls})


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the package `datasets`; records what was asked of it."""
    fake = types.ModuleType("datasets")
    fake.asked, fake.gives = [], Hub([{"question": "a"}, {"question": "b"}])

    def load_dataset(path, name=None, *, split):
        fake.asked.append((path, name, split))
        if isinstance(fake.gives, Exception):
            raise fake.gives
        return fake.gives

    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return fake


def test_the_hub_is_asked_for_data_set_subset_and_split(hub):
    rows = read_hub("openai/gsm8k", config="main", split="test")
    assert hub.asked == [("openai/gsm8k", "main", "test")]
    assert [(row.place, row.text("question")) for row in rows.rows] == [
        ("openai/gsm8k, row 1", "a"),
        ("openai/gsm8k, row 2", "b"),
    ]
    assert (rows.name, rows.sha256) == ("openai/gsm8k main test", None)


def test_the_revision_is_the_commit_of_the_files_and_else_the_fingerprint(hub):
    assert read_hub("a/b", split="test").revision == "fingerprint 4f3c0121bdf331a5"
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub.gives = Hub([{"question": "a"}], urls=[f"hf://datasets/a/b@{commit}/data/test.parquet"])
    assert read_hub("a/b", split="test").revision == commit


@pytest.mark.parametrize(
    "error",
    [ConnectionError("Couldn't reach\nthe hub"), ValueError("Unknown split"), FileNotFoundError("gated")],
)
def test_what_the_hub_cannot_give_is_one_line_with_a_way_out(hub, error):
    hub.gives = error
    message = error_of(lambda: read_hub("a/b", split="test"))
    assert message.startswith("a/b test can't be had from the Hugging Face hub (")
    assert message.endswith("or give a local file instead")


def test_an_empty_split_is_an_error(hub):
    hub.gives = Hub([])
    assert error_of(lambda: read_hub("a/b", split="test")).startswith("a/b test holds no rows")


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = error_of(lambda: read_hub("a/b", split="test"))
    assert message.endswith("pip install 'edgereason[eval]'")


def read(stream):
    """Places of rows, and messages of those that can't be read."""
    return [
        str(row) if isinstance(row, RowError) else row.place
        for chunk in stream.chunks()
        for row in chunk.rows()
    ]


def test_a_stream_goes_on_behind_lines_that_are_no_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b'{"a": 1\n' + GOOD + b'{"a": "\xff"}\n\n[1]\n' + GOOD)
    assert read(stream_files(path)) == [
        "a.jsonl, line 1",
        "a.jsonl, line 2: not JSON (Expecting ',' delimiter: line 2 column 1 (char 8)); "
        "expected one object a line",
        "a.jsonl, line 3",
        "a.jsonl, line 4: not UTF-8 at byte 8 of the line; save as UTF-8",
        "a.jsonl, line 6: a list; expected one JSON object a line",
        "a.jsonl, line 7",
    ]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_line_that_memory_should_not_hold_is_left_out(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(rows_module, "_LINE_BYTES", 100)
    path = tmp_path / f"a.jsonl{suffix}"
    long = json.dumps({"question": "x" * 950}).encode() + b"\n"
    whole = GOOD + long + GOOD + long
    path.write_bytes(gzip.compress(whole) if suffix else whole)
    name = path.name
    assert read(stream_files(path)) == [
        f"{name}, line 1",
        f"{name}, line 2: longer than 100 bytes; expected a row",
        f"{name}, line 3",
        f"{name}, line 4: longer than 100 bytes; expected a row",
    ]
    assert error_of(lambda: read_file(path)).startswith(f"{name}, line 2: longer than 100 bytes")


def test_a_folder_is_its_files_in_the_order_of_their_names(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"question": ["c", "d"]}), tmp_path / "train-2.parquet")
    (tmp_path / "train-1.jsonl.gz").write_bytes(gzip.compress(GOOD))
    (tmp_path / "README.md").write_text("no data")
    (tmp_path / ".train-0.jsonl").write_bytes(GOOD)
    stream = stream_files(tmp_path)
    assert read(stream) == ["train-1.jsonl.gz, line 1", "train-2.parquet, row 1", "train-2.parquet, row 2"]
    listed = "".join(
        f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("train-1.jsonl.gz", "train-2.parquet")
    )
    assert (stream.name, stream.sha256) == (tmp_path.name, hashlib.sha256(listed.encode()).hexdigest())
    (tmp_path / "empty").mkdir()
    assert "holds no data" in error_of(lambda: stream_files(tmp_path / "empty"))


def test_a_stream_comes_in_chunks_that_say_how_much_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "_CHUNK_ROWS", 2)
    (tmp_path / "a.jsonl").write_bytes(GOOD * 5)
    (tmp_path / "b.jsonl").write_bytes(GOOD * 5)
    sizes, shares = zip(
        *((len(chunk), chunk.share) for chunk in stream_files(tmp_path).chunks()), strict=True
    )
    assert sizes == (2, 2, 1, 2, 2, 1)
    assert list(shares) == sorted(shares)
    assert (shares[2], shares[-1]) == (0.5, 1.0)
    few = stream_files(tmp_path).first(3)
    assert [(len(chunk), chunk.share) for chunk in few.chunks()] == [(2, 2 / 3), (1, 1.0)]
    assert len(read(stream_files(tmp_path).first(7))) == 7
    assert len(read(stream_files(tmp_path).first(100))) == 10


def test_a_stream_that_breaks_off_is_an_error_behind_the_rows_before(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD * 5000)[:-12])
    chunks = stream_files(path).chunks()
    assert len(next(chunks)) == 1024
    assert error_of(lambda: list(chunks)).startswith("a.jsonl.gz can't be read (Compressed file ended")


def test_what_is_wrong_with_a_row_is_known_in_another_process():
    with pytest.raises(RowError) as caught:
        Row("a.jsonl", 2, {"messages": 5}).fail("messages[0].role", "is missing")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.reason) == ("a.jsonl, line 2: messages[0].role is missing", "bad_messages")


def test_a_data_set_of_the_hub_is_read_as_it_comes(tmp_path, monkeypatch):
    """By the package itself, which takes a folder for a data set of that name."""
    pytest.importorskip("datasets")
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "open" / "data").mkdir(parents=True)
    for part, first in enumerate((0, 1500)):
        table = arrow.table({"question": [f"q{n}" for n in range(first, first + 1500)]})
        parquet.write_table(table, tmp_path / "open" / "data" / f"train-0000{part}-of-00002.parquet")
    stream = stream_hub("open/data", split="train")
    rows = [row for chunk in stream.chunks() for row in chunk.rows()]
    assert [rows[n].text("question") for n in (0, 1499, 1500, 2999)] == ["q0", "q1499", "q1500", "q2999"]
    assert (len(rows), rows[-1].place) == (3000, "open/data, row 3000")
    assert (stream.name, stream.sha256) == ("open/data train", None)
    assert stream.revision.startswith("fingerprint ")
    message = error_of(lambda: stream_hub("open/data", split="test"))
    assert message.startswith(
        "open/data test can't be had from the Hugging Face hub (it has the splits train)"
    )
