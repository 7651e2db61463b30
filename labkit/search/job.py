"""`labkit search`: a file and a space in; trials, the best setting, how sure that is, and once the test rows.

Over `study`, as `labkit.job` is over `finetune`; several processes of it share one study.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit import cluster, launch, models, training
from labkit.data import Task
from labkit.intake import divide, understand
from labkit.search.space import defaults, read_plan, setting_of
from labkit.search.study import Study, Tried
from labkit.search.study import study as begin
from labkit.teller import Teller

SHOWN = 10  # trials in the table


def task_of(source: str | Path, *, columns: str | None = None, task: str | None = None, test: str | None = None,
            group: str | None = None, model: str | None = None, seed: int = 0, skip_bad_rows: bool = False,
            teller: Teller | None = None) -> Task:
    """A file as a Task with the splits that `labkit finetune` makes of it; options as there."""
    intake = understand(source, columns=columns, task=task, test=test, group=group, skip_bad_rows=skip_bad_rows)
    tokenizer = models.load(model)[1]
    divide(intake, tokenizer, models.suiting(model).max_length, skip_bad_rows, seed)
    for sentence in intake.said if teller else ():
        teller.say(sentence)
    if intake.group and intake.group != "family":  # intervals count by family
        intake.parts = {name: part.rename_column(intake.group, "family") for name, part in intake.parts.items()}
    return Task(intake.task or Path(str(source)).name, intake.template, tuple(intake.labels), **intake.parts)


def run_search(
    source: str | Path, space: str | Path, *, study: str = "runs/search.log", name: str = "study",
    trials: int | None = None, workers: int = 1, rows: int | None = None, columns: str | None = None,
    task: str | None = None, model: str | None = None, group: str | None = None, test: str | None = None,
    seed: int = 0, skip_bad_rows: bool = False, ray: bool = False, open_test: bool = False,
) -> Study:
    """Search, print what came of it, and with `open_test` look at the test rows, once.

    Args:
        source: as `labkit finetune` takes it. space: a YAML file as `read_plan` takes it.
        study: the file or database of the study. name: of the study in a database.
        trials: in all, in place of the plan's. workers: processes on this machine, or with `ray` on that cluster.
        The rest as in `labkit.job.run_job` and `search.study`.

    Raises:
        LabError: the file, the space, or the study is not fit for it.
    """
    plan, teller = read_plan(space), Teller(True)
    options = {"columns": columns, "task": task, "test": test, "group": group, "model": model, "seed": seed,
               "skip_bad_rows": skip_bad_rows}
    found = task_of(source, **options, teller=teller)
    wanted = plan.trials if trials is None else trials
    usual = defaults(plan.space, models.suiting(model))
    first = [usual] if all(value in plan.space[key] for key, value in usual.items()) else []
    setting = {"strategy": plan.strategy, "pruning": plan.pruning, "file": study, "name": name, "first": first,
               "seed": seed, "rows": rows, "model": model}
    made = begin(found, plan.space, trials=0, **setting)  # made, or refused, before others are started
    if open_test:
        made.refuse_if_opened()
    shared = {"source": source, "space": space, **options, "study": study, "name": name, "trials": wanted, "rows": rows}
    with cluster.beside(run_search, shared, workers - 1) if ray else _others(shared, workers - 1):
        made.work(wanted, lambda t: teller.say(line(t, wanted)))
    print(made.table(SHOWN))
    best = made.best
    print(f"\nThe best of {len(made.counted)} is trial {best.number}: {best.score}. The best of many is partly luck: "
          "train it with other seeds before you believe it.")
    print("Its settings: " + ", ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                                       for key, value in best.setting.items()))
    if not open_test:
        print("No test row was looked at. --open-test does it, once.")
        return made
    runs = {label: training.finetune(found.train, model=model, seed=seed, group_by_length=True,
                                     out=Path("runs") / f"search-{label.replace(' ', '-')}", **chosen)
            for label, chosen in (("the profile", setting_of(usual)), ("the best", best.setting))}
    seen = made.open_test(runs)
    print("\nThe test rows, opened once:", *(f"  {label}: {score}" for label, score in seen["scores"].items()),
          f"  gain, row by row: {seen['gain']}", sep="\n")
    return made


@contextmanager
def _others(options: dict, number: int) -> Iterator[None]:
    """More processes of the same command on this machine, each a worker; they are waited for at the end."""
    command = [sys.executable, "-m", "labkit.cli", "search", *launch.words(options)]
    begun = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(number)]
    try:
        yield
    finally:
        for other in begun:
            other.wait()


def line(trial: Tried, of: int) -> str:
    """One trial in one line, as it ends."""
    value = str(trial.score) if trial.score else "-" if trial.value is None else f"{trial.value:.3g}"
    said = f" ({trial.said})" if trial.said else ""
    return (f"trial {trial.number} of {of}: {trial.state}, {value}, "
            + ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.params.items()) + said)
