"""What lab 01 must prove, read from the executed notebook."""

import re

import pytest
from shown import outputs_of, the_output_of


@pytest.fixture(scope="module")
def outputs():
    return outputs_of("01_data_preparation")


def test_every_planted_fault_is_found_and_none_invented(outputs):
    text = the_output_of(outputs, "precision=")
    planted, found, precision, recall = text.splitlines()[-1].split()
    assert planted == found and int(planted.replace(",", "")) > 200
    assert float(precision) == float(recall) == 1


def test_packing_raises_the_share_of_real_tokens_to_95_per_cent(outputs):
    shares = [float(x) for x in re.findall(r"([\d.]+)%", the_output_of(outputs, "packs = pack("))]
    padded, packed = shares
    assert padded < 95 <= packed


def test_packing_leaves_the_loss_as_it_is(outputs):
    losses = [float(x) for x in re.findall(r"^p\w+ +([\d.]+)", the_output_of(outputs, "def once("), re.M)]
    assert len(losses) == 2 and abs(losses[0] - losses[1]) < 2e-3


def test_each_spoilt_training_is_caught_by_a_tripwire_and_the_sound_one_is_not(outputs):
    text = the_output_of(outputs, "no objection")
    said = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    assert said.pop("sound") == "no objection"
    assert len(said) == 4 and all("tripwire" in sentence for sentence in said.values()), text


def test_a_random_split_over_families_flatters_beyond_the_interval(outputs):
    text = the_output_of(outputs, "at_random = ")
    lows = {name: re.search(rf"^{name} .*?\[([\d.]+)%, ([\d.]+)%\]", text, re.M).groups()
            for name in ("by family", "at random")}
    assert float(lows["at random"][0]) > float(lows["by family"][1]), text
