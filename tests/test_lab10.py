"""What lab 10 must prove, read from the executed notebook."""

import re

import pytest
from shown import outputs_of, the_output_of


@pytest.fixture(scope="module")
def outputs():
    return outputs_of("10_onnx_export")


def table_of(text: str, first: str) -> list[list[str]]:
    """Rows of a printed table behind its head, which begins with a word; cells stand two spaces apart."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith(first))
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[start + 2 :] if line.strip()]
    return rows


def test_every_check_of_the_solved_notebook_passed(outputs):
    checks = [text for source, text in outputs if re.search(r"^check\(", source, re.M)]
    assert len(checks) >= 5
    assert all(text.startswith("passed") for text in checks)


def test_greedy_tokens_equal_pytorchs_on_200_held_out_tickets(outputs):
    text = the_output_of(outputs, "torch_says =")
    assert "same answer on 200 of 200" in text and "below 0.01: True" in text
    assert "the same tokens: True" in the_output_of(outputs, "by_hand.greedy")


def test_int4_is_at_most_35_per_cent_and_within_three_points(outputs):
    text = the_output_of(outputs, "points lost")
    lost, share = re.search(r"points lost \(below 0: won\): (-?[\d.]+); whole folder: ([\d.]+)%", text).groups()
    assert float(share) <= 35 and float(lost) <= 3


def test_the_road_ends_nearer_to_fp32_than_the_builders_default(outputs):
    text = the_output_of(outputs, "steps = road(")
    found = {row[0]: float(row[1]) for row in table_of(text, "recipe")}
    assert len(found) >= 5
    assert found["gptq, 8 bits for v, o and down_proj"] == min(found.values()) < found["builder, default"] / 2


def test_every_adapter_is_token_equal_to_peft_and_the_base_to_the_base(outputs):
    text = the_output_of(outputs, "peft_says =")
    pairs = re.findall(r"the same on (\d+) of (\d+)", text)
    assert len(pairs) == 3 and all(same == of for same, of in pairs)


def test_five_contenders_stand_side_by_side(outputs):
    rows = table_of(the_output_of(outputs, "measure_one(name"), "first token")
    assert [row[0] for row in rows] == ["PyTorch fp32", "PyTorch bf16", "PyTorch merged", "ONNX fp32", "ONNX int4"]
    decode = {row[0]: float(row[3].replace(",", "")) for row in rows}
    assert decode["ONNX int4"] > 5 * decode["PyTorch fp32"]
    memory = {row[0]: float(row[4].replace(",", "")) for row in rows}
    assert memory["ONNX int4"] < memory["PyTorch fp32"] / 2


def test_the_server_streams_and_sends_away_whom_it_cannot_take(outputs):
    assert "['base', 'tone', 'intent']" in the_output_of(outputs, "/models")
    assert the_output_of(outputs, "deltas =").strip().endswith("[DONE]")
    assert re.search(r"\{200: \d+, 429: \d+\}", the_output_of(outputs, "pool.map(status"))


def test_the_ledger_finds_nothing_that_drifted(outputs):
    rows = table_of(the_output_of(outputs, "ledger = follow("), "stage")
    assert [row[0] for row in rows] == ["base", "adapter", "merged", "ONNX fp32", "ONNX int4", "served"]
    assert "nothing drifted" in the_output_of(outputs, "ledger.drifts()")


def test_bad_input_stops_with_a_sentence(outputs):
    text = the_output_of(outputs, "fp32.generate(\"  \")")
    assert all(part in text for part in ("empty", "context", "no adapter 'tone'", "no such folder"))
