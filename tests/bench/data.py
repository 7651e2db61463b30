"""Part 5, the way of the data: rows from file to tokens, how time and memory grow, and a file that is only read.

Every measurement has a process of its own. What it may take is a limit: where one is broken, the bench ends with 1.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.options import Options
from bench.turns import Job, Way, own_time
from labkit.profiles import COURSE, python_path

PART = "data"
ROWS, SECONDS, MEGABYTES = 100_000, 60, 2_000  # read, inspected, split, encoded, packed: rows and what they may take
FILE_MEGABYTES, READ_MEGABYTES = 1_000, 500  # a file that is only read, and the memory that this may take
LEAST = 1_000  # rows that growth begins with
PACK = 512  # tokens of a pack


def write_rows(file: Path, rows: int, megabytes: float = 0, seed: int = 0) -> None:
    """Letters made of tickets: every second one is a ticket with other numbers, the rest have sentences of several.

    Args:
        file: JSONL with text and label.
        rows: so many, or
        megabytes: as many as fill so much, where it is above 0.
        seed: the same seed gives the same bytes.
    """
    rng, written = random.Random(seed), 0
    tickets: dict[str, list[str]] = {}
    for line in (COURSE / "data/tickets/train.jsonl").read_text(encoding="utf-8").splitlines():
        ticket = json.loads(line)
        tickets.setdefault(ticket["tone"], []).append(ticket["text"])
    with file.open("w", encoding="utf-8", newline="\n") as out:
        while written < (megabytes * 10**6 or rows):
            label = rng.choice(list(tickets))
            text = rng.choice(tickets[label])
            if rng.random() < 0.5:
                sentences = [s for t in rng.sample(tickets[label], 3) for s in re.split(r"(?<=[.!?]) ", t)]
                text = " ".join(rng.sample(sentences, min(len(sentences), rng.randint(2, 5))))
            text = re.sub(r"\d{5}", lambda _: str(rng.randrange(10_000, 100_000)), text)
            line = json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n"
            out.write(line)
            written += len(line.encode()) if megabytes else 1


class Laps:
    """Seconds of each step: by the clock, and of work, which on a busy machine is less."""

    def __init__(self):
        self.steps: dict[str, tuple[float, float]] = {}
        self.before = time.perf_counter(), time.process_time()

    def __call__(self, step: str) -> None:
        now = time.perf_counter(), time.process_time()
        self.steps[step] = now[0] - self.before[0], now[1] - self.before[1]
        self.before = now


def pipeline(file: Path) -> dict[str, tuple[float, float]]:
    """The steps from a file to packs of encoded rows; imports are not counted."""
    from datasets.utils import disable_progress_bars
    from transformers import AutoTokenizer

    from labkit.data import inspect, read, split
    from labkit.data.encode import encode, pack

    disable_progress_bars()
    tokenizer, lap = AutoTokenizer.from_pretrained(COURSE / "data/tiny-base"), Laps()
    rows = read(file)
    lap("read")
    inspect(rows, tokenizer=tokenizer)
    lap("inspect")
    splits = split(rows, stratify="label")
    lap("split")
    encoded = [encode(part.rename_columns({"text": "prompt", "label": "completion"}), tokenizer)
               for part in splits.values()]
    lap("encode")
    for part in encoded:
        pack(part, PACK)
    lap("pack")
    return lap.steps


def only_read(file: Path) -> dict[str, tuple[float, float]]:
    """The one step of reading a file."""
    from labkit.data import read

    lap = Laps()
    read(file)
    lap("read")
    return lap.steps


STEPS = {"pipeline": pipeline, "only_read": only_read}


def alone(kind: str, what: str, file: Path) -> str:
    """What a process prints that takes these steps and does nothing else; `kind` as in `step`."""
    words = [sys.executable, str(Path(__file__).parent), "--step", kind, what, str(file)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, cwd=COURSE,
                          env={**os.environ, "PYTHONPATH": python_path()})
    return done.stdout


def step(kind: str, what: str, file: Path) -> str:
    """Take steps in this very process: JSON of the figures for the kind "measure", a text for "profile"."""
    if kind == "profile":
        return own_time(partial(STEPS[what], file))
    return json.dumps({"steps": STEPS[what](file), "megabytes": peak()})


def measured(what: str, file: Path) -> tuple[dict[str, tuple[float, float]], float]:
    """The steps and their seconds, and the peak of memory (resident, in MB) of a process that does nothing else."""
    found = json.loads(alone("measure", what, file).splitlines()[-1])
    return found["steps"], found["megabytes"]


def peak() -> float:
    """The most memory that this process has had, in MB."""
    import resource  # there is none on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (10**6 if sys.platform == "darwin" else 10**6 / 1024)


def taken(what: str, file: Path, rows: int) -> dict[str, float]:
    """Figures of the steps: seconds of each, of all by the clock and of work, rows a second, memory."""
    steps, megabytes = measured(what, file)
    clock, work = (sum(pair) for pair in zip(*steps.values(), strict=True))
    each = {f"{name}, s": seconds for name, (seconds, _) in steps.items()}
    speed = {"rows/s": rows / clock} if rows else {}
    return {**speed, **(each if len(each) > 1 else {}), "all, s": clock, "of work, s": work, "memory, MB": megabytes}


def way(name: str, what: str, file: Path, rows: int) -> Way:
    """Steps on a file, measured and profiled in processes of their own."""
    return Way(name, partial(taken, what, file, rows), partial(alone, "profile", what, file))


def growth(folder: Path, most: int) -> Job:
    """The whole way for 1,000 rows, ten times as many, and so on up to `most`; the limits hold for 100,000."""
    ways, rows = [], LEAST
    while rows <= most:
        write_rows(file := folder / f"rows-{rows}.jsonl", rows)
        ways.append(way(f"{rows:,} rows", "pipeline", file, rows))
        rows *= 10
    names, limited = [way.name for way in ways], f"{ROWS:,} rows"
    limits = [(limited, "all, s", SECONDS), (limited, "memory, MB", MEGABYTES)] if limited in names else []
    return Job(PART, "read, inspect, split, encode, pack", "rows/s", ways, [(name, names[0]) for name in names[1:]],
               limits=limits)


def jobs(options: Options) -> Iterator[Job]:
    """Growth up to `options.rows`; where they are as many as the limits are for, the large file too."""
    options.scratch.mkdir(parents=True, exist_ok=True)
    yield growth(options.scratch, options.rows)
    if options.rows >= ROWS:
        write_rows(file := options.scratch / "large.jsonl", 0, FILE_MEGABYTES)
        name = f"a JSONL of {FILE_MEGABYTES:,} MB"
        yield Job(PART, "read alone", "all, s", [way(name, "only_read", file, 0)], more=False,
                  limits=[(name, "memory, MB", READ_MEGABYTES)])
