"""What lab 09 must prove, read from the executed notebook."""

import re

import pytest
from shown import outputs_of, the_output_of


@pytest.fixture(scope="module")
def outputs():
    return outputs_of("09_hyperparameter_search")


def test_every_check_of_the_solved_notebook_passed(outputs):
    checks = [text for source, text in outputs if "\ncheck(" in source]
    assert len(checks) >= 3
    assert all(text.startswith("passed") for text in checks)


def test_twenty_trials_take_at_most_90_seconds(outputs):
    text = the_output_of(outputs, "default = found.counted[0]")
    assert "20 trials in " in text and "two cores in 90 s or less: True" in text, text


def test_memory_stays_flat_over_twenty_trials(outputs):
    assert "less than 5 %: True" in the_output_of(outputs, "default = found.counted[0]")


def test_the_best_beats_the_default_on_validation(outputs):
    text = the_output_of(outputs, "default = found.counted[0]")
    assert "the best beats the default on validation: True" in text, text


def test_the_test_set_is_opened_once(outputs):
    assert re.search(r"the default +[\d.]+% \[", the_output_of(outputs, "found.tested or found.open_test"))
    refused = [text for source, text in outputs if "\n    found.open_test(tuned)" in source]
    assert len(refused) == 1 and "the test rows were opened at" in refused[0] and "after 20 trials" in refused[0]


def test_a_study_that_is_asked_for_again_has_nothing_to_do(outputs):
    assert "20 trials, the same best: True" in the_output_of(outputs, "again = search.study")


def test_by_hand_and_by_the_library_the_same_trials_are_stopped(outputs):
    text = the_output_of(outputs, "median, by hand")
    by_hand, library = (re.search(rf"median, {name} +(.*)", text).group(1).split() for name in ("by hand", "optuna"))
    assert by_hand == library


def test_a_killed_worker_loses_no_trial_and_repeats_none(outputs):
    lost = re.search(r"trial (\d+) lost its worker", the_output_of(outputs, "psutil.Process")).group(1)
    text = the_output_of(outputs, 'names = {worker')
    assert f"done again: [{lost}]" in text
    ended = re.findall(r"(?m)^ +\d+ +[A-D] +(?:done|stopped early) .*? (\d\.\d\de-\d\d +\d+)$", text)
    assert len(ended) == 6 == len(set(ended)), text  # a trial that was stopped early has come to its end, too
    assert len(re.findall(r"failed", text)) == 1


def test_the_noise_of_the_seed_is_shown(outputs):
    text = the_output_of(outputs, "five other seeds:")
    assert len(set(re.findall(r"[\d.]+%", text))) >= 3, text


def test_transformers_own_search_gives_a_best_run(outputs):
    assert re.search(r"trial \d: validation loss [\d.]+ nats", the_output_of(outputs, "hyperparameter_search("))
