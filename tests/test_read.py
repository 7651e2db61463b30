"""Reading files into records and recognising what they are for: real files, and every mistake named by its place."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.data import BadRow, _rows, read, recognise
from labkit.data import _tables as tables
from labkit.errors import LabError
from labkit.profiles import COURSE

ROWS = [{"text": f"ticket {i}", "label": ("joy", "anger")[i % 2]} for i in range(6)]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def jsonl(rows: list) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_csv(rows: list[dict], delimiter: str = ",") -> str:
    lines = [delimiter.join(rows[0])] + [delimiter.join(row.values()) for row in rows]
    return "\n".join(lines) + "\n"


def said(act, *parts: str) -> str:
    """The LabError's text, which must hold all `parts` and be one or two plain sentences."""
    with pytest.raises(LabError) as caught:
        act()
    text = str(caught.value)
    for part in parts:
        assert part in text, text
    assert "\n" not in text and "Traceback" not in text and len(text) < 500, text
    return text


def refused(folder: Path, name: str, content: str | bytes, *parts: str) -> str:
    path = write(folder, name, content)
    return said(lambda: recognise(read(path), where=str(path)), str(path), *parts)


# What can be read


def test_json_jsonl_csv_tsv_and_parquet_give_the_same_records(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    files = [write(tmp_path, "a.json", json.dumps(ROWS, indent=2)),
             write(tmp_path, "b.json", json.dumps({"version": 1, "data": ROWS})),
             write(tmp_path, "a.jsonl", jsonl(ROWS)), write(tmp_path, "a.ndjson", jsonl(ROWS)),
             write(tmp_path, "a.csv", as_csv(ROWS)), write(tmp_path, "A.TSV", as_csv(ROWS, "\t")),
             tmp_path / "a.parquet"]
    for file in files:
        dataset = read(file)
        assert dataset.remove_columns("line").to_list() == ROWS, file
        assert recognise(dataset).labels == ("anger", "joy"), file


def test_the_shipped_tickets_are_read_by_name_with_their_nested_entities():
    names = ("tickets/train", "tickets/validation", "tickets/test")
    counts = [len((COURSE / "data" / f"{name}.jsonl").read_bytes().splitlines()) for name in names]
    assert [read(name).num_rows for name in names] == counts
    first = json.loads((COURSE / "data/tickets/train.jsonl").read_text(encoding="utf-8").partition("\n")[0])
    assert read("tickets")[0] == first | {"line": 1}


def test_each_row_keeps_its_line_even_when_cells_run_over_several(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"one\ntwo, ""three""",joy\n\nfour,anger\n')
    dataset = read(path)
    assert dataset["line"][:] == [2, 5]
    assert dataset[0]["text"] == 'one\ntwo, "three"'


def test_a_column_called_line_stays_the_files_own(tmp_path):
    path = write(tmp_path, "a.jsonl", jsonl([{"line": 70, "text": "a", "label": "x"}] * 2))
    dataset = read(path)
    assert dataset["line"][:] == [70, 70]
    said(lambda: recognise(dataset.add_column("q", ["", "b"]), "q,label", "a.jsonl"), "a.jsonl, row 1: q is empty")


def test_a_byte_order_mark_is_accepted_and_not_a_part_of_the_first_column(tmp_path):
    for name, text in (("a.csv", as_csv(ROWS)), ("a.jsonl", jsonl(ROWS)), ("a.json", json.dumps(ROWS))):
        assert read(write(tmp_path, name, b"\xef\xbb\xbf" + text.encode())).column_names == ["text", "label", "line"]


def test_paths_with_spaces_and_non_ascii_letters_and_windows_line_ends_are_no_trouble(tmp_path):
    folder = tmp_path / "môj priečinok 数据"
    folder.mkdir()
    assert read(write(folder, "a b č.csv", as_csv(ROWS).replace("\n", "\r\n")))["label"][:2] == ["joy", "anger"]


def test_right_to_left_emoji_one_character_and_a_megabyte_come_through_unchanged(tmp_path):
    texts = ["שלום לכם", "🏔️👩‍🚒", "x", "y" * 2**20, "a\u2028b\x85c"]
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(texts)]
    table = write(tmp_path, "a.csv", "")
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    for path in (table, write(tmp_path, "a.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))):
        assert read(path)["text"][:] == texts
    assert csv.field_size_limit() == 131072


def test_a_key_that_some_rows_lack_is_none_and_whole_numbers_become_numbers(tmp_path):
    rows = [{"a": 1}, {"a": 2.5, "b": {"c": [1]}}, {"b": {"c": [], "d": "x"}}]
    dataset = read(write(tmp_path, "a.jsonl", jsonl(rows)))
    assert dataset.to_list() == [{"a": 1.0, "b": None, "line": 1}, {"a": 2.5, "b": {"c": [1], "d": None}, "line": 2},
                                 {"a": None, "b": {"c": [], "d": "x"}, "line": 3}]


def test_class_labels_and_categories_in_parquet_become_their_names(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["joy", "anger"])})
    rows = Dataset.from_dict({"text": list("abcd"), "label": [0, 1, 1, -1]}, features=features)
    rows.to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", columns=())["label"][:] == ["joy", "anger", "anger", None]
    pq.write_table(pa.table({"text": list("abcd"), "label": pa.array(list("xyxy")).dictionary_encode()}),
                   tmp_path / "b.parquet")
    assert recognise(read(tmp_path / "b.parquet")).labels == ("x", "y")


def test_a_large_file_goes_through_the_disk_with_the_same_result(tmp_path, monkeypatch):
    rows = [{"text": f"t {i}", "label": "ab"[i % 2], "n": {"i": i}} for i in range(2500)]
    path = write(tmp_path, "a.jsonl", jsonl(rows) + '{"text": "", "label": "a"}\nbroken\n')
    small_bad, large_bad = [], []
    small = read(path, left_out=small_bad)
    monkeypatch.setattr(sys.modules["labkit.data.read"], "KEPT_IN_MEMORY", 10)
    large = read(path, left_out=large_bad)
    assert large.cache_files and not small.cache_files
    assert large.to_list() == small.to_list() and large_bad == small_bad and len(small_bad) == 2
    target = Path(large.cache_files[0]["filename"])
    assert target.is_relative_to(tables._folder.name)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no `resource`, which tells the most memory")
def test_reading_a_large_file_needs_a_fraction_of_its_size_in_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(40_000):
            file.write(json.dumps({"text": f"{i} " + "word " * 300, "label": "ab"[i % 2]}) + "\n")
    code = f"""
import resource, sys, datasets, pyarrow.parquet
from labkit.data import read
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert read({str(path)!r}).num_rows == 40_000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == 'darwin' else 1024))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=COURSE)
    assert path.stat().st_size > 60e6, "the file must be large enough to tell"
    assert int(done.stdout) < 45e6, done.stdout + done.stderr


def test_three_thousand_rows_are_read_in_less_than_a_second(tmp_path):
    rows = read("tickets").to_list()
    path = write(tmp_path, "a.jsonl", jsonl((rows * 2)[:3000]))
    start = time.process_time()
    read(path)
    assert time.process_time() - start < 1


# Files that are none


def test_a_missing_file_is_answered_with_names_like_it(tmp_path):
    write(tmp_path, "tickets_may.csv", as_csv(ROWS))
    said(lambda: read(tmp_path / "ticket_may.csv"), "there is no such file", "tickets_may.csv")
    said(lambda: read(tmp_path / "none" / "a.csv"), "folder", "not there either")
    said(lambda: read("tikets/tset"), "there is no such file", "tickets/test")


def test_a_folder_an_empty_file_and_one_with_blank_lines_only_are_refused(tmp_path):
    said(lambda: read(tmp_path), "is a folder")
    for name in ("a.json", "a.jsonl", "a.csv", "a.parquet"):
        refused(tmp_path, name, "", "is empty")
    for name, text in (("b.json", " \n"), ("c.json", "[]"), ("b.jsonl", "\n\n"), ("b.csv", "\n"), ("c.csv", "a,b\n")):
        refused(tmp_path, name, text, "there are no rows")


def test_extensions_that_cannot_be_read_are_named_with_what_to_do(tmp_path):
    refused(tmp_path, "a.txt", "hello", ".txt cannot be read", ".jsonl")
    refused(tmp_path, "a.xlsx", b"PK\x03\x04", ".xlsx", "CSV UTF-8")
    refused(tmp_path, "a", "hello", "has no extension")


def test_content_that_belies_its_extension_is_named(tmp_path):
    refused(tmp_path, "a.csv", jsonl(ROWS), "holds JSON, not CSV", "line 1", ".jsonl")
    refused(tmp_path, "b.csv", json.dumps(ROWS), "holds JSON", ".json")
    refused(tmp_path, "a.jsonl", json.dumps(ROWS), "holds a JSON list", ".json")
    refused(tmp_path, "a.json", jsonl(ROWS), "line 2", "a second value", ".jsonl")
    refused(tmp_path, "c.csv", b"PK\x03\x04abc", "zip or Excel")
    refused(tmp_path, "d.csv", gzip.compress(b"a,b"), "gzip")
    refused(tmp_path, "a.parquet", as_csv(ROWS), "no Parquet file")


def test_a_damaged_parquet_file_is_refused(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS * 100), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    refused(tmp_path, "b.parquet", whole[: len(whole) // 2], "damaged")
    refused(tmp_path, "c.parquet", whole[:4] + b"\xff" * 60 + whole[64:], "damaged")


@pytest.mark.skipif(sys.platform == "win32", reason="chmod takes nobody's right to read on Windows")
def test_a_file_that_may_not_be_read_says_so(tmp_path):
    path = write(tmp_path, "a.csv", as_csv(ROWS))
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # root may read everything: be somebody else for a moment
            os.seteuid(65534)
        said(lambda: read(path), "may not be read", "permissions")
    finally:
        if user == 0:
            os.seteuid(0)


def test_windows_1252_is_named_with_line_byte_letter_and_conversion(tmp_path):
    text = as_csv([*ROWS, {"text": "caf\u00e9 closed", "label": "joy"}])
    refused(tmp_path, "a.csv", text.encode("cp1252"), "line 8, byte 4", "0xE9", "Windows-1252", "'é'", "iconv")
    refused(tmp_path, "a.jsonl", '{"text": "é"}\n'.encode("cp1252"), "line 1", "Windows-1252")


def test_bytes_of_no_encoding_are_named_by_line_and_byte(tmp_path):
    refused(tmp_path, "a.csv", b"text,label\nok,joy\n\x81\x8d,joy\n", "line 3, byte 1", "0x81", "UTF-8")


def test_utf_16_is_named_with_and_without_its_mark(tmp_path):
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        for name, text in (("a.csv", as_csv(ROWS)), ("a.jsonl", jsonl(ROWS))):
            refused(tmp_path, name, text.encode(encoding), "UTF-16", "line 1", "iconv -f UTF-16")


def test_a_nul_byte_is_named_by_its_line(tmp_path):
    refused(tmp_path, "a.csv", as_csv(ROWS).replace("ticket 3", "tic\0ket"), "line 5", "NUL byte at character 4")
    refused(tmp_path, "a.jsonl", jsonl(ROWS) + '{"text": "\0"}', "line 7", "NUL")


# Rows that are none


def test_broken_json_is_named_by_line_and_column(tmp_path):
    refused(tmp_path, "a.jsonl", jsonl(ROWS[:2]) + '{"text": "a" "label": "b"}\n', "line 3", "broken JSON at column 14")
    refused(tmp_path, "a.json", '[{"text": "a"},\n {"text" "b"}]', "line 2, column 10", "broken JSON")
    refused(tmp_path, "b.json", '[{"text": "a"}\n {"text": "b"}]', "line 2, column 2", "comma")
    refused(tmp_path, "c.json", '[{"text": "a"}', "line 1", "comma or ]")
    refused(tmp_path, "d.json", '[{"text": "a"}] x', "after the end of the list")
    refused(tmp_path, "e.json", '{"text": ["a"], "label": ["b"]}', "'text', 'label'", "list of objects")
    refused(tmp_path, "f.json", '"text"', "list of objects")


def test_json_that_no_table_can_hold_is_named_by_line(tmp_path):
    for row, part in (('{"text": "a", "text": "b"}', "'text' is there twice"), ('{"text": NaN}', "NaN is not JSON"),
                      ('{"text": "\\ud800"}', "half a character"), ("[1]", "not an object"), ("{}", "without columns"),
                      ('{"n": ' + "9" * 30 + "}", "64 bits"), ("[" * 100_000, "line 2"),
                      ('{"n": ' + "9" * 5000 + "}", "line 2")):
        refused(tmp_path, "a.jsonl", '{"text": "ok"}\n' + row + "\n", "line 2", part)


def test_a_value_of_another_type_than_the_rows_before_is_named(tmp_path):
    refused(tmp_path, "a.jsonl", jsonl([*ROWS, {"text": 5, "label": "joy"}]),
            "line 7", "text holds a whole number where text stands in row 1")
    rows = [{"text": "a", "entities": {"order": "1"}}, {"text": "b", "entities": {"order": ["1"]}}]
    refused(tmp_path, "a.json", json.dumps(rows), "row 2", "entities holds a list where text stands")


def test_nested_json_where_text_is_due_is_named(tmp_path):
    rows = [{"text": {"body": f"t{i}"}, "label": "ab"[i % 2]} for i in range(4)]
    refused(tmp_path, "a.jsonl", jsonl(rows), "line 1", "text is an object, not text")


def test_a_ragged_csv_row_is_named_by_line(tmp_path):
    refused(tmp_path, "a.csv", as_csv(ROWS) + "only one cell\n", "line 8", "1 cells, the header has 2")
    refused(tmp_path, "b.csv", as_csv(ROWS) + "one, two, joy\n", "line 8", "3 cells")


def test_a_quote_that_never_closes_is_named_where_it_opens(tmp_path):
    refused(tmp_path, "a.csv", 'text,label\na,joy\n"b,joy\nc,anger\n', "line 3", "never closes")
    refused(tmp_path, "b.csv", 'text,label\n"a"b,joy\n', "line 2", "quotes in pairs")


def test_headers_that_name_a_column_twice_or_not_at_all_are_refused(tmp_path):
    refused(tmp_path, "a.csv", "text,label,text\na,b,c\n", "'text' is there 2 times", "line 1")
    refused(tmp_path, "b.csv", ",text,label\n0,a,b\n", "column 1 has no name", "index=False")
    refused(tmp_path, "c.csv", "text;label\na;b\n", "semicolons")
    refused(tmp_path, "d.tsv", "text,label\na,b\n", "commas")
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    said(lambda: read(tmp_path / "a.parquet"), "'text' is there 2 times")


def test_a_row_without_its_label_or_text_is_named_by_line(tmp_path):
    refused(tmp_path, "a.csv", as_csv(ROWS) + "t,\n", "line 8", "label is empty")
    refused(tmp_path, "b.csv", as_csv(ROWS) + '"  ",joy\n', "line 8", "text is empty")
    refused(tmp_path, "a.jsonl", jsonl([*ROWS, {"text": "t"}]), "line 7", "the row has no label")
    refused(tmp_path, "b.jsonl", jsonl([*ROWS, {"text": "t", "label": None}]), "line 7", "the row has no label")
    refused(tmp_path, "a.json", json.dumps([*ROWS, {"text": "t"}]), "row 7", "the row has no label")


def test_bad_rows_are_left_out_and_named_when_a_list_is_given_for_them(tmp_path):
    rows = jsonl(ROWS) + 'broken\n{"text": "t"}\n{"text": 5, "label": "joy"}\n{"text": "t", "label": " "}\n'
    left_out: list[BadRow] = []
    dataset = read(write(tmp_path, "a.jsonl", rows), left_out=left_out)
    assert dataset.num_rows == 6
    assert [row.line for row in left_out] == [7, 8, 9, 10]
    assert "broken JSON" in left_out[0].reason and left_out[1].reason == "the row has no label"
    pq.write_table(pa.table({"text": ["a", None, "c", "d"], "label": ["x", "y", "", "z"]}), tmp_path / "a.parquet")
    left_out = []
    assert read(tmp_path / "a.parquet", left_out=left_out)["line"][:] == [1, 4]
    assert left_out == [BadRow(2, "the row has no text"), BadRow(3, "label is empty")]


def test_a_file_of_bad_rows_only_is_refused_even_when_they_may_be_left_out(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\na,\nb,\n")
    left_out: list[BadRow] = []
    said(lambda: read(path, left_out=left_out), "all 2 rows are bad", "label is empty")
    assert left_out == []


def test_no_column_is_looked_into_when_none_is_named(tmp_path):
    assert read(write(tmp_path, "a.csv", "text,label\na,\n,b\n"), columns=()).num_rows == 2


# What a file is for


def form_of(rows: list[dict], columns=None):
    return recognise(Dataset.from_list(rows), columns, "f.jsonl")


def test_the_known_column_pairs_are_recognised():
    assert form_of(ROWS).reason == "text/label: 6 rows, 2 labels (anger, joy)"
    for pair in (("input", "output"), ("prompt", "completion"), ("instruction", "output"), ("question", "answer")):
        form = form_of([{pair[0]: f"q{i}", pair[1]: f"an answer {i}"} for i in range(1200)])
        assert (form.kind, form.prompt, form.completion, form.labels) == ("completion", *pair, ())
        assert form.reason == f"{'/'.join(pair)}: 1,200 rows of free text"


def chat(*roles: str, content: str = "words") -> dict:
    return {"messages": [{"role": role, "content": f"{content} {i}"} for i, role in enumerate(roles)]}


def test_messages_are_recognised_with_and_without_a_system_turn():
    rows = [chat("user", "assistant", content=str(i)) for i in range(3)] + [chat("system", "user", "assistant")]
    assert form_of(rows).reason == "messages: 4 conversations"
    assert form_of(rows).prompt is form_of(rows).completion is None


def test_columns_name_another_pair_and_few_short_repeated_answers_make_it_classification():
    tickets = read("tickets")
    assert recognise(tickets, "text,tone").labels == ("anger", "fear", "joy", "neutral", "sadness", "surprise")
    assert recognise(tickets, ("text", "reply")).kind == "completion"
    assert form_of([{"input": f"q{i}", "output": "yes no".split()[i % 2]} for i in range(4)]).kind == "label"
    assert form_of([{"input": f"q{i}", "output": "aaab"[i]} for i in range(4)]).kind == "completion", "b is seen once"
    assert form_of([{"q": f"q{i}", "a": "aabc"[i]} for i in range(4)], "q,a").kind == "completion", "too few repeats"
    assert form_of([{"q": f"q{i}", "stars": i % 5} for i in range(10)], "q,stars").labels == tuple("01234")


def test_columns_it_cannot_tell_are_listed_with_what_to_say():
    said(lambda: form_of([{"text": "a", "tone": "b"}]), "'text', 'tone'", "--columns text,tone", "prompt/completion")
    said(lambda: form_of([{"instruction": "a", "input": "b", "output": "c"}]), "more than one form", "--columns")
    said(lambda: form_of(ROWS, "text,lable"), "no column 'lable'", "'label'")
    said(lambda: form_of(ROWS, "text"), "--columns names 'text'", "two")


def test_a_wrong_name_in_columns_is_told_before_any_row_is_blamed(tmp_path):
    path = write(tmp_path, "a.csv", as_csv(ROWS))
    assert "line" not in said(lambda: read(path, columns="text,lable"), "no column 'lable'", "'label'")


def test_a_label_seen_once_is_named_with_its_line(tmp_path):
    refused(tmp_path, "a.csv", as_csv([*ROWS, {"text": "t", "label": "jooy"}]), "line 8", "'jooy' is seen only here")


def test_a_label_that_differs_in_case_or_spaces_is_named_with_its_line(tmp_path):
    extra = [{"text": f"t{i}", "label": "Joy "} for i in range(2)]
    refused(tmp_path, "a.csv", as_csv([*ROWS, *extra]), "line 8", "'Joy ' differs from 'joy'")


def test_one_label_alone_and_rows_all_alike_are_refused():
    said(lambda: form_of([{"text": f"t{i}", "label": "joy"} for i in range(5)]), "all 5 rows have the label 'joy'")
    said(lambda: form_of([{"text": "t", "label": "ab"[i % 2]} for i in range(6)]), "all 6 rows have the same text")
    said(lambda: form_of([chat("user", "assistant")] * 3), "all 3 rows have the same messages")


def test_label_columns_of_fractions_lists_or_truth_values_are_refused(tmp_path):
    refused(tmp_path, "a.csv", "text,label\na,1.0\nb,0.5\nc,1.0\n", "line 2", "fractions", "1.0")
    for value, kind in ((0.5, "a number"), (["joy"], "a list"), (True, "true/false"), ({"a": 1}, "an object")):
        said(lambda value=value: form_of([{"text": "a", "label": value}] * 2), f"label is {kind}, not text", "row 1")


def test_ten_thousand_labels_are_refused_with_a_way_out():
    rows = [{"text": f"t{i}", "label": f"l{i // 2}"} for i in range(20_000)]
    said(lambda: form_of(rows), "more than 50 different labels in 20,000 rows", "free text")
    assert form_of(rows, "text,label").kind == "completion"


def test_messages_of_a_wrong_form_are_named_by_row():
    good = chat("user", "assistant")
    said(lambda: form_of([good, chat("user", "assistant", "user")]), "row 2", "end with user, not with the assistant")
    said(lambda: form_of([good, chat("human", "assistant")]), "row 2", "turn 1 has the role 'human'")
    said(lambda: form_of([good, {"messages": []}]), "row 2", "end with nothing")
    said(lambda: form_of([chat("assistant")]), "no question")
    said(lambda: form_of([{"messages": [{"role": "user", "content": ""}]}]), "turn 1 has no content")
    said(lambda: form_of([{"messages": [{"role": "user", "content": "a", "name": "b"}]}]), "'name'")
    said(lambda: form_of([{"messages": "hello"}]), "not a list of turns")


# Any bytes, any table

ANY = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
NAMES = st.sampled_from(["text", "label", "input", "output", "messages", "line", "é", "data"])
CELLS = st.one_of(st.text(max_size=6), st.none(), st.booleans(), st.integers(), st.floats(), st.just([{}]),
                  st.dictionaries(NAMES, st.text(max_size=3), max_size=2), st.lists(st.integers(), max_size=2))
RECORDS = st.one_of(st.dictionaries(NAMES, CELLS, max_size=3), st.just({"text": "a", "label": "b"}), CELLS)


def check_answer(path: Path, rows: int | None) -> None:
    """A dataset or a LabError, and every row is in it or named; the same for what it is recognised as."""
    left_out: list[BadRow] = []
    try:
        dataset = read(path, left_out=left_out)
        if rows is not None:
            assert dataset.num_rows + len(left_out) == rows
        assert len({row.line for row in left_out}) == len(left_out) and all(row.reason for row in left_out)
        recognise(dataset)
    except LabError as error:
        assert str(error)
    try:
        assert rows is None or read(path).num_rows == rows
    except LabError as error:
        assert str(path.name) in str(error)


@ANY
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")),
                         st.text('{}[]",:\n\r\t;ab1\\u d8', max_size=40).map(str.encode)),
       suffix=st.sampled_from(_rows.SUFFIXES))
def test_arbitrary_bytes_give_a_dataset_or_a_laberror(tmp_path_factory, content, suffix):
    check_answer(write(tmp_path_factory.getbasetemp(), f"any{suffix}", content), None)


@ANY
@given(rows=st.lists(RECORDS, max_size=6), as_list=st.booleans())
def test_arbitrary_json_rows_are_read_or_named(tmp_path_factory, rows, as_list):
    folder = tmp_path_factory.getbasetemp()
    path = write(folder, "rows.json", json.dumps(rows)) if as_list else write(folder, "rows.jsonl", jsonl(rows))
    check_answer(path, len(rows))


@ANY
@given(table=st.lists(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=4), min_size=1,
                               max_size=3), min_size=1, max_size=6),
       suffix=st.sampled_from([".csv", ".tsv"]))
def test_arbitrary_tables_are_read_or_named(tmp_path_factory, table, suffix):
    path = tmp_path_factory.getbasetemp() / f"table{suffix}"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=_rows.DELIMITERS[suffix], quoting=csv.QUOTE_ALL).writerows(table)
    check_answer(path, len(table) - 1)


# ------------------------------------------------------------------ the hub


@pytest.fixture
def hub(monkeypatch):
    """A hub that cannot be there: it has one dataset, with class labels as numbers, in one split."""
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = datasets.Dataset.from_dict({"text": ["Bad.", "Good.", ""], "label": [0, 1, 1]}, features=features)
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        if name != "owner/reviews":
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")
        if split != "train":
            raise ValueError(f"Unknown split \"{split}\". Should be one of ['train'].")
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_dataset_of_the_hub_is_read_like_a_file_with_names_for_its_labels(hub):
    left_out = []
    rows = read("hub:owner/reviews", left_out=left_out)
    assert hub == [("owner/reviews", "train")]
    assert rows["label"][:] == ["neg", "pos"] and rows["line"][:] == [1, 2]
    assert [row.line for row in left_out] == [3]
    with pytest.raises(LabError, match="hub:owner/reviews, row 3"):
        read("hub:owner/reviews")


@pytest.mark.parametrize("source, says", [
    ("hub:owner/nothing", "there is no such dataset"),
    ("hub:owner/reviews/test", "Should be one of"),
    ("hub:reviews", "expected hub:owner/name"),
    ("hub:owner/a/b/c", "expected hub:owner/name"),
])
def test_what_the_hub_does_not_have_is_one_sentence(hub, source, says):
    with pytest.raises(LabError, match=says):
        read(source)


def test_without_a_network_the_hub_is_said_to_be_out_of_reach(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(LabError, match="cannot be reached|no such dataset"):
        read("hub:owner/reviews")


def test_a_clash_inside_the_first_row_is_named_like_any_other(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"tags": [1, "a"]}\n')
    said(lambda: read(path, columns=()), "a.jsonl, line 1: tags holds text where a whole number stands in row 1")
