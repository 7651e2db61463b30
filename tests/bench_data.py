"""How fast and how lean the way of the data is: 100,000 rows from file to tokens, and a file of 1 GB that is only read.

`make bench` runs it. Every measurement has a process of its own; the exit code is 1 where a limit is broken.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COURSE = Path(__file__).resolve().parents[1]
ROWS, SECONDS, MEGABYTES = 100_000, 60, 2_000  # read, inspected, split and encoded: the rows and what they may take
FILE_MEGABYTES, READ_MEGABYTES = 1_000, 500  # a file that is only read, and the memory that this may take


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
    """The steps from a file to encoded rows; imports are not counted."""
    from datasets.utils import disable_progress_bars
    from transformers import AutoTokenizer

    from labkit.data import inspect, read, split
    from labkit.data.encode import encode

    disable_progress_bars()
    tokenizer, lap = AutoTokenizer.from_pretrained(COURSE / "data/tiny-base"), Laps()
    rows = read(file)
    lap("read")
    inspect(rows, tokenizer=tokenizer)
    lap("inspect")
    splits = split(rows, stratify="label")
    lap("split")
    for part in splits.values():
        encode(part.rename_columns({"text": "prompt", "label": "completion"}), tokenizer)
    lap("encode")
    return lap.steps


def only_read(file: Path) -> dict[str, tuple[float, float]]:
    """The one step of reading a file."""
    from labkit.data import read

    lap = Laps()
    read(file)
    lap("read")
    return lap.steps


def measured(what: str, file: Path) -> tuple[dict[str, tuple[float, float]], float]:
    """The steps and their seconds, and the peak of memory (resident, in MB) of a process that does nothing else."""
    done = subprocess.run([sys.executable, __file__, "--step", what, str(file)], stdout=subprocess.PIPE, text=True,
                          check=True, cwd=COURSE)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["steps"], found["megabytes"]


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (10**6 if sys.platform == "darwin" else 10**6 / 1024)


def main() -> int:
    from labkit.tables import Table

    found = []

    def add(what: str, value: float, unit: str, limit: float | None = None, work: float | None = None) -> None:
        found.append({"what": what, "measured": f"{value:,.1f} {unit}",
                      "of work": "" if work is None else f"{work:,.1f} {unit}",
                      "limit": "" if limit is None else f"{limit:,} {unit}",
                      "": "" if limit is None else "kept" if value <= limit else "BROKEN"})

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_rows(file, ROWS)
        steps, megabytes = measured("pipeline", file)
        for step, (clock, work) in steps.items():
            add(f"{ROWS:,} rows: {step}", clock, "s", None, work)
        clock, work = (sum(pair) for pair in zip(*steps.values(), strict=True))
        add("all four", clock, "s", SECONDS, work)
        add("all four, peak of memory", megabytes, "MB", MEGABYTES)
        write_rows(file, 0, FILE_MEGABYTES)
        steps, megabytes = measured("only_read", file)
        add(f"a JSONL of {FILE_MEGABYTES:,} MB: read", steps["read"][0], "s", None, steps["read"][1])
        add("read, peak of memory", megabytes, "MB", READ_MEGABYTES)
    print(Table(found))
    return int(any(row[""] == "BROKEN" for row in found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--step", nargs=2, metavar=("WHAT", "FILE"), help="run one measurement in this very process")
    sys.path.insert(0, str(COURSE))
    if asked := parser.parse_args().step:
        done = {"pipeline": pipeline, "only_read": only_read}[asked[0]](Path(asked[1]))
        print(json.dumps({"steps": done, "megabytes": peak()}))
    else:
        sys.exit(main())
