"""Splits: shares kept, groups and equal prompts never torn apart, labels spread alike, the same from the same seed."""

from __future__ import annotations

from collections import Counter

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.data import label_shares, read, split, ticket_examples
from labkit.errors import LabError


def table(rows: int, **columns) -> Dataset:
    return Dataset.from_dict({"text": [f"t{i}" for i in range(rows)], "n": list(range(rows)), **columns})


def sizes(splits: dict[str, Dataset]) -> list[int]:
    return [part.num_rows for part in splits.values()]


def assert_whole(dataset: Dataset, splits: dict[str, Dataset]) -> None:
    """No row lost, none doubled, the order of the file kept."""
    assert list(splits) == ["train", "validation", "test"]
    numbers = [part["n"][:] for part in splits.values()]
    assert sorted(sum(numbers, [])) == dataset["n"][:]
    assert all(part == sorted(part) for part in numbers)


def test_rows_are_split_80_10_10_to_the_row():
    due = {1000: [800, 100, 100], 100: [80, 10, 10], 10: [8, 1, 1], 7: [5, 1, 1], 3: [1, 1, 1]}
    for rows, expected in due.items():
        dataset = table(rows)
        splits = split(dataset)
        assert sizes(splits) == expected
        assert_whole(dataset, splits)
    assert sizes(split(table(10), (0.5, 0.2, 0.3))) == [5, 2, 3]


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    dataset = table(200, label=["a", "b"] * 100)
    first, again, other = (split(dataset, stratify="label", seed=seed)["test"]["n"][:] for seed in (3, 3, 4))
    assert first == again != other


def test_a_group_is_never_in_two_splits():
    groups = [f"g{i // 6}" for i in range(300)]
    dataset = table(300, family=groups)
    splits = split(dataset, by="family")
    assert_whole(dataset, splits)
    assert sizes(splits) == [240, 30, 30]
    parts = [set(part["family"][:]) for part in splits.values()]
    assert sum(map(len, parts)) == len(set(groups))


def test_stratified_splits_have_every_label_in_its_share():
    labels = ["often"] * 700 + ["rare"] * 100 + ["rarest"] * 3 + ["some"] * 197
    splits = split(table(1000, label=labels), stratify="label")
    assert sizes(splits) == [800, 100, 100]
    counts = {name: Counter(part["label"][:]) for name, part in splits.items()}
    for label, total in Counter(labels).items():
        for name, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
            assert counts[name][label] >= 1
            assert abs(counts[name][label] - share * total) <= 2, (label, counts)


def test_tickets_split_by_family_and_tone_at_once():
    tickets = ticket_examples(read("tickets"), "tone")
    splits = split(tickets, by="family", stratify="label")
    largest = max(Counter(tickets["family"][:]).values())
    for part, share in zip(splits.values(), (0.8, 0.1, 0.1), strict=True):
        assert abs(part.num_rows - share * tickets.num_rows) <= largest
    families = [set(part["family"][:]) for part in splits.values()]
    assert sum(map(len, families)) == len(set(tickets["family"][:]))
    for row in label_shares(splits, "label"):
        assert max(row["train"], row["validation"], row["test"]) - min(row["train"], row["test"]) < 0.05


def test_a_random_split_tears_families_apart_where_none_is_asked_for():
    splits = split(ticket_examples(read("tickets"), "tone"))
    assert set(splits["train"]["family"][:]) & set(splits["test"]["family"][:])


def test_equal_prompts_land_in_one_split_whatever_their_case_and_spaces():
    texts = [f"{'Where  is' if i % 2 else 'where is '} {i // 4}" for i in range(400)]
    for name in ("text", "prompt", "question"):
        splits = split(Dataset.from_dict({name: texts, "n": list(range(400))}))
        keys = [{" ".join(text.lower().split()) for text in part[name][:]} for part in splits.values()]
        assert sum(map(len, keys)) == 100
        assert sizes(splits) == [320, 40, 40]


def test_equal_conversations_land_in_one_split_whatever_their_answer():
    rows = [[{"role": "user", "content": f"q{i // 2}"}, {"role": "assistant", "content": str(i)}] for i in range(60)]
    splits = split(Dataset.from_dict({"messages": rows, "n": list(range(60))}))
    asked = [{talk[0]["content"] for talk in part["messages"][:]} for part in splits.values()]
    assert sum(map(len, asked)) == 30


def test_a_prompt_that_two_groups_share_keeps_both_in_one_split():
    dataset = Dataset.from_dict({"text": ["same", "a", "same", "b", "c", "d"], "family": list("112234"),
                                 "n": list(range(6))})
    home = {n: name for name, part in split(dataset, by="family").items() for n in part["n"][:]}
    assert home[0] == home[1] == home[2] == home[3]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab")), min_size=3, max_size=80),
    seed=st.integers(0, 5),
    stratify=st.sampled_from([None, "label"]),
)
def test_any_table_is_split_within_its_largest_group_or_refused(rows, seed, stratify):
    groups, labels = [group for group, _ in rows], [label for _, label in rows]
    dataset = table(len(rows), family=groups, label=labels)
    try:
        splits = split(dataset, by="family", stratify=stratify, seed=seed)
    except LabError:
        spread = Counter(label for _, label in set(rows))  # label: in how many groups
        assert len(set(groups)) < 3 or (stratify and min(spread.values()) < 3)
        return
    assert_whole(dataset, splits)
    assert min(sizes(splits)) > 0
    assert sum(len(set(part["family"][:])) for part in splits.values()) == len(set(groups))
    largest = max(Counter(groups).values())
    alone = any(len(set(part["family"][:])) == 1 for part in splits.values())  # a split that was nearly empty
    for size, share in zip(sizes(splits), (0.8, 0.1, 0.1), strict=True):
        assert abs(size - share * len(rows)) <= largest or alone


def test_label_shares_are_a_row_a_label():
    splits = {"train": table(4, label=list("aaab")), "test": table(2, label=list("ac"))}
    assert label_shares(splits, "label") == [
        {"label": "a", "train": 0.75, "test": 0.5},
        {"label": "b", "train": 0.25, "test": 0.0},
        {"label": "c", "train": 0.0, "test": 0.5},
    ]


@pytest.mark.parametrize(
    ("rows", "columns", "arguments", "part"),
    [
        (2, {}, {}, "2 rows make 2 different prompts; expected at least 3"),
        (9, {"family": list("aaaabbbbb")}, {"by": "family"}, "9 rows make 2 groups of family"),
        (9, {"label": list("aaaaaaabb")}, {"stratify": "label"}, "label 'b' is in 2 different prompts"),
        (9, {"family": list("aabbccddd"), "label": list("xxxxxxyyy")}, {"by": "family", "stratify": "label"},
         "label 'y' is in 1 groups"),
        (9, {}, {"by": "famly"}, "no column 'famly'"),
        (9, {}, {"stratify": "label"}, "no column 'label'"),
        (9, {"family": [None, *"aabbccdd"]}, {"by": "family"}, "row 1: the row has no family"),
        (9, {}, {"shares": (0.8, 0.1, 0.2)}, "0.8, 0.1, 0.2; expected three shares"),
        (9, {}, {"shares": (0.9, 0.1, 0)}, "three shares above 0"),
        (9, {}, {"shares": (0.9, 0.1)}, "three shares"),
    ],
)
def test_what_cannot_be_split_is_named(rows, columns, arguments, part):
    with pytest.raises(LabError, match=part):
        split(table(rows, **columns), **arguments)
