"""A study: trials of one space on one bench, kept in a file, gone on with by whoever opens it again.

Over `space`, `trials` and `store`; `figures` draws it, the command line and lab 09 use it.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit import data, evaluation, models
from labkit.errors import LabError
from labkit.evaluation import Score
from labkit.guards import Tripped
from labkit.profiles import limited
from labkit.search.space import PRUNING, STRATEGIES, TRIALS, Space, checked, described, setting_of
from labkit.search.store import Store, hushed, import_optuna, me
from labkit.search.trials import LOOKS, Bench
from labkit.tables import Table
from labkit.training import _rows_hash, capped

if TYPE_CHECKING:
    import optuna

    from labkit.training import Run

WAIT = 0.5  # seconds between two looks at the trials of other workers
STARTUP = 5  # trials that the median pruner lets run to their end before it stops one
STATES = {"COMPLETE": "done", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


@dataclass(frozen=True)
class Tried:
    """One trial of a study.

    `value` is its last figure, `looks` those on the way; `state` is "done", "stopped early", "failed", "running" or
    "waiting"; `busy` are seconds of processor time, of all cores together; `memory` is what the process held then,
    in MB; `retry_of` is the number of a trial whose worker was lost.
    """

    number: int
    state: str
    params: dict[str, Any]
    setting: dict[str, Any]
    value: float | None
    score: Score | None
    looks: dict[int, float]
    seconds: float | None
    busy: float | None
    memory: float | None
    worker: int | None
    retry_of: int | None
    said: str


class Study:
    """What `study` gives: the trials so far, the best of them, and the one look at the test rows.

    Args:
        store: where it is kept.
        bench: what trains and scores a trial.
        head: what the study is of: space, strategy, pruning, rows, model, seed.
        space: what may vary, as `study` takes it.
    """

    def __init__(self, store: Store, bench: Bench, head: dict[str, Any], space: Space):
        self.store, self.bench, self.head, self.space = store, bench, head, dict(space)
        with hushed():
            self.optuna = import_optuna().create_study(
                storage=store.storage, study_name=store.name, load_if_exists=True, direction="maximize",
                sampler=self._sampler(0), pruner=pruner(head["pruning"]))

    # -- to look at ---------------------------------------------------------------------------------------------

    @property
    def trials(self) -> list[Tried]:
        """All trials, by number."""
        return [_tried(trial) for trial in self.optuna.get_trials(deepcopy=False)]

    @property
    def counted(self) -> list[Tried]:
        """The trials that came to an end: done, or stopped early."""
        return [t for t in self.trials if t.state in ("done", "stopped early")]

    @property
    def best(self) -> Tried:
        """The trial with the highest figure on validation rows.

        Raises:
            LabError: none has come to its end yet.
        """
        done = [t for t in self.trials if t.state == "done"]
        if not done:
            raise LabError("no trial has come to its end yet", where=self.store.place, todo="Let it run longer")
        return max(done, key=lambda t: (t.value, -t.number))

    @property
    def seconds(self) -> float:
        """What the trials took, added up over all workers."""
        return sum(t.seconds or 0 for t in self.trials)

    @property
    def busy(self) -> float:
        """The same in seconds of processor time, of all cores together: what else the machine does is not in it."""
        return sum(t.busy or 0 for t in self.trials)

    def table(self, most: int | None = None, by: str = "value") -> Table:
        """The trials, the best first, or by="number" in their order."""
        rows = self.trials
        if by == "value":
            rows = sorted(rows, key=lambda t: (t.state == "done", t.value if t.value is not None else -1), reverse=True)
        rows = rows[:most]
        seconds = {t.number: None if t.seconds is None else round(t.seconds, 1) for t in rows}
        return Table([{"trial": t.number, "state": t.state, **{k: _short(v) for k, v in t.params.items()},
                       self.head["metric"]: str(t.score) if t.score else None, "seconds": seconds[t.number]}
                      for t in rows], "Validation rows; in brackets the 95 % interval")

    @property
    def tested(self) -> dict[str, Any] | None:
        """What the test rows said when they were opened, or None: `scores`, `gain` and `at`."""
        found = self.optuna.user_attrs.get("tested")
        if found is None:
            return None
        gain = found["gain"] and evaluation.Difference(**found["gain"])
        return {"scores": {name: Score(**score) for name, score in found["scores"].items()}, "gain": gain,
                "at": found["at"]}

    # -- to work ------------------------------------------------------------------------------------------------

    def work(self, trials: int, told: Callable[[Tried], None] | None = None) -> Study:
        """Take trials, one after another, until so many have come to an end, here or in other workers.

        A trial whose worker is gone is done again with its settings; one that this process breaks off, too.

        Args:
            trials: how many the study is to have in all. LABKIT_TRIALS caps it from outside.
            told: called with each trial that ends here.
        """
        trials = limited(trials, "LABKIT_TRIALS", "trials")
        while (trial := self._next(trials)) is not None:
            if isinstance(trial, str):  # others are at it; one of them may fail
                time.sleep(WAIT)
                continue
            self._run(trial)
            if told:
                told(_tried(self.optuna.get_trials(deepcopy=False)[trial.number]))
        return self

    def _next(self, trials: int):
        """A trial to run, "wait" where the rest is run by others, or None where all is done."""
        if self.optuna.user_attrs.get("tested") or self.optuna.user_attrs.get("opening"):
            if len(self.counted) < trials:
                raise LabError("the test rows of this study were opened, so no trial is added", where=self.store.place,
                               todo="Begin another study in another file; its test rows have been seen, mind")
            return None
        with self.store.turn():
            self.store.take_back(self.optuna)
            every = self.trials
            taken = sum(t.state in ("done", "stopped early", "running") for t in every)
            if taken < trials:
                waiting = [t.number for t in every if t.state == "waiting"]
                self.optuna.sampler = self._sampler(waiting[0] if waiting else len(every))
                with hushed():
                    trial = self.optuna.ask()
                    for name, dimension in self.space.items():
                        dimension.suggest(trial, name)
                    self.store.claim(trial)  # whoever sees a worker sees its settings, too
                return trial
        return "wait" if any(t.state == "running" for t in every) else None

    def _run(self, trial: optuna.Trial) -> None:
        optuna = self.store.optuna
        states, began, busy = optuna.trial.TrialState, time.monotonic(), time.process_time()
        seen = []

        def look(number: int, value: float) -> None:
            seen.append(value)
            trial.report(value, number)
            if number < LOOKS and trial.should_prune():
                raise optuna.TrialPruned

        frozen = self.optuna.get_trials(deepcopy=False)[trial.number]
        with hushed(), self.store.beating(trial):
            try:
                done = self.bench(look, seed=self.head["seed"], **setting_of(trial.params))
            except optuna.TrialPruned:
                end = {"state": states.PRUNED}
            except Tripped as error:  # a rate so high that the loss broke is an answer, too
                trial.set_user_attr("said", str(error))
                if not seen:  # it has no figure yet: what a model would have that guesses blindly, or worse
                    trial.report(self.bench.worst, 1)
                end = {"state": states.PRUNED}
            except BaseException:
                self.store.again(self.optuna, frozen)
                raise
            else:
                trial.set_user_attr("score", vars(done.accuracy))
                end = {"values": done.accuracy.value}
            gc.collect()
            trial.set_user_attr("seconds", round(time.monotonic() - began, 2))
            trial.set_user_attr("busy", round(time.process_time() - busy, 2))
            trial.set_user_attr("memory", _resident())
            try:
                self.optuna.tell(trial, **end)
            except (ValueError, RuntimeError):
                pass  # it was taken for lost, and another does it again: one of the two counts

    def _sampler(self, number: int):
        """The sampler for one trial. Its seed is the study's and the trial's number: whoever runs trial 7, and
        whatever was broken off before, draws the same; two workers never draw alike."""
        samplers, seed = import_optuna().samplers, self.head["seed"] * 100_003 + number
        with hushed():
            if self.head["strategy"] == "random":
                return samplers.RandomSampler(seed=seed)
            return samplers.TPESampler(seed=seed, constant_liar=True)  # trials under way count as bad, not as unknown

    # -- the test rows ------------------------------------------------------------------------------------------

    def open_test(self, models_to_score: Mapping[str, Run]) -> dict[str, Any]:
        """Score finished models on the test rows. Once: what was seen is kept in the study, and no trial follows.

        Args:
            models_to_score: Runs by name; of two, the gain of the second over the first is given, row by row.

        Returns:
            As `tested`.

        Raises:
            LabError: the test rows were opened before, a trial is running, or there is no model.
        """
        if not models_to_score:
            raise LabError("no model to score", where="open_test", expected="at least one Run, by name")
        with self.store.turn():
            self.store.take_back(self.optuna)
            self.refuse_if_opened()
            if running := [t.number for t in self.trials if t.state == "running"]:
                raise LabError(f"trial {running[0]} is still running", where=self.store.place,
                               todo="Open the test rows when nothing is left to choose")
            self.optuna.set_user_attr("opening", {"at": _now(), "by": me()})
        try:
            held = self.bench.ready(self.bench.task.test)
            values = {name: self.bench.values(run.model, held) for name, run in models_to_score.items()}
        except BaseException:  # nobody has seen a figure yet
            self.optuna.set_user_attr("opening", None)
            raise
        scores = {name: self.bench.score_of(row, held) for name, row in values.items()}
        gain = evaluation.paired_bootstrap(*values.values(), evaluation.groups_of(held)) if len(values) == 2 else None
        self.optuna.set_user_attr("tested", {
            "at": _now(), "scores": {name: vars(score) for name, score in scores.items()},
            "gain": gain and vars(gain), "trials": len(self.counted)})
        return self.tested

    def refuse_if_opened(self) -> None:
        """Nothing, where the test rows were not looked at yet.

        Raises:
            LabError: they were; the sentence says when, and what they said.
        """
        attributes = self.optuna.user_attrs
        if found := attributes.get("tested"):
            said = "; ".join(f"{name}: {Score(**score)}" for name, score in found["scores"].items())
            raise LabError(f"the test rows were opened at {found['at']}, after {found['trials']} trials, and said: "
                           f"{said}", where=self.store.place,
                           todo="Report that. Whoever looks twice and takes the better has tuned on the test rows")
        if found := attributes.get("opening"):
            raise LabError(f"an opening of the test rows began at {found['at']} and has not come to its end",
                           where=self.store.place, todo="Wait for it; if it was killed, test on fresh rows")


def study(
    task: str | data.Task, space: Space, *, trials: int = TRIALS, strategy: str = "tpe", pruning: str = "median",
    file: str | Path = "runs/search.log", name: str = "study", first: Sequence[Mapping[str, Any]] = (), seed: int = 0,
    rows: int | None = None, model: str | None = None, told: Callable[[Tried], None] | None = None,
    fresh: bool = False,
) -> Study:
    """Search a space on a task, or go on with a study that lies in `file`, until it has `trials` trials.

    Args:
        task: a ticket task by its name, or a Task; trials learn from its training rows, are judged by its validation
            rows, and never see its test rows.
        space: Float, Int or Choice by name: learning_rate, rank, alpha or alpha_over_rank, dropout, batch_size,
            weight_decay, method.
        trials: in all, those of earlier calls and of other workers counted; 0 looks at what is there.
        strategy: "random", or "tpe" (Bergstra et al., 2011): ten trials at random, then where it was good.
        pruning: "median" stops a trial that is below the median of the others at the same look, "halving" (successive
            halving; Jamieson and Talwalkar, 2016) all but the best third, "none" stops none.
        file: where the study is kept; or the address of a PostgreSQL database.
        name: of the study in a database.
        first: settings to try before anything is drawn, such as `[search.defaults(space)]`.
        seed: of what is drawn and of every trial's training.
        rows: that a trial learns from; None is 4 times the profile's `trial_steps`.
        model: profile, folder or hub id; None is the current profile.
        told: called with each trial that ends here.
        fresh: throw away what lies in the file.

    Raises:
        LabError: the space or an option is not fit for it, or the file holds another study.
    """
    space = checked(space)
    for where, value, known in (("strategy", strategy, STRATEGIES), ("pruning", pruning, PRUNING)):
        if value not in known:
            raise LabError(f"there is no {where} {value!r}", where=where, expected=" or ".join(known))
    if trials < 0:
        raise LabError(f"{trials}", where="trials", expected="a whole number from 0 on")
    first = [dict(setting) for setting in first]
    for setting in first:
        if set(setting) != set(space):
            raise LabError(f"a first setting has {', '.join(setting) or 'nothing'}", where="first",
                           expected=f"{', '.join(space)}: what may vary")
        for name_, value in setting.items():
            if value not in space[name_]:
                raise LabError(f"{name_} {_short(value)} lies outside of the space", where="first",
                               expected=f"a value within {space[name_]}")
    bench = Bench(task, rows=rows, model=model)
    found = bench.task
    head = {
        "space": described(space), "strategy": strategy, "pruning": pruning, "seed": seed, "metric": bench.metric,
        "task": found.name, "rows": capped(bench.rows), "base": models.identity(model),
        "data": f"{_rows_hash(found.train)} {_rows_hash(found.validation)}", "first": first,
    }
    head = json.loads(json.dumps(head))
    if fresh and "://" not in str(file):
        Path(file).unlink(missing_ok=True)
    store = Store(file, name)
    if fresh and not store.is_file and name in store.optuna.get_all_study_names(store.storage):
        store.optuna.delete_study(study_name=name, storage=store.storage)
    made = Study(store, bench, head, space)
    with store.turn():
        before = made.optuna.user_attrs.get("head")
        if before is None:
            made.optuna.set_user_attr("head", head)
            for setting in first:
                made.optuna.enqueue_trial(setting)
        elif before != head:
            changed = next(key for key in head if before.get(key) != head[key])
            raise LabError(f"the study that is kept here has another {changed}", where=store.place,
                           expected=f"{json.dumps(before.get(changed))}",
                           todo="Take another file, or fresh=True to throw it away")
    return made.work(trials, told)


def pruner(name: str):
    """Optuna's pruner: its unit is a look, of which a trial has LOOKS."""
    pruners = import_optuna().pruners
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=STARTUP)
    if name == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=LOOKS)
    return pruners.NopPruner()


