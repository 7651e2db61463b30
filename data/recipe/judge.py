"""Judges tiny-base by what it makes teachable: a LoRA adapter for each of the ticket tasks, on families never seen.

Run after training: python data/recipe/judge.py. It writes data/tiny-base/judged.json, which the cards quote.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

from labkit import data, evaluation, inbox, models
from labkit.evaluation import Score, accuracy
from labkit.profiles import PROFILES
from labkit.training import finetune

sys.path.insert(0, str(Path(__file__).resolve().parent))
import corpus  # noqa: E402

DATA = Path(__file__).resolve().parent.parent
USUAL = PROFILES["tiny"].steps
TASKS = {"tone": USUAL, "intent": USUAL, "entities": 200, "summary": 200, "reply": 200}  # steps of 16 rows
GENERATED = 192  # test rows for the tasks in which the model writes


def judge(task: str, steps: int, seed: int, base: str) -> dict[str, str | float]:
    """Train one adapter and score base and tuned on the test families."""
    train, test = data.read("tickets/train"), data.read("tickets/test")
    if task not in data.LABELS:
        test = test.select(range(GENERATED))
    rows, held = data.ticket_examples(train, task), data.ticket_examples(test, task)
    with tempfile.TemporaryDirectory() as folder:
        run = finetune(rows, model=base, steps=steps, seed=seed, group_by_length=True, out=folder)
        tuned, tokenizer = run.loaded
    plain, _ = models.load(base)
    found: dict[str, str | float] = {"steps": steps, "seconds": run.seconds, "trainable share": round(run.share, 4)}
    started = time.monotonic()
    for name, model in (("base", plain), ("LoRA", tuned)):
        for score in scores(task, test, held, model, tokenizer):
            found[f"{name}, {score.metric}"] = str(score)
    found["scoring seconds"] = round(time.monotonic() - started, 1)
    return found


def scores(task: str, tickets, held, model, tokenizer) -> list[Score]:
    """The figures that the labs must reach, by task."""
    families, truth = evaluation.groups_of(held), list(held["completion"])
    if task in data.LABELS:
        said = evaluation.classify(model, tokenizer, held["prompt"], data.LABELS[task])
        return [accuracy(held["label"], said, families), evaluation.macro_f1(held["label"], said, families)]
    said = evaluation.generate(model, tokenizer, held["prompt"], max_new_tokens=110)
    if task == "entities":
        return evaluation.entity_scores(truth, said, families)
    return [evaluation.rouge_l(truth, said, families), *inbox.names(task, tickets, said).values()]


def with_the_reading_of_the_base(train, test) -> dict[str, str]:
    """What a bag of words reaches that has read the base's sentences on moods too: it shows how much they give away."""
    moods = [(line, tone) for tone, lines in corpus.World().moods.items() for line in lines]
    both = [*moods, *zip(train["text"], train["tone"], strict=True)]
    found = {}
    for name, rows in (("moods", moods), ("moods and tickets", both)):
        said = evaluation.bag_of_words(*map(list, zip(*rows, strict=True)), test["text"])
        found[f"bag of words, {name} read"] = str(accuracy(test["tone"], said, list(test["family"])))
    return found


def what_is_judged() -> dict[str, str]:
    """Hashes of the weights and of the tickets, so that figures of other ones are told apart from these."""
    files = [DATA / "tiny-base" / "model.safetensors", *sorted((DATA / "tickets").glob("*.jsonl"))]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--out", type=Path, default=DATA / "tiny-base" / "judged.json")
    args = parser.parse_args()
    judged = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    judged["judged"] = what_is_judged()
    if "tone" in args.tasks:
        train, test = data.read("tickets/train"), data.read("tickets/test")
        for column in ("tone", "intent"):
            said = evaluation.bag_of_words(train["text"], train[column], test["text"])
            judged[f"bag of words, {column}"] = str(accuracy(test[column], said, list(test["family"])))
        judged |= with_the_reading_of_the_base(train, test)
    for task in args.tasks:
        for seed in (0, 1, 2) if task == "tone" else (0,):
            found = judge(task, TASKS[task], seed, args.base)
            judged[f"{task}, seed {seed}"] = found
            print(task, seed, json.dumps(found, indent=1), flush=True)
            args.out.write_text(json.dumps(judged, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
