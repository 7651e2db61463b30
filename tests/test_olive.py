"""labkit.olive: commands really run, their failures are told in a sentence, and what Olive writes is what we teach."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from exported import random_adapter
from packaging.version import Version
from safetensors.numpy import load_file

from labkit import LabError, data, models, olive, profiles
from labkit.export.adopt import adopt
from labkit.olive import parsing, warm, workflow
from labkit.olive.command import reason, tidy, without_warnings
from labkit.profiles import COURSE
from labkit.scratch import onnx_inputs

BUILD = "capture-onnx-graph -m base -a one --use_model_builder --use_ort_genai --precision fp32 -o captured"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A desk with two adapters on tiny-base, of other ranks, and a file of rows."""
    made = olive.Desk(tmp_path_factory.mktemp("desk"), "tiny")
    random_adapter(made.folder / "one", 4, 1)
    random_adapter(made.folder / "two", 8, 2)
    rows = data.ticket_task("tone").train.select(range(8))
    made.write("rows.jsonl", ({"phrase": row["text"], "tone": row["label"]} for row in rows))
    return made


@pytest.fixture(scope="module")
def served(desk):
    """One model with both adapters and one of zeros, by the commands of the lab."""
    desk.run(BUILD)
    desk.run("generate-adapter -m captured -o multi")
    desk.run("convert-adapters -a two -o two.onnx_adapter")
    first = olive.read_adapter(desk.path("multi/adapter_weights.onnx_adapter"))
    second = olive.read_adapter(desk.path("two.onnx_adapter"))
    olive.write_adapter({onnx_inputs.input_name(n): v for n, v in second.items()}, desk.folder / "renamed.onnx_adapter")
    olive.write_adapter(onnx_inputs.zeros(first), desk.folder / "zero.onnx_adapter")
    return adopt(desk.path("multi"), desk.path("base"), desk.folder / "served", {
        "one": desk.path("multi/adapter_weights.onnx_adapter"), "two": desk.path("renamed.onnx_adapter"),
        "base": desk.path("zero.onnx_adapter")})


@pytest.mark.parametrize("name", ["one", "two", "base", None])
def test_every_adapter_of_olives_model_gives_the_tokens_of_pytorch(desk, served, name):
    import torch

    from labkit import adapters

    model, tokenizer = models.load("tiny")
    model = model if name in ("base", None) else adapters.load(model, desk.path(name))
    for row in data.ticket_task("tone").test.select([0, 100]):
        ids = served.prompt_ids(row["prompt"])
        with torch.inference_mode():
            wanted = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False,
                                    pad_token_id=tokenizer.pad_token_id)[0, len(ids):].tolist()
        got = served.tokens(row["prompt"], 12, adapter=name)
        assert got == wanted[: len(got)] and len(got) >= min(12, len(wanted) - 1)


def test_the_other_way_for_a_model_that_the_builder_does_not_know_gives_pytorchs_logits(desk):
    import onnxruntime
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from labkit.export import to_onnx

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=2048, bos_token_id=0,
                                       eos_token_id=0)).eval()
    tokenizer = models.load("tiny")[1]
    with pytest.raises(LabError, match="olive capture-onnx-graph -m FOLDER") as caught:
        to_onnx((model, tokenizer), out=desk.folder / "by the builder")
    way = str(caught.value).partition("`olive ")[2].partition("`")[0]
    model.save_pretrained(desk.folder / "gpt2")
    tokenizer.save_pretrained(desk.folder / "gpt2")
    desk.run(f"{way.replace('FOLDER', 'gpt2')} -o traced")
    session = onnxruntime.InferenceSession(desk.path("traced/model.onnx"))
    ids = torch.randint(4, 2048, (3, 17))  # another shape than that of the trace
    with torch.no_grad():
        wanted = model(ids).logits.numpy()
    every = {"input_ids": ids, "attention_mask": torch.ones_like(ids),
             "position_ids": torch.arange(17).expand(3, 17).contiguous()}
    (logits,) = session.run(["logits"], {name: value.numpy() for name, value in every.items()})
    assert np.abs(logits - wanted).max() < 1e-4


def test_what_is_written_by_hand_is_what_convert_adapters_writes_but_for_the_names(desk, served):
    weights = load_file(desk.path("two/adapter_model.safetensors"))
    by_hand = onnx_inputs.to_inputs(weights, r=8, alpha=16)
    theirs = olive.read_adapter(desk.path("two.onnx_adapter"))
    assert {onnx_inputs.input_name(name) for name in theirs} == set(by_hand)
    for name, value in theirs.items():
        np.testing.assert_allclose(by_hand[onnx_inputs.input_name(name)], value, atol=1e-7)