def trials_in(place: str | Path, name: str = "study") -> list[Tried]:
    """The trials of a study that others are at, without a task or a model; none where it was not begun yet."""
    store = Store(place, name)
    if name not in store.optuna.get_all_study_names(store.storage):
        return []
    return [_tried(trial) for trial in store.optuna.load_study(study_name=name, storage=store.storage).get_trials()]


def replay(trials: Sequence[Tried], pruning: str) -> dict[int, int]:
    """Which trials a pruner would have stopped, and at which look, had it been there: number to look.

    Args:
        trials: such as ran to their end, in their order.
        pruning: "median", "halving" or "none".
    """
    optuna, stopped = import_optuna(), {}
    again = optuna.create_study(direction="maximize", pruner=pruner(pruning))
    for tried in trials:
        trial = again.ask()
        for look, value in sorted(tried.looks.items()):
            trial.report(value, look)
            if look < LOOKS and trial.should_prune():
                stopped[tried.number] = look
                again.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            again.tell(trial, tried.value)
    return stopped


def _tried(trial: optuna.trial.FrozenTrial) -> Tried:
    attributes, looks = trial.user_attrs, dict(trial.intermediate_values)
    score = Score(**attributes["score"]) if "score" in attributes else None
    state, params = STATES[trial.state.name], dict(trial.params)
    value = score.value if score else looks[max(looks)] if looks else None
    return Tried(trial.number, state, params, setting_of(params), value, score, looks, attributes.get("seconds"),
                 attributes.get("busy"), attributes.get("memory"), (attributes.get("worker") or {}).get("pid"),
                 attributes.get("retry_of"), attributes.get("said", ""))


def _resident() -> float:
    """What this process holds in memory, MB."""
    import psutil

    return round(psutil.Process().memory_info().rss / 1e6, 1)


def _short(value):
    return float(f"{value:.2g}") if isinstance(value, float) else value


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
