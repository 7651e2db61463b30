"""What lab 05 must prove, read from the executed notebook."""

import re

import pytest
from shown import outputs_of, the_output_of

TASKS = ("tone", "entities", "summary", "reply")


@pytest.fixture(scope="module")
def outputs():
    return outputs_of("05_adapters_and_many_tasks")


def percents(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+)%", text)]


def line(text: str, name: str) -> str:
    return re.search(rf"^{name}  +(.*)$", text, re.M).group(1)


def figure(outputs, name: str) -> float:
    return percents(line(the_output_of(outputs, "inbox.names("), name))[0]


def test_every_check_of_the_solved_notebook_passed(outputs):
    checks = [text for source, text in outputs if "\ncheck(" in source]
    assert len(checks) == 7
    assert all(text.startswith("passed") for text in checks)


def test_bottlenecks_start_as_nothing_come_back_from_disk_and_leave_the_base_bit_identical(outputs):
    assert "True" in the_output_of(outputs, "adapters.attach_bottleneck")
    text = the_output_of(outputs, "adapters.load_bottleneck")
    assert text.count("True") == 2 and "False" not in text
    before, after = re.search(r"loss ([\d.]+) -> ([\d.]+)", the_output_of(outputs, "losses = relatives.train")).groups()
    assert float(after) < float(before)


def test_ia3_by_hand_equals_pefts(outputs):
    assert "below 1e-5: True" in the_output_of(outputs, "bottleneck.ia3_forward")


def test_the_whole_family_stands_in_one_table_and_its_best_beats_chance(outputs):
    from labkit.adapters import family

    text = the_output_of(outputs, "relatives.family_trial")
    rows = [line(text, kind) for kind in family.KINDS]
    assert max(percents(row)[1] for row in rows) > 100 / 8  # the lower end of an interval, over one in eight
    sizes = [int(row.split()[-1].replace(",", "")) for row in rows]
    trained = [int(row.split()[0].replace(",", "")) for row in rows]
    assert all(4 * n <= size for n, size in zip(trained, sizes, strict=True))


def test_each_adapter_beats_the_base_and_every_other_on_its_own_task_outside_the_intervals(outputs):
    text = the_output_of(outputs, '"better than all"')
    assert all(line(text, task).endswith("yes") for task in TASKS)
    grid = the_output_of(outputs, "evaluation.evaluate_model((model, tokenizer), rows, task")
    for column, task in enumerate(TASKS):
        low = percents(line(grid, task))[3 * column + 1]
        others = [percents(line(grid, name))[3 * column + 2] for name in ("base", *TASKS) if name != task]
        assert low > max(others)


@pytest.mark.parametrize("name, least", [
    ("parses", 98),
    ("entity F1", 85),
    ("exact order", 95),
    ("summary names the product", 90),
    ("summary names the intent", 90),
    ("reply names the product", 90),
    ("reply names the intent", 90),
])
def test_the_figures_of_the_course_hold_on_unseen_families(outputs, name, least):
    assert figure(outputs, name) >= least


def test_a_switch_moves_no_weight_and_is_quicker_than_a_load(outputs):
    text = the_output_of(outputs, "data_ptr()")
    assert "where it was: True" in text and "quicker: True" in text


def test_a_saved_bank_comes_back_with_all_four_and_the_active_one(outputs):
    assert "tone, entities, summary, reply | active: summary" in the_output_of(outputs, "Bank.load(")


def test_an_adapter_costs_its_own_bytes_a_small_share_of_the_base(outputs):
    text = the_output_of(outputs, "bank.bytes(name)")
    assert all(0 < percents(line(text, task))[0] < 10 for task in TASKS)


def test_three_adapters_that_do_not_belong_are_refused_each_with_its_reason(outputs):
    text = the_output_of(outputs, "def refused")
    assert text.count("refused:") == 3
    for reason in ("lacks 1 of its", "has rank 8", "another base"):
        assert reason in text


def test_a_mixed_batch_equals_its_rows_one_by_one(outputs):
    rows, same = re.search(r"rows: (\d+) .*: (\d+)", the_output_of(outputs, "with bank.each(names) as rows:")).groups()
    assert int(rows) == int(same) == 10
    assert "below 1e-3: True" in the_output_of(outputs, "mixed = bank.model")


def test_a_mix_is_scored_on_both_tasks_in_every_way_and_a_merged_adapter_answers_as_before(outputs):
    text = the_output_of(outputs, "bank.mix(how")
    assert all(len(percents(line(text, how))) == 6 for how in ("entities", "summary", "cat", "svd", "linear", "ties",
                                                               "dare_linear"))
    assert "below 0.01: True" in the_output_of(outputs, 'merged, ids = bank.merge("summary")')


def test_the_router_sends_most_letters_to_the_right_adapter(outputs):
    text = the_output_of(outputs, "Router(train")
    everything, sure, _ = (percents(row) for row in re.findall(r"\d+ of 96 .*", text))
    assert everything[0] >= 75 and sure[0] >= everything[0]


def by_decoding(text: str) -> dict[tuple[str, str], list[float]]:
    return {row[:2]: percents(row[2]) for row in re.findall(r"^(\w+) +(free|constrained) +(.*)$", text, re.M)}


def test_a_grammar_makes_all_json_parse_and_knows_nothing_of_the_letter(outputs):
    found = by_decoding(the_output_of(outputs, "evaluation.JsonObject("))
    assert found["base", "constrained"][0] == found["entities", "constrained"][0] == 100
    assert found["base", "constrained"][5] < found["entities", "free"][4]  # F1: upper end below lower end
    found = by_decoding(the_output_of(outputs, "evaluation.OneOf("))
    assert found["base", "constrained"][0] == found["tone", "constrained"][0] == 100
    assert found["base", "constrained"][5] < found["tone", "constrained"][4]


def test_adapters_merge_on_every_architecture_and_tied_embeddings_stay_one_matrix(outputs):
    from labkit.adapters import architectures

    text = the_output_of(outputs, "architectures.linear_names(base)")
    assert all(line(text, name).endswith("yes") for name in architectures.NAMES)
    assert "c_attn, c_proj, c_fc" in line(text, "GPT-2")
    assert the_output_of(outputs, "modules_to_save").count("True") == 2
