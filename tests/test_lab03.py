"""What lab 03 must prove, read from the executed notebook and from the record of the judge."""

import json
import re

import pytest
from shown import outputs_of, the_output_of

from labkit.profiles import COURSE


def percent(text: str) -> float:
    return float(re.match(r"([\d.]+)%", text).group(1))


@pytest.fixture(scope="module")
def outputs():
    return outputs_of("03_lora")


def figures(outputs) -> tuple[float, float, float]:
    """Share of trained parameters, accuracy of base and LoRA, in per cent."""
    text = the_output_of(outputs, 'scores["LoRA"]')
    share = float(re.search(r"([\d.]+)% of the parameters", text).group(1))
    base, tuned = (percent(re.search(rf"^{name} +([\d.]+%)", text, re.M).group(1)) for name in ("base model", "LoRA"))
    return share, base, tuned


def test_the_solved_notebook_trains_a_twentieth_and_beats_the_bag_of_words(outputs):
    share, base, tuned = figures(outputs)
    words = percent(re.search(r"bag of words +([\d.]+%)", the_output_of(outputs, 'scores["LoRA"]')).group(1))
    assert share <= 6 and base <= 40 and tuned >= words + 10


def test_the_solved_notebook_shows_the_row_of_the_course(outputs):
    assert figures(outputs)[2] >= 90


def test_every_check_of_the_solved_notebook_passed(outputs):
    checks = [text for source, text in outputs if "\ncheck(" in source]
    assert len(checks) >= 6
    assert all(text.startswith("passed") for text in checks)


def test_a_short_trial_learns_enough_to_compare_settings_by(outputs):
    text = the_output_of(outputs, "explorer.table()")
    lows = [float(low) for low in re.findall(r"\[([\d.]+)%, [\d.]+%\]", text)]
    assert len(lows) >= 2 and max(lows) > 100 / 6, text


def test_by_hand_equals_library_and_merged_equals_unmerged(outputs):
    assert "below 1e-5: True" in the_output_of(outputs, "theirs.lora_B")
    assert "tickets: True" in (merged := the_output_of(outputs, "adapters.merge")) and "0.001: True" in merged


def test_dropout_shakes_the_detour_in_training_and_not_in_eval(outputs):
    text = the_output_of(outputs, "one pass in train()")
    rows = [[float(x) for x in re.findall(r"[\d.]+", line)] for line in text.strip().splitlines()[2:]]
    assert [row[0] for row in rows] == [0, 0.1, 0.5] and all(row[3] < 0.1 for row in rows)
    none, some, half = (row[1] for row in rows)
    assert none < 0.1 and 20 < some < 50 and 70 < half < 150
    assert all(row[2] < row[1] / 10 for row in rows[1:])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_base_and_share_are_within_the_row_for_three_seeds(seed):
    judged = json.loads((COURSE / "data" / "tiny-base" / "judged.json").read_text(encoding="utf-8"))
    found = judged[f"tone, seed {seed}"]
    assert percent(found["base, accuracy"]) <= 40
    assert found["trainable share"] <= 0.06


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_row_of_accuracy_holds_for_three_seeds(seed):
    judged = json.loads((COURSE / "data" / "tiny-base" / "judged.json").read_text(encoding="utf-8"))
    assert percent(judged[f"tone, seed {seed}"]["LoRA, accuracy"]) >= 90
