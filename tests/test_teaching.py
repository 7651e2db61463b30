"""The guide for teachers: its plans add up and reach the labs that they name, and its exercises are there."""

from __future__ import annotations

import re

import pytest

from labkit.exercises.registry import load_lab
from labkit.profiles import COURSE

GUIDE = (COURSE / "notebooks" / "TEACHING.md").read_text(encoding="utf-8")
MAP = re.findall(r"^\| \[(\d\d) .*?\| (\d+)\+? \|", (COURSE / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
MINUTES = {lab: int(minutes) for lab, minutes in MAP}
PLANS = dict(re.findall(r"^##+ ([^\n]*\(\d+ h[^\n]*\))\n((?:(?!^#).*\n)*)", GUIDE, re.MULTILINE))


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def section(title: str) -> str:
    return GUIDE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_readme_gives_minutes_to_every_lab():
    assert list(MINUTES) == [f"{number:02d}" for number in range(14)]


@pytest.mark.parametrize("plan", PLANS)
def test_the_minutes_of_a_plan_add_up_to_its_title(plan):
    hours, minutes = re.search(r"\((\d+) h(?: (\d+))?\)", plan).groups()
    assert sum(int(row[0]) for row in rows(PLANS[plan])) == 60 * int(hours) + int(minutes or 0)


@pytest.mark.parametrize("plan", PLANS)
def test_a_whole_lab_has_its_minutes_and_nobody_sits_for_two_hours_without_a_break(plan):
    sitting = 0
    for minutes, what, _ in rows(PLANS[plan]):
        if whole := re.fullmatch(r"lab (\d\d)", what):
            assert MINUTES[whole[1]] <= int(minutes) <= MINUTES[whole[1]] + 15, what
        sitting = 0 if what in ("break", "lunch") else sitting + int(minutes)
        assert sitting <= 120 or what.startswith(("lab 13", "what came out")), f"{what}: {sitting} minutes"


def test_five_evenings_reach_every_lab_and_two_days_train_prove_and_ship():
    held = {plan: re.findall(r"^lab (\d\d)", "\n".join(row[1] for row in rows(text)), re.MULTILINE)
            for plan, text in PLANS.items()}
    evenings = [lab for plan, labs in held.items() if "evening" in plan for lab in labs]
    assert sorted(evenings) == list(MINUTES)
    days = {lab for plan, labs in held.items() if "day (" in plan and plan.startswith("The") for lab in labs}
    [left_out] = re.findall(r"Labs ([\d, and]+) are left out", section("Two days"))
    assert days | set(re.findall(r"\d\d", left_out)) == set(MINUTES) and {"08", "09", "10", "13"} <= days


def test_what_may_wait_leaves_a_sixth_of_every_lab_to_the_teacher():
    waiting = {lab: names.split(", ") for lab, names in rows(section("What may wait"))}
    for lab in MINUTES:
        exercises = {exercise.name: exercise.minutes for exercise in load_lab(lab)}
        kept = sum(exercises.values()) - sum(exercises[name] for name in waiting.get(lab, []))
        assert kept <= MINUTES[lab] * 5 / 6 or lab == "13", f"lab {lab}: {kept} of {MINUTES[lab]} minutes"


def test_where_learners_get_stuck_names_exercises_of_every_lab():
    stuck = rows(section("Where learners get stuck"))
    assert {lab for lab, *_ in stuck} == set(MINUTES) - {"00"}
    for lab, name, wrong, helps in stuck:
        assert name in {exercise.name for exercise in load_lab(lab)} and wrong and helps, f"lab {lab}: {name}"
    assert [lab for lab, *_ in stuck] == sorted(lab for lab, *_ in stuck)
