"""What lab 12 must prove, read from the executed notebook."""

import re

import pytest
from shown import outputs_of, the_output_of


@pytest.fixture(scope="module")
def outputs():
    return outputs_of("12_scaling_out")


def gap(text: str) -> float:
    return float(re.search(r"difference (\S+) nats", text).group(1))


def test_every_check_of_the_solved_notebook_passed(outputs):
    checks = [text for source, text in outputs if "\ncheck(" in source]
    assert len(checks) >= 3
    assert all(text.startswith("passed") for text in checks)


def test_accumulation_is_the_bigger_batch_and_the_mean_of_means_is_not(outputs):
    text = the_output_of(outputs, "def gradient(")
    assert "below 1e-4: True" in text
    assert float(re.search(r"means: off by ([\d.]+)%", text).group(1)) > 1
    assert gap(the_output_of(outputs, "gradient_accumulation_steps")) < 1e-4


def test_two_processes_reach_the_loss_of_one(outputs):
    said = re.findall(r"process (\d) of 2: loss (\S+)", the_output_of(outputs, '"torchrun"'))
    assert sorted(rank for rank, _ in said) == ["0", "1"] and len({loss for _, loss in said}) == 1
    text = the_output_of(outputs, "one process:  ")
    losses = [re.findall(r"\d\.\d{4}", line) for line in text.splitlines()[:2]]
    assert gap(text) < 1e-4 and len(losses[0]) == len(losses[1]) == 10


def test_only_one_process_wrote(outputs):
    files = the_output_of(outputs, "two.folder.rglob").split()
    assert files.count("run.json") == 1 and not [name for name in files if "rank" in name or "rng" in name]


def test_a_dead_worker_ends_the_run_with_a_sentence_and_one_process_goes_on(outputs):
    text = the_output_of(outputs, '"die"')
    assert "checkpoint-5 is whole" in text and "process 1 was ended by SIGKILL" in text
    assert gap(the_output_of(outputs, "mended")) < 1e-4


def test_weights_were_split_in_halves_and_gave_the_loss_of_whole_ones(outputs):
    text = the_output_of(outputs, "split weights against")
    assert gap(text) < 1e-4
    assert 49 <= float(re.search(r"held ([\d.]+)%", text).group(1)) <= 51


def test_the_bill_has_a_row_for_each_gpu(outputs):
    text = the_output_of(outputs, "prices = ")
    assert all(re.search(rf"^{gpu}\b.*\d\.\d\d$", text, re.M) for gpu in ("T4", "L4", "A100", "H100"))
