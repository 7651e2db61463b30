"""The messy export: `inspect` finds every fault that its key names and invents none, `clean` puts right what can be."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from datasets import Dataset

from labkit.data import clean, inspect, read
from labkit.profiles import COURSE

HOME = COURSE / "data" / "messy_tickets"
LEFT = {"very short text", "other language", "over-long text"}  # what clean leaves for a person to decide


@pytest.fixture(scope="module")
def maker():
    sys.path.insert(0, str(COURSE / "data"))
    import make_messy

    return make_messy


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(COURSE / "data" / "tiny-base")


@pytest.fixture(scope="module", params=["as shipped", "another seed"])
def messy(request, maker, tmp_path_factory) -> tuple[dict, dict]:
    """The splits and the key, of the shipped files and of files that nobody has looked at."""
    folder = HOME
    if request.param == "another seed":
        folder = tmp_path_factory.mktemp("messy")
        maker.write(folder, seed=4711)
    splits = {"train": read(folder / "export.csv", columns=()), "test": read(folder / "test.csv", columns=())}
    return splits, load_key(folder)


def load_key(folder: Path) -> dict:
    return json.loads((folder / "key.json").read_text(encoding="utf-8"))


def planted(key: dict) -> dict[str, set[int]]:
    rows = defaultdict(set)
    for fault in key["faults"]:
        rows[fault["kind"]].add(fault["row"])
    return dict(rows)


def report_of(messy, tokenizer, **options):
    splits, key = messy
    return inspect(splits, tokenizer=tokenizer, max_tokens=key["max_tokens"], names=key["names"], **options)


def scores(found: dict[str, set], wanted: dict[str, set]) -> dict[str, tuple[float, float]]:
    """Precision and recall of each kind."""
    kinds = found.keys() | wanted.keys()
    both = {kind: len(found.get(kind, set()) & wanted.get(kind, set())) for kind in kinds}
    return {kind: (both[kind] / max(1, len(found.get(kind, ()))), both[kind] / max(1, len(wanted.get(kind, ()))))
            for kind in kinds}


@pytest.mark.parametrize("told", ["labels given", "labels taken from the data"])
def test_every_planted_fault_is_found_and_none_is_invented(messy, tokenizer, told):
    labels = messy[1]["labels"] if told == "labels given" else None
    report = report_of(messy, tokenizer, labels=labels)
    found = {f.kind: set(f.rows) for f in report.findings if f.split == "train"}
    assert set(scores(found, planted(messy[1])).values()) == {(1.0, 1.0)}
    assert [f.kind for f in report.findings if f.split == "test"] == []
    assert found == planted(messy[1])


def test_what_is_found_is_said_as_the_key_has_it(messy, tokenizer):
    splits, key = messy
    report = report_of(messy, tokenizer, labels=key["labels"])
    number = {ticket: row for row, ticket in enumerate(splits["train"]["ticket"][:])}
    other = {ticket: row for row, ticket in enumerate(splits["test"]["ticket"][:])}
    notes = {f.kind: dict(zip(f.rows, f.notes, strict=True)) for f in report.findings if f.notes}
    for fault in key["faults"]:
        kind, row, original = fault["kind"], fault["row"], fault["original"]
        note = notes.get(kind, {}).get(row)
        if kind in ("exact duplicate", "near duplicate"):
            assert note["like"] == number[original]
        elif kind == "leaked":
            assert note["like"] == other[original]
            assert (note["share"] == 1.0) == (fault["how"] == "as it is")
        elif kind == "unknown label":
            assert note["meant"] == original
        elif kind == "personal data":
            assert note == dict.fromkeys(original, 1)
        elif kind == "other language":
            assert note["language"] == original


def test_the_cleaned_export_is_what_the_key_says_it_was(messy, tokenizer):
    splits, key = messy
    cleaned, log = clean(splits, report_of(messy, tokenizer, labels=key["labels"]))
    faults = planted(key)
    gone = set().union(*(faults[kind] for kind in ("missing label", "conflicting labels", "empty text",
                                                   "exact duplicate", "near duplicate", "leaked")))  # fmt: skip
    assert set(log.dropped("train")) == gone and log.dropped("test") == []
    assert log.sizes["train"] == (len(splits["train"]), len(splits["train"]) - len(gone))
    assert cleaned["test"].to_list() == splits["test"].to_list()
    kept = [row for row in range(len(splits["train"])) if row not in gone]
    right = [dict(row) for row in splits["train"]]
    for fault in key["faults"]:
        if fault["kind"] in ("mojibake", "HTML"):
            right[fault["row"]]["text"] = fault["original"]
        elif fault["kind"] == "unknown label":
            right[fault["row"]]["label"] = fault["original"]
    for fault in key["faults"]:
        if fault["kind"] == "personal data":
            for kind, value in fault["original"].items():
                assert right[fault["row"]]["text"].count(value) == 1 or fault["row"] in gone
                right[fault["row"]]["text"] = right[fault["row"]]["text"].replace(value, f"[{kind}]")
    assert cleaned["train"].to_list() == [right[row] for row in kept]


def test_the_log_names_every_row_that_is_not_as_it_was(messy, tokenizer):
    splits, key = messy
    cleaned, log = clean(splits, report_of(messy, tokenizer, labels=key["labels"]))
    gone, before = set(log.dropped("train")), splits["train"].to_list()
    kept = [row for row in range(len(before)) if row not in gone]
    now = dict(zip(kept, cleaned["train"].to_list(), strict=True))
    for change in log.changes:
        assert change.line == before[change.row]["line"]
        if change.done != "dropped":
            assert before[change.row][change.column] == change.before, "changes to a cell follow each other"
            before[change.row][change.column] = change.after
    assert {row: before[row] for row in kept} == now
    assert log.counts["personal data masked"] <= key["counts"]["personal data"]


def test_a_second_look_finds_nothing_but_what_is_left_for_a_person(messy, tokenizer):
    splits, key = messy
    cleaned, _ = clean(splits, report_of(messy, tokenizer, labels=key["labels"]))
    again = report_of((cleaned, key), tokenizer, labels=key["labels"])
    assert set(again.counts) == LEFT


def test_over_long_texts_are_counted_in_tokens_and_only_where_there_is_a_limit(tokenizer):
    texts = read(HOME / "test.csv")["text"][:6]
    rows = Dataset.from_dict({"text": [*texts, " ".join(texts * 3)]})
    report = inspect(rows, tokenizer=tokenizer, max_tokens=256)
    assert report.rows("over-long text") == [6] and report.finding("over-long text").notes[0]["tokens"] > 256
    assert report.lengths.unit == "tokens" and sum(report.lengths.counts["train"]) == 7
    assert "Over-long texts were not looked for" in " ".join(inspect(rows).remarks)


def test_the_maker_gives_the_shipped_files_byte_for_byte(maker, tmp_path):
    maker.write(tmp_path)
    names = {"README.md", "export.csv", "key.json", "test.csv"}
    assert {file.name for file in tmp_path.iterdir()} == names == {file.name for file in HOME.iterdir()}
    for name in names:
        assert (tmp_path / name).read_bytes() == (HOME / name).read_bytes(), name


def test_the_key_and_the_card_say_how_much_is_wrong():
    rows, key = read(HOME / "export.csv", columns=()), load_key(HOME)
    card = (HOME / "README.md").read_text(encoding="utf-8")
    assert 600 <= len(rows) <= 900
    told = [kind for f in key["faults"] if f["kind"] == "personal data" for kind in f["original"]]
    for kind in ("email", "phone"):
        assert 18 <= len(rows) / told.count(kind) <= 22, "about one in twenty rows"
    for kind, count in key["counts"].items():
        assert f"| {kind} | {count} |" in card
        assert count == sum(fault["kind"] == kind for fault in key["faults"])
    for word in ("CC0-1.0", "How it was made", "Known biases", f"{len(rows)} letters to train on"):
        assert word in card
    assert len(key["harmless"]) > 20


def test_the_messy_test_set_has_letters_of_the_test_families_only():
    texts = {row["text"]: row["family"] for row in read("tickets/test")}
    assert all(text in texts for text in read(HOME / "test.csv")["text"][:])
    trained = {row["family"] for row in read("tickets")}
    assert not trained & set(texts.values())
