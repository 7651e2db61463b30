"""Judges tiny-base by the ways to train it, three seeds each, as labs 02 and 04 do it, on families never seen.

Run after training, beside judge.py: python data/recipe/judge_methods.py. It writes data/tiny-base/judged_methods.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from labkit import data, evaluation, models
from labkit.profiles import PROFILES
from labkit.training import finetune

sys.path.insert(0, str(Path(__file__).resolve().parent))
import judge  # noqa: E402

OUT = judge.DATA / "tiny-base" / "judged_methods.json"
TINY = PROFILES["tiny"]
SHORT = {"steps": TINY.steps // 2, "group_by_length": True}
LORA = SHORT | {"learning_rate": 0.75 * TINY.learning_rate}
WAYS = {  # task: method: settings, as in the two notebooks
    "tone": {"full": SHORT | {"method": "full", "learning_rate": 1e-4}},
    "intent": {"LoRA": LORA, "QLoRA": LORA | {"quantize": "nf4"}},
}


def main() -> None:
    judged: dict = {"judged": judge.what_is_judged()}
    for task_name, ways in WAYS.items():
        task = data.ticket_task(task_name, "tiny")
        families = evaluation.groups_of(task.test)

        def accuracy(model, tokenizer, task=task, families=families) -> str:
            said = evaluation.classify(model, tokenizer, task.test["prompt"], task.labels)
            return str(evaluation.accuracy(task.test["label"], said, families))

        judged[f"{task_name}, base"] = accuracy(*models.load("tiny"))
        for way, settings in ways.items():
            judged[f"{way}, settings"] = settings
            for seed in (0, 1, 2):
                with tempfile.TemporaryDirectory() as folder:
                    run = finetune(task.train, model="tiny", seed=seed, out=folder, **settings)
                    judged[f"{way}, seed {seed}"] = accuracy(*run.loaded)
                print(way, seed, judged[f"{way}, seed {seed}"], f"{run.seconds:.0f} s", flush=True)
                OUT.write_text(json.dumps(judged, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
