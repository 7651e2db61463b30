"""Tries what older Olive tutorials say, and what to say today: `python data/try_olive.py` writes data/olive_tried.json.

Every row's command really runs in a folder with tiny-base and a few tickets; what Olive answers is kept as it came.
A minute or two. Rows that were tried with the same words and versions are kept; `--again` tries all of them anew.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path

from labkit import data, models, olive
from labkit.errors import LabError
from labkit.profiles import COURSE, machine

FILE = COURSE / "data" / "olive_tried.json"
LORA = "-d json --data_files tone.jsonl --text_field phrase --torch_dtype float32 --max_seq_len 128 --max_steps 1"
CAPTURE = "capture-onnx-graph -m base -a adapter --use_model_builder --use_ort_genai --precision fp32 -o captured"
BASE_MODEL = {"type": "HfModel", "model_path": "base"}
BUILDER = {"b": {"type": "ModelBuilder", "precision": "fp32"}}
TRAIN = {"name": "train", "type": "HuggingfaceContainer",
         "load_dataset_config": {"data_name": "json", "data_files": ["tone.jsonl"], "split": "train"},
         "pre_process_data_config": {"text_cols": "phrase", "max_seq_len": 128}}

# (about, what older tutorials say, what to say today, why); a dict is a workflow file
ROWS = [
    ("task", f"finetune -m base {LORA} --task_name text-generation -o out",
     f"finetune -m base {LORA} -t text-generation -o out",
     "--task_name became -t, --task; text generation is the default, so it may be left out"),
    ("generate-adapter", "generate-adapter --base_model_path base --adapter_paths adapter -o out",
     [CAPTURE, "generate-adapter -m captured -o out"],
     "it takes an ONNX model that has an adapter in it; making that is the work of capture-onnx-graph"),
    ("capture for genai", "capture-onnx-graph -m base -a adapter --use_ort_genai --precision fp32 -o out", CAPTURE,
     "--use_ort_genai alone traces with PyTorch, which trips over transformers 5; the builder reads the weights"),
    ("auto-opt", "auto-opt -m base -a adapter --use_ort_genai --precision int4 -o out",
     "auto-opt -m base -a adapter --use_model_builder --precision int4 -o out",
     "the same, one command further; auto-opt itself is deprecated for optimize"),
    ("optimize with an adapter", "optimize -m base -a adapter --precision int4 -o out",
     "optimize -m base -a adapter --precision fp32 -o out",
     "at int4 optimize plans GPTQ first, and GPTQ wants a model without an adapter: merge first, or take fp32"),
    ("model type",
     {"input_model": {"type": "PyTorchModel", "config": {"hf_config": {"model_name": "base"}}}, "passes": BUILDER},
     {"input_model": BASE_MODEL, "passes": BUILDER}, "Hugging Face models are HfModel, with model_path"),
    ("target modules", f"finetune -m base {LORA} --target_modules c_attn -o out",
     f"finetune -m base {LORA} --target_modules q_proj,v_proj -o out",
     "c_attn is DialoGPT's (GPT-2's) name for query, key and value in one; Llama has a matrix for each"),
    ("logging of finetune", f"finetune -m base {LORA} --logging_dir logs -o out",
     f"finetune -m base {LORA} --logging_steps 1 --report_to none -o out",
     "an option that Olive has not goes to transformers' TrainingArguments, and these have lost some in version 5"),
    ("Olive's own log", f"finetune -m base {LORA} --verbose -o out", f"finetune -m base {LORA} --log_level 1 -o out",
     "0 is everything, 4 nothing but disasters; the default, 3, hides why a pass failed"),
    ("memory of finetune", f"finetune -m base {LORA} --memory 8000 -o out",
     f"finetune -m base {LORA} --per_device_train_batch_size 1 --gradient_accumulation_steps 16 -o out",
     "no option limits memory; smaller batches with accumulation and checkpointing (on by default) save it"),
    ("evaluation of finetune", f"finetune -m base {LORA} --evaluation_strategy no -o out",
     f"finetune -m base {LORA} --eval_strategy no -o out", "renamed in transformers; Olive hands it on"),
    ("Azure ML as a system", {"input_model": BASE_MODEL, "systems": {"cloud": {"type": "AzureML"}}, "passes": BUILDER},
     {"input_model": BASE_MODEL, "systems": {"here": {"type": "LocalSystem"}}, "passes": BUILDER},
     "what runs in the cloud is a machine on which you run olive; systems are LocalSystem, PythonEnvironment, Docker"),
    ("search without a metric", {"input_model": BASE_MODEL, "passes": BUILDER, "search_strategy": True},
     {"input_model": BASE_MODEL, "passes": BUILDER, "search_strategy": False}, "a search needs an evaluator"),
]
EXTRAS = {"auto-opt": "adds optimum, which the model builder does not use",
          "gpu": "another build of onnxruntime: uninstall onnxruntime first, both write to one folder",
          "cpu": "onnxruntime, which labkit[olive] brings",
          "directml": "another build of onnxruntime, for Windows",
          "azureml": "to read models from a registry of Azure ML"}


def try_one(desk: olive.Desk, what: str | dict | list) -> str | None:
    """What Olive says against it, or None where it works."""
    try:
        if isinstance(what, dict):
            desk.write("try.json", {**what, "output_dir": "out", "no_artifacts": True, "evaluate_input_model": False})
            desk.run("run --config try.json")
        else:
            for command in [what] if isinstance(what, str) else what:
                desk.run(command)
    except LabError as error:
        return error.what
    return None


def extras() -> list[dict]:
    """What `pip install olive-ai[...]` would add, from the metadata of the installed package."""
    needs = importlib.metadata.requires("olive-ai") or []
    return [{"extra": name, "adds": ", ".join(n.split(";")[0].strip() for n in needs if f'"{name}"' in n) or None,
             "why": why} for name, why in EXTRAS.items()]


def stage(folder: Path) -> olive.Desk:
    """A desk with the first tickets, and an adapter on tiny-base that has not been trained."""
    from labkit import adapters

    desk = olive.Desk(folder, "tiny")
    rows = data.read("tickets/train").select(range(64))
    desk.write("tone.jsonl", ({"phrase": row["text"], "tone": row["tone"]} for row in rows))
    adapters.save(adapters.attach_lora(models.load("tiny")[0], rank=4), folder / "adapter")
    return desk


def main(again: bool) -> None:
    versions = {**olive.installed(), **{name: importlib.metadata.version(name)
                                        for name in ("transformers", "peft", "torch")}}
    old = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() and not again else {"versions": None}
    known = {row["about"]: row for row in old["rows"]} if old["versions"] == versions else {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        desk = stage(Path(folder))
        for about, older, today, why in ROWS:
            asked = json.loads(json.dumps({"about": about, "older": older, "today": today}))
            row = known.get(about, {})
            if {key: row.get(key) for key in asked} != asked:
                row = {**asked, "error": try_one(desk, older), "today_error": try_one(desk, today)}
            rows.append({**row, "why": why})
            print(f"{about}\n  older: {row['error']}\n  today: {row['today_error']}", flush=True)
            record = {"rows": rows, "extras": extras(), "versions": versions, "machine": machine()}
            FILE.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main("--again" in sys.argv)
