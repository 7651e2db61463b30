"""What lab 11 must prove, read from the executed notebook."""

import re

import pytest
from shown import outputs_of, the_output_of

COMMANDS = ["finetune --method lora", "finetune --method qlora", "auto-opt", "optimize", "capture-onnx-graph",
            "generate-adapter", "convert-adapters", "run --config masked.json", "run --config whole.json",
            "run --config search.json"]


@pytest.fixture(scope="module")
def outputs():
    return outputs_of("11_olive")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_lab_ran_and_left_files(outputs, command):
    name = command.split()[0]
    source, text = next((s, t) for s, t in outputs if command in s and "desk.run" in s)
    found = re.findall(rf"olive {name}: [\d,]+ s, (\d+) files, ([\d,]+) bytes", text)
    if name in ("auto-opt", "optimize"):  # these two stand in a table of their own
        assert re.search(rf"^{name} -m base .* (\d[\d,]+)$", text, re.M), text
    elif name == "convert-adapters":
        assert "Invalid input name" in text
    else:
        assert found and int(found[0][0]) >= 1, text


def test_every_check_of_the_solved_notebook_passed(outputs):
    checks = [text for source, text in outputs if "\ncheck(" in source]
    assert len(checks) >= 4 and all("passed" in text for text in checks)


def test_a_dry_run_shows_the_file_behind_the_command(outputs):
    text = the_output_of(outputs, "--dry_run -o planned")
    assert '"data_files"' in text and '"max_seq_len"' in text and '"type": "lora"' in text


def test_labkit_and_olive_end_within_three_points_on_the_same_data_and_settings(outputs):
    assert "within 3 points: True" in the_output_of(outputs, "within 3 points:")


def test_the_search_tried_two_rates_and_two_ranks(outputs):
    rows = re.findall(r"^ *([\d.e-]+) +(4|16) +16 +(0\.\d+|[01])", the_output_of(outputs, "olive.trials("), re.M)
    assert len({rate for rate, _, _ in rows}) == 2 and len({rank for _, rank, _ in rows}) == 2 and len(rows) == 4


def test_two_adapters_and_the_base_answer_from_one_model_as_pytorch_does(outputs):
    text = the_output_of(outputs, "wanted = evaluation")
    rows = re.findall(r"^(tone|summary|base|\(none\)) +(\d+) +(\d+)$", text, re.M)
    assert [name for name, _, _ in rows] == ["tone", "summary", "base", "(none)"]
    assert all(asked == same for _, asked, same in rows), rows


def test_by_hand_is_what_olive_writes(outputs):
    gap = float(re.search(r"by hand: (\S+)", the_output_of(outputs, "by_hand =")).group(1))
    assert gap <= 1e-6


def test_the_table_of_older_tutorials_shows_what_olive_answered(outputs):
    text = the_output_of(outputs, "olive.tried()")
    for word in ("--task_name", "--adapter_paths", "--use_ort_genai", "PyTorchModel", "c_attn", "--logging_dir",
                 "--memory", "AzureML"):
        assert word in text, word
    extras = the_output_of(outputs, "olive.tried_extras()")
    assert all(word in extras for word in ("auto-opt", "gpu", "cpu", "directml", "azureml"))


def test_every_target_has_a_plan_of_its_own(outputs):
    text = the_output_of(outputs, "plans.append")
    for provider in ("CPUExecutionProvider", "CUDAExecutionProvider", "DmlExecutionProvider", "QNNExecutionProvider",
                     "VitisAIExecutionProvider", "OpenVINOExecutionProvider"):
        assert provider in text
