"""The command of the bench: each part in a process of its own, then one table of ratios, JSON and a picture.

    make bench BENCH="--only train,score --model small --rounds 7"
    make bench BENCH="--only data --rows 1000000 --rounds 1"
    make bench BENCH="--only start --whole"
    make bench BENCH="--record --profile", then python data/make_cards.py: README's table

Ends with 1 where a part broke off, or a limit of the data was broken.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

COURSE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(COURSE), str(COURSE / "tests")]

from bench import data, report, start  # noqa: E402
from bench.options import Options, environment  # noqa: E402
from bench.turns import Result, in_turn, profile  # noqa: E402
from labkit.errors import LabError  # noqa: E402

PARTS = ("train", "gpu", "generate", "score", "data", "start")
ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}  # what every part but the GPU's is measured on, whatever else there is


def read(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="PART,...", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--model", metavar="NAME,...", default="tiny,small", help="tiny, small, or both")
    parser.add_argument("--rounds", type=int, default=5, help="turns; medians are taken over them")
    parser.add_argument("--task", default="tone", help="of the tickets, for training: tone, intent, reply, ...")
    parser.add_argument("--steps", type=int, help="of each training on a CPU; the first one is not timed")
    parser.add_argument("--rows", type=int, default=data.ROWS, help="the largest number of rows of part data, such as "
                        f"1000000; below {data.ROWS:,} its limits and its large file are left out")
    parser.add_argument("--whole", metavar="WHAT", nargs="?", const=",".join(start.WHOLE), default="", help="part "
                        "start runs all solved labs (course), `make test` (tests) or, where it is not said, both, once "
                        "each: up to an hour")
    parser.add_argument("--gguf", type=Path, help="a GGUF of SmolLM2, for llama.cpp")
    parser.add_argument("--out", type=Path, default=COURSE / "build/bench", help="folder of JSON, picture, profiles")
    parser.add_argument("--profile", action="store_true", help="each way once more under cProfile, into --out")
    parser.add_argument("--record", type=Path, nargs="?", const=report.RECORD, metavar="FILE", help="keep what the "
                        "parts found in a file, data/measured/bench.json by default, in place of what they found "
                        "before; with --profile the profiles beside it, 25 lines a way")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    asked.only, asked.model = asked.only.split(","), tuple(asked.model.split(","))
    for where, found, known in (("--only", asked.only, PARTS), ("--model", asked.model, ("tiny", "small"))):
        if unknown := [name for name in found if name not in known]:
            raise LabError(f"there is no {unknown[0]!r}", where=where, expected=", ".join(known))
    asked.whole = tuple(filter(None, asked.whole.split(",")))
    if unknown := [name for name in asked.whole if name not in start.WHOLE]:
        raise LabError(f"there is no {unknown[0]!r}", where="--whole", expected=", ".join(start.WHOLE))
    if asked.rounds < 1:
        raise LabError(f"{asked.rounds}", where="--rounds", expected="a whole number from 1 on")
    if asked.steps is not None and asked.steps < 2:
        raise LabError(f"{asked.steps}", where="--steps", expected="2 or more: the first one is not timed")
    if asked.rows < data.LEAST:
        raise LabError(f"{asked.rows}", where="--rows", expected=f"{data.LEAST:,} or more")
    return asked


def measure(asked: argparse.Namespace) -> list[Result]:
    """The part that this process is for, its results written to the folder as soon as each is there."""
    results: list[Result] = []
    part, into = import_module(f"bench.{asked.part}"), asked.out / f"{asked.part}.json"
    with tempfile.TemporaryDirectory() as scratch:
        options = Options(asked.model, asked.task, asked.rows, Path(scratch), asked.gguf, asked.steps,
                          asked.whole)
        for job in part.jobs(options):
            results.append(in_turn(job, asked.rounds, lambda words: print(words, file=sys.stderr, flush=True)))
            into.write_text(json.dumps([result.facts() for result in results]), encoding="utf-8")
            if asked.profile:
                with (asked.out / f"profile_{asked.part}.txt").open("a", encoding="utf-8") as file:
                    file.write(profile(job) + "\n")
    return results


def part(name: str, asked: argparse.Namespace, words: Sequence[str]) -> tuple[list[Result], bool]:
    """What a part measured in a process of its own, and whether that came to its end."""
    into = asked.out / f"{name}.json"
    into.unlink(missing_ok=True)
    (asked.out / f"profile_{name}.txt").unlink(missing_ok=True)
    env = environment() | ({} if name == "gpu" else ON_CPU)
    done = subprocess.run([sys.executable, str(Path(__file__).parent), *words, "--part", name], env=env)
    found = json.loads(into.read_text(encoding="utf-8")) if into.is_file() else []
    into.unlink(missing_ok=True)
    return [Result(**facts) for facts in found], done.returncode == 0


def main(words: Sequence[str] | None = None) -> int:
    """Run the bench, print what it found, and give the exit code."""
    words = sys.argv[1:] if words is None else list(words)
    asked = read(words)
    if asked.step:
        print(data.step(asked.step[0], asked.step[1], Path(asked.step[2])))
        return 0
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.part:
        measure(asked)
        return 0
    results: list[Result] = []
    broke, ended = [], {}
    for name in asked.only:
        found, whole = part(name, asked, words)
        results += found
        if whole:
            ended[name] = found
        else:
            broke.append(name)
    show(results, asked)
    if asked.record:
        profiles = [asked.out / f"profile_{name}.txt" for name in ended if asked.profile]
        print("recorded in " + ", ".join(map(str, report.record(asked.record, ended, asked.rounds, profiles))))
    for name in broke:
        print(f"part {name} broke off; what it says stands above")
    return int(bool(broke) or any(result.broken() for result in results))


def show(results: Sequence[Result], asked: argparse.Namespace) -> None:
    """Print the tables, and leave JSON and picture in the folder."""
    machine = report.machine()
    print("\n\n".join(map(str, [*map(report.ways, results), report.ratios(results, asked.rounds)])))
    print("\n" + " · ".join(f"{name}: {value}" for name, value in machine.items()))
    facts = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine,
             "rounds": asked.rounds, "results": [result.facts() for result in results],
             "ratios": report.ratios(results, asked.rounds).rows}
    (asked.out / "bench.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if any(result.pairs for result in results):
        (asked.out / "bench.png").write_bytes(report.plots.png(report.picture(results, asked.rounds)))
    print(f"in {asked.out}: " + ", ".join(sorted(file.name for file in asked.out.iterdir() if file.is_file())))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(str(error))
