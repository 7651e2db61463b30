"""What lab 04 must prove, read from the executed notebook."""

import json
import re

import pytest
from shown import outputs_of, the_output_of

from labkit.profiles import COURSE


@pytest.fixture(scope="module")
def outputs():
    return outputs_of("04_qlora")


def percents(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+)%", text)]


def accuracies(text: str, *names: str) -> list[float]:
    return [percents(re.search(rf"^{name} +([\d.]+%)", text, re.M).group(1))[0] for name in names]


def test_the_base_in_nf4_takes_at_most_30_per_cent_of_its_fp32_bytes_the_embedding_included(outputs):
    line = re.search(r"^whole model  +(.*)$", the_output_of(outputs, "weight_bytes(part(full))"), re.M).group(1)
    fp32, nf4 = (int(number.replace(",", "")) for number in line.split()[:2])
    assert nf4 <= 0.30 * fp32 and percents(line)[0] <= 30


def test_the_accuracy_of_qlora_is_within_two_points_of_lora_s(outputs):
    lora, qlora = accuracies(the_output_of(outputs, 'rows.append({"": name, "accuracy": str(scores[name])'),
                             "LoRA", "QLoRA")
    assert abs(qlora - lora) <= 2 and lora > 75


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_so_with_three_seeds(seed):
    judged = json.loads((COURSE / "data" / "tiny-base" / "judged_methods.json").read_text(encoding="utf-8"))
    lora, qlora = (float(judged[f"{way}, seed {seed}"].split("%")[0]) for way in ("LoRA", "QLoRA"))
    assert abs(qlora - lora) <= 2 and lora > 75


def test_all_codes_made_by_hand_are_those_of_bitsandbytes(outputs):
    text = the_output_of(outputs, "functional.quantize_4bit")
    equal, total = re.search(r"([\d,]+) of ([\d,]+) codes", text).groups()
    assert equal == total and "all: True" in text


def test_every_check_of_the_solved_notebook_passed(outputs):
    checks = [text for source, text in outputs if "\ncheck(" in source]
    assert len(checks) == 8
    assert all(text.startswith("passed") for text in checks)


def test_memory_is_predicted_within_a_tenth_before_it_is_measured(outputs):
    off = percents(the_output_of(outputs, '"off by"'))
    assert len(off) == 3 and max(off) <= 10
    rows = re.findall(r" ([\d.]+) +([\d.]+) +([\d.]+) +[\d.]+$", the_output_of(outputs, '"predicted MB"'), re.M)
    guesses, found, losses = zip(*[[float(x) for x in row] for row in rows], strict=True)
    assert len(rows) == 4 and all(abs(a / b - 1) <= 0.1 for a, b in zip(guesses, found, strict=True))
    assert max(losses) - min(losses) < 1e-3
    assert max(found[1:3]) < found[0] and found[3] < min(found[:3])


def test_smaller_blocks_and_nf4_levels_err_less(outputs):
    even, nf4 = percents(the_output_of(outputs, '"15, even"').split("levels")[1])
    assert nf4 < even
    eight, four = percents(the_output_of(outputs, "absmax_codes").split("error")[1])
    assert eight < 10 < four


def test_only_the_merge_into_the_dequantised_base_is_the_model_that_was_trained(outputs):
    text = the_output_of(outputs, '"mean gap, nats"')
    ways = ("merged into the dequantised base", "merged into the fp32 base", "merged, then quantised again")
    same, fp32, again = (float(re.search(rf"^{way}.*?% +([\d.]+) +[\d,]+$", text, re.M).group(1)) for way in ways)
    assert same < 1e-3 < fp32 and again > 10 * max(same, 1e-4)
