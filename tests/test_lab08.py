"""What lab 08 must prove, read from the executed notebook: each patient shows its symptom, each mend its threshold."""

from __future__ import annotations

import re

import pytest
from shown import outputs_of, the_output_of


@pytest.fixture(scope="module")
def outputs():
    return outputs_of("08_watching")


def rows_of(text: str) -> list[list[str]]:
    """The cells of a printed table's rows."""
    lines = text.split("\n")
    rule = next(i for i, line in enumerate(lines) if line.startswith("--"))
    return [re.split(r" {2,}", line.strip()) for line in lines[rule + 1 :] if line.strip()]


def test_every_check_of_the_solved_notebook_passed(outputs):
    checks = [text for source, text in outputs if "\ncheck(" in source]
    assert len(checks) >= 7 and all("passed" in text for text in checks)


def test_watching_costs_at_most_three_per_cent(outputs):
    assert "at most 3 %: True" in the_output_of(outputs, "inside = sorted(")


def test_tensorboard_keeps_the_four_curves(outputs):
    text = the_output_of(outputs, "board.scalars")
    for tag in ("train/loss", "eval/loss", "train/learning_rate", "train/grad_norm"):
        assert tag in text


def test_the_terminal_line_has_loss_speed_machine_and_steps(outputs):
    text = the_output_of(outputs, "terminal_line")
    assert re.search(r"12/12 .*loss [\d.]+ · [\d,]+ tokens/s · CPU .* GB", text), text


def test_overfitting_shows_and_more_data_mends_it(outputs):
    assert "overfitting" in the_output_of(outputs, "monitoring.diagnose(sick)")
    table = {row[0]: row for row in rows_of(the_output_of(outputs, "remedies = {"))}
    assert set(table) == {"sick", "early stopping", "lower rank", "lower alpha", "dropout", "weight decay", "more data"}
    assert table["sick"][3] == "overfitting" and table["more data"][3] == "healthy"
    assert len([row for row in table.values() if float(row[2]) <= 0.8]) >= 1
    assert float(table["more data"][2]) < float(table["sick"][2])
    assert float(table["early stopping"][2]) < float(table["sick"][2])


def test_memory_runs_out_and_both_remedies_together_make_it_fit(outputs):
    assert "out of memory" in the_output_of(outputs, 'clinic.sick("memory"))\nexcept')
    table = {row[0]: row for row in rows_of(the_output_of(outputs, "ways = {"))}
    fits = {name: row[2] == "yes" for name, row in table.items()}
    assert not fits["sick"] and not fits["checkpointing"] and not fits["four parts"]
    assert fits["both"] and fits["both, LoRA"] and fits["both, QLoRA"]
    budget = float(re.search(r"budget is (\d+) MB", the_output_of(outputs, "the budget is")).group(1))
    assert all(float(table[name][3]) <= budget for name in ("both", "both, LoRA", "both, QLoRA"))


def test_each_cure_of_slowness_is_named_before_and_makes_it_faster(outputs):
    assert "slow: the loader" in the_output_of(outputs, "clinic.slow_collator")
    assert "slow: padding" in the_output_of(outputs, "clinic.wide_collator")
    speeds = [float(row[2].replace(",", "")) for row in rows_of(the_output_of(outputs, "table(*times)"))]
    assert speeds[0] < speeds[1] < speeds[2], speeds


def test_the_right_form_answers_better_than_the_wrong_one_beyond_both_intervals(outputs):
    assert "wrong data format" in the_output_of(outputs, "monitoring.diagnose(sick, rows)")
    said = re.findall(r"([\d.]+)% \[([\d.]+)%, ([\d.]+)%\]", the_output_of(outputs, "letter for letter"))
    (_, _, high), (_, low, _) = said  # of the sick run, of the mended one
    assert float(low) > float(high) and "also" not in the_output_of(outputs, "monitoring.diagnose(sick, rows)")


def test_rate_and_base_are_told_apart_and_mended(outputs):
    assert "learning rate too high" in the_output_of(outputs, 'clinic.treat("rate", {}')
    names = [row[3] for row in rows_of(the_output_of(outputs, "for rate in (2e-6"))]
    assert names == ["learning rate too low", "healthy", "learning rate too high"]
    assert "base model knows nothing" in the_output_of(outputs, "clinic.blank_base")
    (noise, tiny) = rows_of(the_output_of(outputs, "lab08-based"))
    assert noise[3] == "base model knows nothing" and tiny[3] == "healthy" and float(tiny[2]) < float(noise[2])


GALLERY = {
    '"labels": [-100] * len(row["labels"])': ["tripwire loss_mask", "none of its", "all of its"],
    "masks_every_pad": ["tripwire end_of_turn"],
    "start, space": ["tripwire same_prompt", "part at token"],
    "learning_rate=1e-30": ["tripwire adapter_moved", "tripwire reload_agrees"],
    "class Meddler": ["tripwire frozen_stayed"],
    "def last_logits": ["tripwire batch_parity"],
    "requantise=again": ["merged into full precision", "at most 0.01: True", "at most 0.01: False"],
    "clinic.runtime": ["the same token ids of all 50 texts", "tripwire same_tokens"],
    "learning_rate=1e30": ["tripwire finite_loss", "next to nothing"],
    "leaked = ": ["tripwire no_leak"],
}


@pytest.mark.parametrize("code", GALLERY)
def test_each_silent_failure_is_provoked_and_caught(outputs, code):
    text = the_output_of(outputs, code)
    assert "nobody noticed" not in text
    assert all(words in text for words in GALLERY[code]), text
