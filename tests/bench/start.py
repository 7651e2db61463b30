"""Part 6, starting: what one waits for before anything happens, each time in a process of its own.

The first trained step is timed from the start of a Jupyter kernel to the end of a step on tiny-base, with all that a
learner's first cell brings: imports, loading, encoding, tripwires.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from bench.options import Options, environment
from bench.turns import Job, Way, refuse, top
from labkit.errors import LabError
from labkit.exercises.progress import EMPTY, now
from labkit.exercises.registry import lab_modules, load_lab
from labkit.profiles import COURSE

PART = "start"
PATIENCE = 600  # seconds that a kernel has
LEARNERS, CLASS_SECONDS = 300, 10  # a class whose progress is shown, and what that may take
COURSE_SECONDS, TEST_SECONDS = 12 * 60, 30 * 60  # what all solved labs may take, and `make test`, on two cores
WHOLE = ("course", "tests")  # what takes so long that it is run only where it is asked for
DONE = "first step done"
SAY = f"""
from transformers import TrainerCallback
class Say(TrainerCallback):
    def on_step_end(self, *args, **kwargs):
        print({DONE!r}, flush=True)
"""
FINETUNE = SAY + """
from labkit import data
from labkit.training import finetune
finetune(data.ticket_task("tone").train, model="tiny", steps=1, out="run", callbacks=[Say()])
"""
PLAIN = SAY + f"""
folder, tickets = {str(COURSE / "data/tiny-base")!r}, {str(COURSE / "data/tickets/train.jsonl")!r}
""" + """
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, default_data_collator
tokenizer = AutoTokenizer.from_pretrained(folder)
def encode(row):
    made = tokenizer(row["text"] + row["tone"], padding="max_length", truncation=True, max_length=256)
    return {**made, "labels": list(made["input_ids"])}
rows = load_dataset("json", data_files=tickets, split="train", cache_dir="cache")
rows = rows.map(encode, remove_columns=rows.column_names)
model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(target_modules="all-linear"))
arguments = TrainingArguments("trainer", max_steps=1, per_device_train_batch_size=16, report_to=[], save_strategy="no",
                              dataloader_pin_memory=False)
