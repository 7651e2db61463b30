"""What lab 06 must prove, read from the executed notebook."""

import re

import pytest
from shown import outputs_of, the_output_of


@pytest.fixture(scope="module")
def outputs():
    return outputs_of("06_custom_losses")


def score(text: str, name: str, column: int = 0) -> tuple[float, float, float]:
    """Value and interval of a table's row, in per cent."""
    row = re.search(rf"^{name} +(.*)$", text, re.M).group(1)
    return tuple(float(x) for x in re.findall(r"(-?[\d.]+)% \[(-?[\d.]+)%, (-?[\d.]+)%\]", row)[column])


def test_every_check_of_the_solved_notebook_passed(outputs):
    checks = [text for source, text in outputs if "\ncheck(" in source]
    assert len(checks) >= 6
    assert all(text.startswith("passed") for text in checks)


def test_the_root_at_zero_is_seen_to_give_nan_and_the_loss_passes_both_gradient_checks(outputs):
    assert "gradient: [[nan, nan, nan]]" in the_output_of(outputs, "torch.ones(1, 3, requires_grad=True)")
    text = the_output_of(outputs, "gradcheck")
    assert "agree to 1e-7: True" in text and "gradcheck: True" in text


def test_y_turned_round_moves_apart_what_means_the_same(outputs):
    text = the_output_of(outputs, "turned round")
    (same, other), (same_turned, other_turned) = re.findall(r"([\d.]+) ([\d.]+)$", text, re.M)
    assert float(same) < 0.1 < 0.9 < float(other)
    assert float(same_turned) > float(other_turned)


def test_the_margin_is_seen_to_be_too_small_for_raw_states_and_to_suit_those_of_length_1(outputs):
    text = the_output_of(outputs, "pushed at margin")
    raw, unit = (re.search(rf"^{name} .*", text, re.M).group(0) for name in ("raw states", "of length 1"))
    assert re.findall(r"(\d+)%", raw) == ["0", "0", "100"]
    assert int(re.findall(r"(\d+)%", unit)[1]) >= 50


def test_by_hand_equals_the_library_and_four_batches_by_items_equal_one(outputs):
    values = re.findall(r"\d\.\d{6}", the_output_of(outputs, "by_hand.masked_cross_entropy"))
    assert len(values) == 3 and max(map(float, values)) - min(map(float, values)) < 1e-5
    text = the_output_of(outputs, "mean of means")
    assert "by items equal: True" in text and "mean of means equal: False" in text


def test_info_nce_finds_more_than_the_base_beyond_the_intervals(outputs):
    text = the_output_of(outputs, "for name, run in tuned.items()")
    assert score(text, "InfoNCE")[1] > score(text, "base model")[2]


def test_recall_rises_by_30_points(outputs):
    text = the_output_of(outputs, "for name, run in tuned.items()")
    assert score(text, "InfoNCE")[0] - score(text, "base model")[0] >= 30


def test_class_weights_lift_the_rare_class_beyond_doubt(outputs):
    gain = score(the_output_of(outputs, "before=plain"), "class-weighted", 1)
    assert gain[1] > 0


STUDENTS = ("48 labels", "teacher's picks", "doubt, T = 1", "doubt, T = 4", "all labels")


def test_the_students_are_smaller_and_the_teacher_is_the_whole_base(outputs):
    text = the_output_of(outputs, 'own = hits["student, 48 labels"]')
    sizes = [int(re.search(rf"^{name} +([\d,]+)", text, re.M).group(1).replace(",", ""))
             for name in ("teacher", *(f"student, {kind}" for kind in STUDENTS))]
    assert len(set(sizes[1:])) == 1 and sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize("kind", STUDENTS[1:4])
def test_a_student_without_labels_gains_by_its_teacher_beyond_doubt(outputs, kind):
    text = the_output_of(outputs, 'own = hits["student, 48 labels"]')
    assert score(text, f"student, {kind}", 1)[1] > 0