def test_an_adapter_that_convert_adapters_left_as_it_is_does_not_fit_the_graph(desk, served):
    with pytest.raises(Exception, match="self_attn|[Ii]nput"):
        model = adopt(desk.path("multi"), desk.path("base"), desk.folder / "refused",
                             {"two": desk.path("two.onnx_adapter")})
        model.generate("hello", 2, adapter="two")


def test_a_report_names_seconds_files_and_bytes_and_keeps_the_whole_log(desk):
    done = desk.run("convert-adapters -a one -o alone/one.onnx_adapter")
    assert list(done.files) == ["one.onnx_adapter"] and done.bytes == done.log.parent.parent.joinpath(
        "alone/one.onnx_adapter").stat().st_size
    html = done._repr_html_()
    assert "olive convert-adapters" in str(done) and "<details>" in html
    assert "Exported adapter weights" in done.log.read_text(encoding="utf-8")
    assert str(desk.folder) not in html + str(done)


@pytest.mark.parametrize("command, said", [
    ("finetune -m base -d json --nonsense 1", "nonsense"),
    ("generate-adapter --base_model_path base --adapter_paths one", "-m"),
    ("convert-adapters -a nowhere -o x", "nowhere"),
    ("no-such-command", "no-such-command"),
])
def test_a_failed_command_says_in_a_line_why(desk, command, said):
    with pytest.raises(LabError, match="olive " + command.split()[0]) as told:
        desk.run(command)
    assert said in told.value.what and "\n" not in told.value.what and "logs/" in str(told.value)


def test_a_command_over_its_time_is_stopped(desk):
    with pytest.raises(LabError, match="still running"):
        desk.run(BUILD.replace("captured", "late"), timeout=0.2)
    assert desk.run("convert-adapters -a one -o after.onnx_adapter").files  # and the next one runs


def test_a_dry_run_leaves_the_workflow_and_nothing_else(desk):
    done = desk.run("optimize -m base --precision int4 --provider QNNExecutionProvider --device npu --dry_run -o plan")
    plan = olive.planned(desk.read("plan/config.json"))
    assert list(done.files) == ["config.json"] and plan["device"] == "npu"
    assert plan["execution provider"] == "QNNExecutionProvider" and "→" in plan["passes"]


def test_join_and_chop_is_what_olive_does(desk):
    from datasets import Dataset
    from olive.data.component.text_generation import text_gen_pre_process

    tokenizer = models.tokenizer("tiny")
    texts = [row["text"] for row in data.read("tickets/train").select(range(9))]
    theirs = text_gen_pre_process(Dataset.from_dict({"text": texts}), tokenizer,
                                  {"max_seq_len": 50, "add_special_tokens": False, "text_cols": "text"})
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    ours = onnx_inputs.join_and_chop(rows, tokenizer("\n\n", add_special_tokens=False)["input_ids"], 50)
    assert [theirs[i][0]["input_ids"].tolist() for i in range(len(theirs))] == ours and len(ours) > 9


def test_the_template_of_a_row_gives_the_tokens_that_labkit_trains_on():
    task, tokenizer = data.ticket_task("tone"), models.tokenizer("tiny")
    from labkit.data.encode import encode

    template = olive.text_template("tone", "tiny")
    rows = task.train.select(range(5))
    texts = [template.format(phrase=row["text"], tone=row["label"]) for row in rows]
    assert tokenizer(texts, add_special_tokens=False)["input_ids"] == encode(rows, tokenizer)["input_ids"][:]


def test_olives_parser_reads_training_arguments_too_and_refuses_what_nobody_knows():
    found = parsing.parse("olive finetune -m base -d json --learning_rate 1e-3 -o out".split())
    assert found["command"] == "finetune" and found["training"] == {"learning_rate": 1e-3}
    with pytest.raises(LabError, match="lr_rate"):
        parsing.parse("finetune -m base -d json --lr_rate 1e-3 -o out".split())


def test_a_workflow_is_completed_or_refused_without_being_run():
    passes = parsing.workflow(olive.masked_workflow("rows.jsonl", "out", steps=3))
    assert passes["lora"]["r"] == 8 and passes["lora"]["alpha"] == 16
    with pytest.raises(LabError, match="workflow"):
        parsing.workflow({"input_model": {"type": "NoSuchModel"}, "passes": {}})


