"""What lab 00 must show, read from the executed notebook."""

import re

import pytest
from shown import outputs_of, the_output_of

from labkit.exercises.atlas import labs


@pytest.fixture(scope="module")
def outputs():
    return outputs_of("00_start_here")


def test_the_first_tuned_answer_stands_beside_the_base_models(outputs):
    text = the_output_of(outputs, 'SideBySide({"base model"')
    said = {name: re.search(rf"^{name} +(.+)$", text, re.M).group(1) for name in ("base model", "fine-tuned")}
    assert said["base model"] != said["fine-tuned"]


def test_the_doctors_table_names_what_a_learner_has_to_know(outputs):
    text = the_output_of(outputs, "doctor.examine()")
    for what in ("Python", "cores", "memory", "GPU", "disk", "path", "encoding", "libraries", "hub", "profile"):
        assert re.search(rf"^ok +{what} ", text, re.M), what
    assert "(the course)/.venv" in text  # and no path of the machine that built it


def test_the_switch_leaves_what_is_in_force_in_its_place(outputs):
    assert the_output_of(outputs, "ProfileSwitch(doctor").strip().startswith("tiny: ")


def test_the_map_shows_every_lab_with_its_minutes(outputs):
    text = the_output_of(outputs, "course_map()")
    for lab in labs():
        assert re.search(rf"^ *{lab.number} .* {lab.minutes} +\d+ of \d+$", text, re.M), lab