Trainer(model=model, args=arguments, train_dataset=rows, data_collator=default_data_collator, callbacks=[Say]).train()
"""


def process(code: str) -> dict[str, float]:
    """Seconds of a new Python that runs some code."""
    return command([sys.executable, "-c", code])


def command(words: list[str], **more: str) -> dict[str, float]:
    """Seconds of a command, in this checkout; `more` is put into its environment. What it prints is not kept.

    Raises:
        LabError: it failed, and its last lines.
    """
    started = time.perf_counter()
    done = subprocess.run(words, env=environment() | more, cwd=COURSE, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode:
        raise LabError(f"{' '.join(words[-3:])} ended with {done.returncode}: {done.stdout[-2000:]}",
                       where="bench, start")
    return {"seconds": time.perf_counter() - started}


def kernel(code: str) -> dict[str, float]:
    """Seconds from the start of a Jupyter kernel to the line DONE of its first cell, and to its readiness.

    Raises:
        LabError: the cell ended without that line.
    """
    from jupyter_client.manager import KernelManager

    with tempfile.TemporaryDirectory() as folder:
        manager, started = KernelManager(), time.perf_counter()
        manager.start_kernel(env=environment(), cwd=folder)
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=PATIENCE)
            ready = time.perf_counter() - started
            said = _said(client, client.execute(code))
            return {"seconds": said - started, "kernel ready, s": ready}
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def _said(client, cell: str) -> float:
    """When a cell says DONE."""
    seen = ""
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        kind, content = message["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != cell:
            continue
        if kind == "stream":
            seen += content["text"]
            if DONE in seen:
                return time.perf_counter()
        elif kind == "error" or content.get("execution_state") == "idle":
            why = content.get("evalue") or seen[-200:] or "it said nothing"
            raise LabError(f"the cell ended without a trained step ({why})", where="bench, start")


def profiled(code: str) -> str:
    """A new Python that runs some code under cProfile, imports included."""
    with tempfile.TemporaryDirectory() as folder:
        file, script = Path(folder) / "profile", Path(folder) / "script.py"
        script.write_text(code, encoding="utf-8")
        words = [sys.executable, "-m", "cProfile", "-o", str(file), str(script)]
        subprocess.run(words, env=environment(), cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return top(str(file))


def write_class(folder: Path, learners: int, seed: int = 0) -> None:
    """A progress file for each of so many learners, half-way through the course; a seed gives the same class again."""
    rng = random.Random(seed)
    exercises = [item for lab in lab_modules() for item in load_lab(lab.removeprefix("lab"))]
    for number in range(learners):
        reached, known = rng.randrange(len(exercises)), {}
        for item in exercises[: reached + 1]:
            passed = now() if rng.random() < 0.8 else None
            known[item.name] = {**EMPTY, "lab": item.lab, "attempts": rng.randint(1, 9), "passed": passed,
                                "hints": rng.randint(0, 3), "last": "" if passed else f"not yet: {item.name}"}
        content = json.dumps({"version": 1, "exercises": known})
        (folder / f"learner-{number:03}.json").write_text(content, encoding="utf-8")


def class_job(folder: Path) -> Job:
    """How long a teacher waits for the tables of a large class."""
    folder.mkdir(parents=True, exist_ok=True)
    write_class(folder, LEARNERS)
    name, words = "labkit progress --class", ["progress", "--class", str(folder)]
    code = f"from labkit.cli import main; main({words!r})"
    way = Way(name, partial(command, [sys.executable, "-m", "labkit", *words]), partial(profiled, code))
    return Job(PART, f"a class of {LEARNERS}", "seconds", [way], more=False, limits=[(name, "seconds", CLASS_SECONDS)])


def whole_jobs(asked: Sequence[str] = WHOLE) -> Iterator[Job]:
    """All solved labs without a browser, and `make test`: once each, since they take up to half an hour."""
    course = [sys.executable, "-m", "labkit", "course", "--solutions"]
    why = ("there is no make" if not shutil.which("make")
           else "`make lab` has not made .venv yet" if not (COURSE / ".venv/.labkit-stamp").is_file() else "")
    # As somebody calls it: the bench's own settings are taken away again.
    test = ["env", "-u", "PYTHONPATH", "-u", "HF_HUB_OFFLINE", "-u", "CUDA_VISIBLE_DEVICES", "make", "test"]
    elsewhere = refuse("other processes do the work; pytest's own --durations says where the time goes")
    for key, what, name, run, most in (
        ("course", "the whole course, once", "labkit course --solutions",
         partial(command, course, LABKIT_PROFILE="tiny"), COURSE_SECONDS),
        ("tests", "the whole of the tests, once", "make test", refuse(why) if why else partial(command, test),
         TEST_SECONDS),
    ):
        if key in asked:
            yield Job(PART, what, "seconds", [Way(name, run, elsewhere)], more=False, limits=[(name, "seconds", most)],
                      rounds=1)


def jobs(options: Options) -> Iterator[Job]:
    """`import labkit` against a Python that imports nothing; a first step by finetune against one by the Trainer; a
    large class; and where it is asked for, the whole course and its tests."""

    def way(name: str, run: Callable[[str], dict], code: str) -> Way:
        return Way(name, partial(run, code), partial(profiled, code))

    imports = {"import labkit": "import labkit", "nothing": "pass", "import torch": "import torch"}
    yield Job(PART, "a new Python", "seconds", [way(name, process, code) for name, code in imports.items()],
              [("import labkit", "nothing"), ("import labkit", "import torch")], more=False)
    first = [way("finetune", kernel, FINETUNE), way("plain Trainer", kernel, PLAIN)]
    yield Job(PART, "kernel to first trained step", "seconds", first, [("finetune", "plain Trainer")], more=False)
    yield class_job(options.scratch / "class")
    yield from whole_jobs(options.whole)
