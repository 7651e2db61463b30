"""Judges tiny-base by full fine-tuning, as lab 02 does it: the tone of tickets of families never seen, three seeds.

Run after training, beside judge.py: python data/recipe/judge_full.py. It writes data/tiny-base/judged_full.json.
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

OUT = judge.DATA / "tiny-base" / "judged_full.json"
STEPS, RATE = PROFILES["tiny"].steps * 2 // 3, 1e-4  # as the notebook


def main() -> None:
    task = data.ticket_task("tone", "tiny")
    families = evaluation.groups_of(task.test)
    judged: dict = {"judged": judge.what_is_judged(), "steps": STEPS, "learning rate": RATE}
    base = evaluation.classify(*models.load("tiny"), task.test["prompt"], task.labels)
    judged["base, accuracy"] = str(evaluation.accuracy(task.test["label"], base, families))
    for seed in (0, 1, 2):
        with tempfile.TemporaryDirectory() as folder:
            run = finetune(task.train, model="tiny", method="full", steps=STEPS, learning_rate=RATE, seed=seed,
                           out=folder)
            said = evaluation.classify(*run.loaded, task.test["prompt"], task.labels)
        judged[f"full, seed {seed}"] = str(evaluation.accuracy(task.test["label"], said, families))
        print(seed, judged[f"full, seed {seed}"], f"{run.seconds:.0f} s", flush=True)
        OUT.write_text(json.dumps(judged, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
