"""Workflow files of Olive: the text of a row, one that trains as labkit does, what a search tried.

Beside `command`, which runs them: plain dicts go in and out, so that a notebook can show and change every line.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import models, profiles
from labkit.data.template import PROMPTS, render
from labkit.errors import LabError
from labkit.tables import Table
from labkit.trainer import WARMUP
from labkit.training import capped

if TYPE_CHECKING:
    from collections.abc import Mapping

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # of Llama and its kin
SCRIPT = str(Path(__file__).with_name("script.py"))  # what a workflow names as user_script
TRIED = profiles.COURSE / "data" / "olive_tried.json"


def text_template(task: str = "tone", model: str | None = None) -> str:
    """The text of a row with {phrase} and {tone}: what labkit serves, the answer, and the end of turn.

    Args:
        task: one of the ticket tasks. model: whose chat template; None is the current profile's.
    """
    tokenizer = models.tokenizer(model)
    end = tokenizer.decode([models.end_of_turn(tokenizer)])
    return render(tokenizer, PROMPTS[task].replace("{text}", "{phrase}")) + "{tone}" + end


def training_arguments(steps: int, batch_size: int | None = None) -> dict:
    """What labkit's own training tells the Trainer, for a workflow's `training_args`; the profile says the rest."""
    profile, steps = profiles.current(), capped(steps)
    return {
        "max_steps": steps, "per_device_train_batch_size": batch_size or profile.batch_size,
        "learning_rate": profile.learning_rate, "lr_scheduler_type": "cosine",
        "warmup_steps": math.ceil(WARMUP * steps), "optim": "adamw_torch", "seed": 0, "data_seed": 0,
        "gradient_checkpointing": False, "logging_steps": max(1, steps // 4), "dataloader_pin_memory": False,
    }


def masked_workflow(rows: str, out: str, steps: int, rank: int = 8, batch_size: int | None = None) -> dict:
    """A workflow that trains LoRA as `labkit.finetune` does: same rows, same mask, same schedule, same start.

    Args:
        rows: a file with the columns prompt and completion. out: the folder for the adapter.
        steps: capped by LABKIT_STEPS. rank: alpha is twice as much. batch_size: None is the profile's.
    """
    return {
        "input_model": {"type": "HfModel", "model_path": "base"},
        "data_configs": [{
            "name": "tickets", "type": "HuggingfaceContainer", "user_script": SCRIPT,
            "load_dataset_config": {"data_name": "json", "data_files": [rows], "split": "train"},
            "pre_process_data_config": {"type": "prompt_masked", "max_seq_len": profiles.current().max_length},
        }],
        "passes": {"lora": {
            "type": "LoRA", "r": rank, "alpha": 2 * rank, "lora_dropout": 0.0, "target_modules": list(LINEAR),
            "torch_dtype": "float32", "allow_tf32": False,  # TF32 would round each product on a GPU, labkit's does not
            "train_data_config": "tickets", "training_args": training_arguments(steps, batch_size),
        }},
        "output_dir": out, "no_artifacts": True,
    }


def trials(footprint: str | Path, metric: str = "tone-accuracy_score") -> Table:
    """What a search tried, best first, from the footprint.json that Olive writes.

    Raises:
        LabError: there is none, or it holds no trial with this metric.
    """
    file = Path(footprint)
    try:
        nodes = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabError("no footprint of a search", where=file.name,
                       todo="Run the workflow with a search_strategy and no_artifacts false") from error
    rows = []
    for node in (nodes.get("nodes") or nodes).values():
        settings, found = node.get("pass_run_config"), node.get("metrics")
        if not settings or not found or not found.get("value"):
            continue
        value = found["value"][metric]["value"]
        arguments = settings["training_args"] or {}
        rows.append({"learning rate": arguments["learning_rate"], "r": settings["r"], "alpha": settings["alpha"],
                     "accuracy (validation)": value, "seconds": round(node["end_time"] - node["start_time"], 1)})
    if not rows:
        raise LabError("the search has no trial that was scored", where=file.name)
    return Table(sorted(rows, key=lambda row: -row["accuracy (validation)"]))


def planned(config: Mapping) -> dict:
    """What a config.json of a dry run would do: where, and the passes in their order."""
    system = next(iter(config["systems"].values()))["accelerators"][0]
    return {"device": system.get("device", "-"), "execution provider": ", ".join(system["execution_providers"]),
            "passes": " → ".join(entry["type"] for entry in config["passes"].values())}


def tried() -> Table:
    """The table of what older tutorials say, from the record that data/try_olive.py wrote.

    Raises:
        LabError: nothing was recorded yet.
    """
    if not TRIED.is_file():
        raise LabError("nothing was recorded yet", where="data/olive_tried.json", todo="Run python data/try_olive.py")
    record = json.loads(TRIED.read_text(encoding="utf-8"))
    rows = [{"about": row["about"], "older tutorial": _short(row["older"]),
             "Olive's answer": row["error"] or "(none, it works)", "today": _short(row["today"]),
             "works": row["today_error"] is None, "why": row["why"]}
            for row in record["rows"]]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return Table(rows, f"Tried with {versions}")


def tried_extras() -> Table:
    """What `pip install olive-ai[extra]` would add, by the installed package's own word."""
    record = json.loads(TRIED.read_text(encoding="utf-8"))
    return Table([{"olive-ai[...]": row["extra"], "adds": row["adds"], "": row["why"]} for row in record["extras"]])


def _short(command: str | list | dict) -> str:
    """A command without the words that all rows share, or a workflow's telling part."""
    if isinstance(command, list):
        return ", then ".join(map(_short, command))
    if isinstance(command, dict):
        telling = {key: value for key, value in command.items() if key != "passes"}
        return f"workflow: {json.dumps(telling)}"
    command = command.replace(
        " -d json --data_files tone.jsonl --text_field phrase --torch_dtype float32 --max_seq_len 128 --max_steps 1",
        " ...")
    return "olive " + command.removesuffix(" -o out")
