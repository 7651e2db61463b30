"""Blind ratings: sides are drawn and hidden, kept through a restart, and what is shown is never HTML."""

from __future__ import annotations

import csv

import pytest

from labkit.errors import LabError
from labkit.evaluation.rating import Ratings, agreement
from labkit.widgets.rating import RatingBox

PROMPTS = [f"ticket {i}" for i in range(12)]
REPLIES = {"old": [f"old reply {i}" for i in range(12)], "new": [f"new reply {i}" for i in range(12)]}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "deep" / "ratings.jsonl"


def rate(ratings, wanted, pairs=12):
    for _ in range(pairs):
        pair = ratings.pair()
        ratings.choose("left" if pair.left.startswith(wanted) else "right")


def test_sides_vary_and_the_winner_is_the_model_that_was_chosen(file):
    ratings = Ratings(PROMPTS, REPLIES, "Ann", file)
    sides = set()
    while pair := ratings.pair():
        sides.add(pair.left.split()[0])
        assert pair.left.split()[2] == pair.right.split()[2] == pair.prompt.split()[1]
        ratings.choose("left" if pair.left.startswith("new") else "right")
    assert sides == {"old", "new"} and set(ratings.choices.values()) == {"new"}
    assert ratings.wins().value == 1 and ratings.wins().rows == 12


def test_a_restart_goes_on_where_it_was_with_the_same_sides(file):
    first = Ratings(PROMPTS, REPLIES, "Ann", file)
    rate(first, "new", 5)
    again = Ratings(PROMPTS, REPLIES, "Ann", file)
    assert again.choices == first.choices and again.pair() == first.pair()
    again.undo()
    assert len(Ratings(PROMPTS, REPLIES, "Ann", file).choices) == 4
    with file.open("a") as opened:
        opened.write('{"rater": "Ann", "pa')  # the machine went off
    third = Ratings(PROMPTS, REPLIES, "Ann", file)
    rate(third, "old", 1)
    assert len(Ratings(PROMPTS, REPLIES, "Ann", file).choices) == 5


def test_two_raters_share_a_file_and_kappa_says_how_much_they_agree(file):
    ann, ben = (Ratings(PROMPTS, REPLIES, name, file) for name in ("Ann", "Ben"))
    for ratings in (ann, ben):
        while pair := ratings.pair():
            even = int(pair.prompt.split()[1]) % 2 == 0
            ratings.choose("left" if pair.left.startswith("new" if even else "old") else "right")
    assert agreement(ann, ben) == (1.0, 12)
    with pytest.raises(LabError, match="rated by both"):
        agreement(ann, Ratings(PROMPTS, REPLIES, "Cem", file))


def test_other_replies_unknown_choices_and_a_third_model_are_refused(file):
    rate(Ratings(PROMPTS, REPLIES, "Ann", file), "new", 1)
    with pytest.raises(LabError, match="other replies"):
        Ratings(PROMPTS, REPLIES | {"new": ["x"] * 12}, "Ann", file)
    with pytest.raises(LabError, match="no choice"):
        Ratings(PROMPTS, REPLIES, "Ben", file).choose("middle")
    with pytest.raises(LabError, match="two models"):
        Ratings(PROMPTS, {"old": REPLIES["old"]}, "Ann", file)


def test_the_csv_file_has_both_replies_by_model_and_the_winner(file, tmp_path):
    ratings = Ratings(['a "quoted", ticket\nof two lines'], {"old": ["=1+1"], "new": ["žluť"]}, "Ann", file)
    ratings.choose("tie")
    with ratings.export(tmp_path / "out.csv").open(encoding="utf-8", newline="") as opened:
        [row] = csv.DictReader(opened)
    assert (row["prompt"], row["new"], row["winner"]) == ('a "quoted", ticket\nof two lines', "žluť", "tie")


def test_replies_are_shown_as_text_and_no_name_is_shown(file):
    replies = {"alpha": ["<script>alert(1)</script> <b>bold</b>"], "beta": ["plain"]}
    shown = RatingBox(Ratings(["<img src=x>"], replies, "Ann", file))._repr_mimebundle_()
    assert "<script>" not in shown["text/html"] and "<img" not in shown["text/html"]
    assert "&lt;script&gt;" in shown["text/html"]
    assert "alpha" not in shown["text/html"] + shown["text/plain"] and "plain" in shown["text/plain"]


def test_keys_and_buttons_rate_and_a_letter_less_takes_one_back(file):
    ratings = Ratings(PROMPTS, REPLIES, "Ann", file)
    shown, buttons, keys, _ = RatingBox(ratings).widget().children
    for typed, rated in (("a", 1), ("ab", 2), ("abx", 2), ("abxt", 3), ("abx", 2), ("abxbt", 4)):
        keys.value = typed
        assert len(ratings.choices) == rated, typed
    buttons.children[0].click()
    assert len(ratings.choices) == 5 and "5 of 12" in shown.value
    buttons.children[3].click()
    assert len(ratings.choices) == 4
    keys.value = "abxbt" + "a" * 20
    assert len(ratings.choices) == 12 and "All pairs are rated" in shown.value
