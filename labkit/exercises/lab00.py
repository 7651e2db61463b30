"""The exercise of lab 00, Start here: a first answer, so that the three verbs are known before they are needed."""

from __future__ import annotations

from labkit.exercises import Wrong, call, exercise, expect_number, expect_type

LAB = "00"


@exercise(
    "accuracy",
    lab=LAB,
    title="the share of right answers",
    difficulty=1,
    minutes=3,
    hints=(
        "Compare the two lists place by place, and count where they agree.",
        "zip(said, truth) gives the pairs; `s == t` is True or False, and True counts as 1 in a sum.",
        "return sum(s == t for s, t in zip(said, truth)) / len(truth)",
    ),
    after="You have written the figure that most tables of this course show.",
)
def accuracy(answer):
    cases = (
        (["joy", "fear", "joy", "anger"], ["joy", "fear", "anger", "anger"]),
        (["fear", "fear"], ["joy", "anger"]),
        (["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "e"]),
        (["b", "a", "a", "a"], ["a", "b", "a", "b"]),
    )
    for said, truth in cases:
        got = call(answer, list(said), list(truth))
        where = f"for said = {said} and truth = {truth}"
        if isinstance(got, bool):
            raise Wrong(f"{where}: {got} says whether the lists are equal as a whole. Compare place by place.")
        expect_type(got, (int, float))
        agree = sum(s == t for s, t in zip(said, truth, strict=True))
        right = agree / len(truth)
        usual = {
            agree: "that is the number of right answers. Divide by how many there are.",
            100 * right: "that is in per cent. Give a share from 0 to 1.",
            1 - right: "that is the share of wrong answers.",
            len(set(said) & set(truth)) / len(truth): "the order counts: compare place by place, not as sets.",
            agree // len(truth): "that is a whole number: `//` rounds down. Divide by `/`.",
        }
        if got != right and got in usual:
            raise Wrong(f"{where}: expected {right:g}, and got {got:g}: {usual[got]}")
        expect_number(got, right, 1e-9, where)
