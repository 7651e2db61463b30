"""What lab 01 must prove, read from the executed notebook."""

import json
import re

import pytest
from shown import outputs_of, the_output_of

from labkit.profiles import COURSE


@pytest.fixture(scope="module")
def outputs():
    return outputs_of("01_data_preparation")


def test_every_planted_fault_is_found_and_none_invented(outputs):
    text = the_output_of(outputs, "precision=")
    planted, found, precision, recall = text.splitlines()[-1].split()
    assert planted == found and int(planted.replace(",", "")) > 200
    assert float(precision) == float(recall) == 1


def test_a_hub_that_cannot_be_reached_is_told_in_a_sentence_that_says_what_to_do(outputs):
    text = the_output_of(outputs, '"hub:')
    assert text.startswith("hub:") and "the hub cannot be reached" in text and "Try again with a network" in text


def test_rows_in_both_forms_become_prompt_and_completion(outputs):
    head, _, pair, chat = the_output_of(outputs, '{"messages": chat}').strip().splitlines()
    assert head.split() == ["columns", "form", "prompt", "completion", "line"]
    assert re.match(r"input, output +completion +Do you mend tents\? +Yes, poles and zips\.", pair)
    assert re.match(r"messages +messages +\[\{'role': 'system', .*\{'role': 'user', .*\}\] +Yes, poles", chat)


def test_only_a_split_by_group_keeps_families_apart_and_stratifying_evens_the_shares(outputs):
    text = the_output_of(outputs, "ways = {\"at random\"")
    found = {name: re.search(rf"^{name} .* ([\d.]+)% +(\d+)$", text, re.M).groups()
             for name in ("at random", "stratified", "by group", "both")}
    gaps, families = ({name: float(row[column]) for name, row in found.items()} for column in (0, 1))
    assert families["by group"] == families["both"] == 0 < min(families["at random"], families["stratified"])
    assert gaps["stratified"] < gaps["at random"] and gaps["both"] < gaps["by group"]


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
    text = the_output_of(outputs, "splits, by_split = ")
    for column in (0, 1):  # the bag of words, and the adapter
        found = {name: re.findall(r"\[([\d.]+)%, ([\d.]+)%\]", re.search(rf"^{name} .*", text, re.M)[0])[column]
                 for name in ("by family", "at random")}
        assert float(found["at random"][0]) > float(found["by family"][1]), text


def shares(line: str) -> list[float]:
    return [float(x) for x in re.findall(r"(-?[\d.]+)%", line)]


def test_what_counts_too_much_or_too_little_costs_accuracy_beyond_the_interval(outputs):
    text = the_output_of(outputs, "def cost(")
    found = {name: shares(re.search(rf"^{name} .*", text, re.M)[0]) for name in (
        "sound", "the prompt counts too", "only the end counts", "trained without the template")}
    _, low, _ = found.pop("sound")
    assert low >= 60 and all(high < low for _, _, high in found.values()), text


def test_more_rows_of_the_rare_class_find_more_of_it_beyond_the_interval(outputs):
    text = the_output_of(outputs, "def gain(")
    lows = {name: shares(re.search(rf"^{name} .*", text, re.M)[0])[2] for name in ("copies", "word noise", "back-fill")}
    assert all(low > 0 for low in lows.values()), text


def test_half_as_many_rows_with_right_labels_teach_more_beyond_the_interval():
    book = json.loads((COURSE / "solutions" / "01_data_preparation.ipynb").read_text(encoding="utf-8"))
    alts = [output["metadata"]["image/png"]["alt"] for cell in book["cells"] if cell["cell_type"] == "code"
            for output in cell["outputs"] if "image/png" in output.get("metadata", {})]
    (right, wrong), = (re.findall(r": ([^;]*)", alt) for alt in alts if alt.startswith("right labels"))
    scores = [re.findall(r"\[([\d.]+)%, ([\d.]+)%\]", line) for line in (right, wrong)]
    assert float(scores[0][2][0]) > float(scores[1][3][1]), alts


def test_every_check_of_the_solved_notebook_passed(outputs):
    checks = [text for source, text in outputs if "\ncheck(" in source]
    assert len(checks) >= 7 and all(text.startswith("passed") for text in checks)
