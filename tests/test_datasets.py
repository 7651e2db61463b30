"""The smaller datasets: handbook, snippets and notes are what their cards say."""

import ast
import json
import sys

import pytest

from labkit import data
from labkit.profiles import COURSE

HOME = COURSE / "data"


def rows(path: str) -> list[dict]:
    return [json.loads(line) for line in (HOME / path).read_text(encoding="utf-8").splitlines()]


def test_the_handbook_asks_each_fact_in_five_ways_and_keeps_one_of_them_for_the_test():
    train, test = rows("handbook/train.jsonl"), rows("handbook/test.jsonl")
    assert len(train) + len(test) >= 400
    assert {row["fact"] for row in train} == {row["fact"] for row in test}
    assert len(train) == 4 * len(test)
    asked = [row["input"].lower() for row in train + test]
    assert len(set(asked)) == len(asked)
    answers = {}
    for row in train + test:
        assert answers.setdefault(row["fact"], row["output"]) == row["output"]
    assert len(set(answers.values())) == len(answers)
    assert data.recognise(data.read(HOME / "handbook" / "train.jsonl")).kind == "completion"


def test_the_handbook_s_maker_gives_the_shipped_files_byte_for_byte(tmp_path):
    sys.path.insert(0, str(HOME))
    import make_handbook

    make_handbook.write(tmp_path)
    for file in sorted(tmp_path.iterdir()):
        assert file.read_bytes() == (HOME / "handbook" / file.name).read_bytes(), file.name
    assert len(list(tmp_path.iterdir())) >= 3


def test_snippets_ask_once_each_and_their_python_is_python():
    found = rows("snippets/snippets.jsonl")
    assert len(found) >= 200 and len({row["question"] for row in found}) == len(found)
    python = [row["answer"] for row in found if row["language"] == "Python"]
    assert len(python) >= 80
    for answer in python:
        ast.parse(answer)


@pytest.mark.parametrize("domain", ["medical", "legal", "finance"])
def test_notes_of_a_domain_share_no_clause_between_their_splits(domain):
    found = rows(f"notes/{domain}.jsonl")
    assert len(found) >= 110 and {row["domain"] for row in found} == {domain}
    assert len({row["id"] for row in found}) == len(found)

    def runs(split: str) -> set[tuple[str, ...]]:
        words = [row["text"].lower().split() for row in found if row["split"] == split]
        return {tuple(text[i : i + 10]) for text in words for i in range(len(text) - 9)}

    train, validation = runs("train"), runs("validation")
    assert len(validation) > 500 and train.isdisjoint(validation)


def test_a_pair_is_of_two_families_and_y_says_whether_their_matters_differ():
    for split in ("train", "validation", "test"):
        found = rows(f"pairs/{split}.jsonl")
        assert sum(row["y"] for row in found) * 2 == len(found)
        for row in found:
            assert row["y"] == int(row["matter_a"] != row["matter_b"]) and row["family_a"] != row["family_b"]
            assert (row["kind"] == "same") == (row["y"] == 0)


def test_pairs_share_no_family_between_their_splits_and_are_small():
    met = {s: {row[f] for row in rows(f"pairs/{s}.jsonl") for f in ("family_a", "family_b")}
           for s in ("train", "validation", "test")}
    assert met["train"].isdisjoint(met["test"] | met["validation"]) and met["test"].isdisjoint(met["validation"])
    assert sum(file.stat().st_size for file in (HOME / "pairs").iterdir()) < 3_000_000
    assert data.read("pairs/train").num_rows == 3600


def test_hard_negatives_share_what_they_say_they_share():
    tickets = {row["text"]: row for split in ("train", "validation", "test") for row in rows(f"tickets/{split}.jsonl")}
    for row in rows("pairs/train.jsonl"):
        a, b = tickets[row["a"]], tickets[row["b"]]
        kind = [t["entities"]["product"] and t["entities"]["product"].split(" ", 1)[1] for t in (a, b)]
        if row["kind"] == "tone and product":
            assert a["tone"] == b["tone"] and kind[0] and kind[0] == kind[1]
        if row["kind"] == "team":
            assert a["intent"] == b["intent"] and a["issue"] != b["issue"]


def test_the_maker_of_pairs_gives_the_shipped_files_byte_for_byte(tmp_path):
    sys.path.insert(0, str(HOME))
    import make_pairs

    make_pairs.write(tmp_path)
    for file in sorted(tmp_path.iterdir()):
        assert file.read_bytes() == (HOME / "pairs" / file.name).read_bytes(), file.name
    assert len(list(tmp_path.iterdir())) == 4