def test_without_olive_there_is_a_sentence_that_says_how_to_get_it():
    code = ("import importlib.metadata as m, sys; real = m.version\n"
            "def version(name):\n    if name == 'olive-ai': raise m.PackageNotFoundError(name)\n    return real(name)\n"
            "m.version = version; sys.modules['olive'] = None\n"
            "from labkit import LabError, olive\n"
            "try: olive.Desk('x')\nexcept LabError as error: print(error)\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=COURSE, capture_output=True, text=True, check=True)
    assert "olive-ai is not installed" in done.stdout and ".[olive]" in done.stdout


def test_nothing_else_of_labkit_imports_olive():
    """The extra is one: every other module works where olive-ai is not there."""
    own = {path for path in (COURSE / "labkit").rglob("*.py")
           if any(line.startswith(("import olive", "from olive")) for line in
                  path.read_text(encoding="utf-8").splitlines())}
    assert own == {COURSE / "labkit" / "olive" / "script.py"}


def newer_genai(tmp_path) -> str:
    """What happens to Olive's ModelBuilder where genai has no `quantized_model`, as from 0.15 on."""
    code = ("import sys; sys.modules['onnxruntime_genai.models.quantized_model'] = None\n"
            "from olive.passes.onnx.model_builder import ModelBuilder\nModelBuilder.maybe_patch_quant()")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    return reason(done.stderr) if done.returncode else ""


def test_the_pin_on_genai_is_still_needed(tmp_path):
    """Fails on the day when it can be lifted: an Olive that no longer reaches into genai's `quantized_model`."""
    project = tomllib.loads((COURSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pin = next(p for p in project["optional-dependencies"]["olive"] if p.startswith("onnxruntime-genai"))
    assert "<0.15" in pin and Version(importlib.metadata.version("onnxruntime-genai")) < Version("0.15")
    said = newer_genai(tmp_path)
    assert "quantized_model" in said, (
        f"Olive {importlib.metadata.version('olive-ai')} no longer needs genai's quantized_model: try a newer "
        "onnxruntime-genai, and lift the pin in pyproject.toml and constraints.txt")


def test_a_log_is_told_without_bars_colours_and_places_of_the_machine(tmp_path):
    text = f"a\x1b[31mb\x1b[0m\n 0%|   |\r 50%|#  |\r100%|###|\n{tmp_path}/out\nValueError: too bad.\n"
    assert tidy(text, tmp_path).splitlines() == ["ab", "100%|###|", "./out", "ValueError: too bad."]
    assert reason(text) == "ValueError: too bad"
    assert reason("usage: olive\nolive: error: argument -d: expected one argument") == (
        "argument -d: expected one argument")


def test_a_folded_log_leaves_out_each_warning_with_the_line_that_it_quotes():
    log = "a.py:3: FutureWarning: soon gone\n  old(1)\nb.py:9: UserWarning: odd\n  warnings.warn(\n  kept: 3\n  done"
    assert without_warnings(log) == ("  kept: 3\n  done", 2)
    assert without_warnings("fine\n  done") == ("fine\n  done", 0)


def test_an_adapter_file_is_read_as_it_was_written_and_a_damaged_one_is_told(tmp_path):
    weights = {"a.lora_A.weight": np.arange(6, dtype=np.float32).reshape(3, 2)}
    file = olive.write_adapter(weights, tmp_path / "one.onnx_adapter")
    np.testing.assert_array_equal(olive.read_adapter(file)["a.lora_A.weight"], weights["a.lora_A.weight"])
    file.write_bytes(b"nothing")
    for where in (file, tmp_path / "none.onnx_adapter"):
        with pytest.raises(LabError, match="adapter"):
            olive.read_adapter(where)
    with pytest.raises(LabError, match="no weights"):
        olive.write_adapter({}, file)


def test_with_a_gpu_each_command_is_a_process_of_its_own(desk, monkeypatch):
    """A process that has looked for a GPU, as the one that forks has, leaves its children none."""
    monkeypatch.setattr(profiles, "device", lambda: "cuda")
    monkeypatch.setattr(warm, "call", lambda *_: pytest.fail("it was forked"))
    monkeypatch.setattr(subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 0))
    assert desk.run("finetune -m base -o nowhere").files == {}


RECORD = json.loads(workflow.TRIED.read_text(encoding="utf-8")) if workflow.TRIED.is_file() else {"rows": []}


def test_the_record_of_old_tutorials_is_of_the_installed_versions():
    assert len(RECORD["rows"]) >= 10
    for name in ("olive-ai", "onnxruntime-genai", "transformers"):
        assert RECORD["versions"][name] == importlib.metadata.version(name), "run `python data/try_olive.py`"
    assert all(row["today_error"] is None for row in RECORD["rows"])
    assert sum(row["error"] is not None for row in RECORD["rows"]) >= 8


@pytest.mark.parametrize("row", [row for row in RECORD["rows"] if isinstance(row["older"], str)],
                         ids=lambda row: row["about"])
def test_what_olives_parser_refuses_it_still_refuses_by_the_same_words(row):
    try:
        parsing.parse(row["older"].split())
    except LabError as error:
        assert error.what == row["error"]
    for command in [row["today"]] if isinstance(row["today"], str) else row["today"]:
        parsing.parse(command.split())
