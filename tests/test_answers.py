"""Every exercise of every lab: the reference passes, and each plausible wrong answer is told what is wrong with it."""

from importlib import import_module

import pytest

from labkit.exercises import verdict
from labkit.exercises.registry import lab_modules, load_lab

# Lab 13's answers are folders: test_capstone holds them to the same rule.
LABS = [name.removeprefix("lab") for name in lab_modules() if name != "lab13"]
ANSWERS = {lab: import_module(f"answers.lab{lab}") for lab in LABS}
EXERCISES = [(lab, name) for lab in LABS for name in ANSWERS[lab].REFERENCES]


@pytest.mark.parametrize("lab, name", EXERCISES)
def test_the_reference_passes(lab, name):
    found = verdict(name, ANSWERS[lab].REFERENCES[name])
    assert found.state == "passed", found.sentence


@pytest.mark.parametrize("lab, name", EXERCISES)
def test_an_untouched_answer_is_not_attempted(lab, name):
    assert verdict(name, ...).state == "not attempted"


@pytest.mark.parametrize("lab, name", EXERCISES)
def test_wrong_answers_fail_each_with_a_message_of_its_own(lab, name):
    said = [verdict(name, answer) for answer in ANSWERS[lab].WRONG[name]]
    assert [v.state for v in said] == ["wrong"] * len(said), [v for v in said if v.state != "wrong"]
    texts = [v.sentence for v in said]
    assert len(texts) >= 5
    assert len(set(texts)) == len(texts), "\n".join(sorted(texts))


@pytest.mark.parametrize("lab", LABS)
def test_every_exercise_of_a_lab_is_tried_here(lab):
    assert {e.name for e in load_lab(lab)} == set(ANSWERS[lab].REFERENCES) == set(ANSWERS[lab].WRONG)
