"""Studies: what a space refuses, trials that leave no trace, a file that is gone on with, workers that die, one look
at the test rows."""

from __future__ import annotations

import gc
import hashlib
import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import psutil
import pytest
from test_bad_input import cases, write_csv

from labkit import LabError, data, search
from labkit.cli import main
from labkit.profiles import COURSE
from labkit.scratch import search as by_hand
from labkit.search import store as stores
from labkit.search.space import described
from labkit.search.study import pruner

SPACE = {"learning_rate": search.Float(1e-3, 2e-2, log=True), "rank": search.Int(4, 16, log=True),
         "batch_size": search.Choice(4, 8)}
YAML = """
search_space:
  learning_rate: {type: float, low: 1e-3, high: 2e-2, log: true}
  rank: {type: int, low: 4, high: 16, log: true}
  batch_size: {type: choice, values: [4, 8]}
search_strategy: {type: random, num_trials: 4, pruning: none}
"""


@pytest.fixture(scope="module")
def task() -> data.Task:
    """Few rows of the tickets: a trial of them takes part of a second."""
    whole = data.ticket_task("tone")
    return replace(whole, train=whole.train.select(range(48)), validation=whole.validation.select(range(0, 48, 4)),
                   test=whole.test.select(range(0, 96, 8)))


def small(task, file, trials, **options) -> search.Study:
    return search.study(task, SPACE, trials=trials, file=file, rows=12,
                        **{"strategy": "random", "pruning": "none", **options})


# -- the space -------------------------------------------------------------------------------------------------------


def test_a_plan_is_read_from_yaml_and_1e_3_is_a_number(tmp_path):
    file = tmp_path / "space.yml"
    file.write_text(YAML)
    plan = search.read_plan(file)
    assert plan.space == SPACE and (plan.strategy, plan.trials, plan.pruning) == ("random", 4, "none")
    file.write_text("search_space: {rank: {type: int, low: 8, high: 64}}")
    assert search.read_plan(file) == search.Plan({"rank": search.Int(8, 64)}, "tpe", 20, "median")


@pytest.mark.parametrize("text, said", [
    ("search_space: [1", "space.yml, line 1: cannot be read"),
    ("rank: 8", "there is no search_space"),
    ("search_space: {}", "nothing may vary"),
    ("search_spaces: {}\nsearch_space: {rank: {type: int, low: 1, high: 2}}", "'search_spaces' is not known"),
    ("search_space: {lr: {type: float, low: 1, high: 2}}", "'lr' cannot be searched; expected some of learning_rate"),
    ("search_space: {rank: 8}", "search_space.rank: 8; expected type, and low and high, or values"),
    ("search_space: {rank: {low: 1, high: 2}}", "there is no type; expected float, int or choice"),
    ("search_space: {rank: {type: integer, low: 1, high: 2}}", "the type is 'integer'"),
    ("search_space: {rank: {type: int, low: 1}}", "high is missing"),
    ("search_space: {rank: {type: int, low: 1, high: 2, step: 1}}", "'step' is not known for a int"),
    ("search_space: {rank: {type: int, low: 9, high: 2}}", "low is 9 and high is 2; expected low below high"),
    ("search_space: {rank: {type: int, low: 1.5, high: 2}}", "expected whole numbers for an int"),
    ("search_space: {rank: {type: int, low: few, high: 2}}", "low is 'few'; expected a number"),
    ("search_space: {rank: {type: int, low: 0, high: 2}}", "0 is no rank"),
    ("search_space: {rank: {type: int, low: 1, high: 2, log: 3}}", "log is 3; expected true or false"),
    ("search_space: {dropout: {type: float, low: 0, high: 0.2, log: true}}", "low is 0 on a log scale"),
    ("search_space: {dropout: {type: float, low: 0, high: 2}}", "2.0 is no dropout"),
    ("search_space: {batch_size: {type: choice, values: 8}}", "values is 8; expected a list"),
    ("search_space: {batch_size: {type: choice, values: []}}", "no values"),
    ("search_space: {batch_size: {type: choice, values: [8, 8]}}", "a value stands there twice"),
    ("search_space: {method: {type: choice, values: [lora, pissa]}}", "'pissa' is no method"),
    ("search_space: {alpha: {type: choice, values: [8]}, alpha_over_rank: {type: choice, values: [2]}}",
     "alpha is there twice"),
    ("search_space: {rank: {type: int, low: 1, high: 2}}\nsearch_strategy: {type: grid}",
     "type is 'grid'; expected random or tpe"),
    ("search_space: {rank: {type: int, low: 1, high: 2}}\nsearch_strategy: {num_trials: 0}", "num_trials is 0"),
    ("search_space: {rank: {type: int, low: 1, high: 2}}\nsearch_strategy: {trials: 5}", "'trials' is not known"),
])
def test_a_mistake_in_the_space_is_named_with_its_place(text, said, tmp_path):
    file = tmp_path / "space.yml"
    file.write_text(text)
    with pytest.raises(LabError) as caught:
        search.read_plan(file)
    assert str(caught.value).startswith("space.yml") and said in str(caught.value), str(caught.value)


def test_alpha_is_tied_to_the_rank_or_free():
    assert search.setting_of({"rank": 16, "alpha_over_rank": 4, "dropout": 0.1}) == {
        "rank": 16, "alpha": 64, "dropout": 0.1}
    assert search.setting_of({"rank": 16, "alpha": 8}) == {"rank": 16, "alpha": 8}
    assert search.defaults(search.usual_space())["alpha_over_rank"] == 2


def test_the_usual_space_lies_around_the_profiles_own_settings():
    space = search.usual_space()
    assert all(value in space[name] for name, value in search.defaults(space).items())
    assert described(search.usual_space(1e-6, 1e-3))["learning_rate"] == {
        "type": "float", "low": 1e-6, "high": 1e-3, "log": True}


# -- by hand and by the library --------------------------------------------------------------------------------------


def test_the_median_rule_by_hand_is_optunas():
    dice, mine, ended = random.Random(0), {}, []
    tried = [search.Tried(n, "done", {}, {}, dice.random(), None, {k: dice.random() for k in (1, 2, 3)}, 0, 0, 0, 0,
                          None, "") for n in range(300)]
    for t in tried:
        behind = [n for n in (1, 2) if by_hand.should_stop({k: v for k, v in t.looks.items() if k <= n}, ended)]
        mine |= {t.number: behind[0]} if behind else {}
        ended += [] if behind else [t.looks]
    theirs = search.replay(tried, "median")
    assert mine == theirs and 100 < len(theirs) < 300
    assert search.replay(tried, "none") == {}
    assert 180 < len(search.replay(tried, "halving")) < 240  # all but about a third


def test_drawing_by_factors_gives_each_decade_its_share_as_optuna_does():
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    theirs = [asked.ask().suggest_float("x", 1e-6, 1e-3, log=True) for _ in range(600)]
    dice = random.Random(0)
    mine = [by_hand.log_uniform(dice.random(), 1e-6, 1e-3) for _ in range(600)]
    for drawn in (mine, theirs):
        assert all(150 <= sum(10**e <= x < 10 ** (e + 1) for x in drawn) <= 250 for e in (-6, -5, -4))


def test_the_density_is_scipys_and_luck_covers_95_of_100_differences():
    from scipy.stats import norm

    assert by_hand.density(0.3, [0.0, 1.0], 0.5) == pytest.approx(norm.pdf([0.3, -0.7], scale=0.5).mean())
    dice = random.Random(0)
    width = by_hand.luck([dice.gauss(0, 1) for _ in range(4000)])
    inside = sum(abs(dice.gauss(0, 1) - dice.gauss(0, 1)) <= width for _ in range(4000)) / 4000
    assert 0.94 < inside < 0.97


# -- trials ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(task) -> search.Bench:
    return search.Bench(task, rows=12)


def digest(model) -> str:
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def live_bytes() -> int:
    import torch

    gc.collect()
    seen = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects()
            if isinstance(t, torch.Tensor)}
    return sum(seen.values())


def test_a_trial_leaves_the_base_as_it_was_and_memory_flat_however_it_ends(bench):
    def stop(number, value):
        raise optuna.TrialPruned

    base = bench.loaded[0]
    before = digest(base)
    bench(rank=4, batch_size=4)
    held = live_bytes()
    for setting in ({"rank": 16}, {"method": "dora"}, {"dropout": 0.1}):
        bench(batch_size=4, **setting)
    with pytest.raises(optuna.TrialPruned):
        bench(stop, batch_size=4)
    with pytest.raises(LabError, match="rank 0"):
        bench(rank=0)
    assert digest(base) == before and not any("lora" in name for name, _ in base.named_modules())
    assert live_bytes() == held


def test_the_same_seed_gives_the_same_trial_and_another_seed_another(bench):
    curves = [[p["loss"] for p in bench(seed=seed, batch_size=4, learning_rate=1e-2).curve] for seed in (0, 0, 1)]
    assert curves[0] == curves[1] != curves[2]


def test_all_batches_see_the_same_number_of_rows():
    bench = search.Bench("tone", rows=96)
    assert [bench.steps_of(size) * size for size in (8, 16, 32)] == [96, 96, 96]


def test_a_method_that_changes_the_base_is_refused(bench):
    with pytest.raises(LabError, match="pissa changes the base"):
        bench(method="pissa")


def test_free_text_is_judged_by_the_likelihood_of_the_answer(task, tmp_path):
    whole = data.ticket_task("summary")
    few = replace(whole, train=whole.train.select(range(24)), validation=whole.validation.select(range(6)))
    found = small(few, tmp_path / "s.log", 1)
    assert found.head["metric"] == "log-likelihood" and found.best.value < 0
    assert found.best.score.low <= found.best.value <= found.best.score.high


# -- a study in a file -----------------------------------------------------------------------------------------------


def test_a_study_that_is_gone_on_with_equals_one_that_was_never_stopped(task, tmp_path):
    first = {"learning_rate": 4e-3, "rank": 8, "batch_size": 4}
    whole = small(task, tmp_path / "whole.log", 4, first=[first])
    small(task, tmp_path / "parts.log", 2, first=[first])
    parts = small(task, tmp_path / "parts.log", 4, first=[first])
    assert [(t.params, t.value) for t in parts.trials] == [(t.params, t.value) for t in whole.trials]
    assert whole.trials[0].params == first and len({str(t.params) for t in whole.trials}) == 4
    told = []
    assert len(small(task, tmp_path / "parts.log", 4, first=[first], told=told.append).trials) == 4 and not told


def test_labkit_trials_caps_a_study_from_outside(task, tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_TRIALS", "1")
    assert len(small(task, tmp_path / "study.log", 3).trials) == 1
    monkeypatch.setenv("LABKIT_TRIALS", "few")
    with pytest.raises(LabError, match="^LABKIT_TRIALS: 'few' is no number of trials"):
        small(task, tmp_path / "study.log", 3)


@pytest.mark.parametrize("change", [{"seed": 1}, {"strategy": "tpe"}, {"pruning": "median"}])
def test_a_file_that_holds_another_study_is_refused(change, task, tmp_path):
    small(task, tmp_path / "s.log", 0)
    with pytest.raises(LabError, match=f"another {next(iter(change))}.*fresh=True"):
        small(task, tmp_path / "s.log", 1, **change)
    assert small(task, tmp_path / "s.log", 0, fresh=True, **change).trials == []


@pytest.mark.parametrize("options, said", [
    ({"strategy": "grid"}, "there is no strategy 'grid'"),
    ({"pruning": "mean"}, "there is no pruning 'mean'"),
    ({"first": [{"rank": 8}]}, "a first setting has rank; expected learning_rate, rank, batch_size"),
    ({"first": [{"learning_rate": 1.0, "rank": 8, "batch_size": 4}]}, "lies outside of the space"),
])
def test_options_that_cannot_be_are_refused(options, said, task, tmp_path):
    with pytest.raises(LabError) as caught:
        small(task, tmp_path / "s.log", 1, **options)
    assert said in str(caught.value)


@pytest.mark.parametrize("content", ["not a study\n", '{"a": 1}\n'])
def test_a_file_that_is_no_study_is_refused_and_stays_as_it_is(content, task, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text(content)
    with pytest.raises(LabError, match="this is no study"):
        small(task, file, 1)
    assert file.read_text() == content


def test_ctrl_c_in_a_trial_gives_its_settings_to_the_next_one(task, tmp_path):
    made = small(task, tmp_path / "s.log", 0)
    inner = made.bench

    def stopped(look, **setting):
        raise KeyboardInterrupt

    made.bench = stopped
    with pytest.raises(KeyboardInterrupt):
        made.work(2)
    made.bench = inner
    made.work(2)
    lost, again, other = made.trials
    assert (lost.state, again.state, other.state) == ("failed", "done", "done")
    assert again.params == lost.params != other.params and again.retry_of == lost.number


def test_a_trial_whose_loss_breaks_counts_as_stopped_early_and_says_why(task, tmp_path):
    made = search.study(task, {"learning_rate": search.Choice(0.99)}, trials=1, file=tmp_path / "s.log", rows=480,
                        strategy="random", pruning="none")
    (only,) = made.trials
    assert only.state == "stopped early" and "loss" in only.said and only.score is None


# -- the test rows ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(task, tmp_path_factory):
    from labkit import finetune

    return finetune(task.train, steps=3, batch_size=4, out=tmp_path_factory.mktemp("run"))


def test_the_test_rows_are_opened_once_and_the_study_is_then_closed(task, run, tmp_path):
    made = small(task, tmp_path / "s.log", 1)
    assert made.tested is None
    with pytest.raises(LabError, match="no model to score"):
        made.open_test({})
    seen = made.open_test({"a": run, "b": run})
    assert seen["gain"].value == 0 and str(seen["scores"]["a"]) == str(seen["scores"]["b"])
    again = small(task, tmp_path / "s.log", 1)
    assert again.tested == seen
    with pytest.raises(LabError, match="opened at .* after 1 trials, and said: a: "):
        again.open_test({"a": run})
    with pytest.raises(LabError, match="no trial is added"):
        small(task, tmp_path / "s.log", 2)


def test_the_test_rows_stay_shut_while_a_trial_runs_or_where_scoring_broke_off(task, run, tmp_path):
    made = small(task, tmp_path / "s.log", 0)
    trial = made._next(1)
    with pytest.raises(LabError, match="trial 0 is still running"):
        made.open_test({"a": run})
    made._run(trial)
    with pytest.raises(AttributeError):
        made.open_test({"a": "no run"})
    assert made.tested is None and made.open_test({"a": run})["gain"] is None


# -- several workers -------------------------------------------------------------------------------------------------


def test_two_workers_share_a_study_and_a_killed_one_loses_and_repeats_nothing(tmp_path):
    rows, plan = write_csv(tmp_path / "rows.csv", cases(72)), tmp_path / "space.yml"
    plan.write_text(YAML.replace("num_trials: 4", "num_trials: 5"))
    file = tmp_path / "shared.log"
    words = [sys.executable, "-m", "labkit.cli", "search", str(rows), "--space", str(plan), "--study", str(file),
             "--rows", "24"]
    workers = [subprocess.Popen(words, cwd=COURSE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
               for _ in range(2)]
    while not (busy := [t for t in search.trials_in(file) if t.state == "running" and t.worker]):
        assert any(w.poll() is None for w in workers)
        time.sleep(0.02)
    psutil.Process(busy[0].worker).kill()
    said = [w.communicate()[0] for w in workers]
    assert sorted(w.returncode for w in workers) == [-9, 0]
    trials = search.trials_in(file)
    ended = [t for t in trials if t.state == "done"]
    assert len(ended) == 5 and len({json.dumps(t.params) for t in ended}) == 5
    lost = [t for t in trials if t.state == "failed"]
    assert [t.number for t in lost] == [busy[0].number]
    assert [t.params for t in ended if t.retry_of == lost[0].number] == [lost[0].params]
    assert "No test row was looked at." in "".join(said)


def test_a_database_keeps_a_study_too_and_a_worker_without_heartbeat_is_lost(task, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "BEAT", 1)
    monkeypatch.setattr(stores, "GONE", 2)
    place = f"sqlite:///{tmp_path / 'studies.db'}"
    made = small(task, place, 1)
    silent = made._next(2)  # takes a trial and is never heard of again
    time.sleep(3.5)
    made.work(2)
    lost = made.trials[silent.number]
    assert lost.state == "failed" and [t.params for t in made.counted if t.retry_of == lost.number] == [lost.params]
    assert len(made.counted) == 2 and len(small(task, place, 2).trials) == 3
    assert small(task, place, 0, name="other").trials == []


def test_a_database_that_cannot_be_used_is_named_without_its_password():
    for address in ("nonsense://me:secret@host/name", "postgresql+psycopg://me:secret@127.0.0.1:1/name"):
        with pytest.raises(LabError) as caught:
            search.trials_in(address)
        assert "secret" not in str(caught.value) and "me@" in str(caught.value)


# -- the terminal, and the pictures ----------------------------------------------------------------------------------


def test_labkit_search_prints_the_best_and_goes_on_with_its_study(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_csv(Path("rows.csv"), cases(72))
    Path("space.yml").write_text(YAML.replace("num_trials: 4", "num_trials: 1"))
    words = ["search", "rows.csv", "--space", "space.yml", "--rows", "12"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "trial 0 of 1: done" in err and "The best of 1 is trial 0" in out and "Its settings: learning_rate" in out
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "trial 0 of 1" not in err and "The best of 1 is trial 0" in out
    Path("space.yml").write_text("search_space: {rank: {type: int, low: 9, high: 2}}")
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("labkit: space.yml, search_space.rank: low is 9 and high is 2")


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> search.Study:
    """A study whose trials were told, not trained: the rate matters, the rest does not."""
    made = search.study("tone", search.usual_space(), trials=0, file=tmp_path_factory.mktemp("told") / "s.log")
    dice, score = random.Random(1), {"metric": "accuracy", "low": 0.2, "high": 0.8, "rows": 9, "form": ".1%"}
    for number in range(20):
        trial = made.optuna.ask()
        for name, dimension in made.space.items():
            dimension.suggest(trial, name)
        value = 0.6 - 0.3 * abs(by_hand.place_in_range(trial.params["learning_rate"], 1e-4, 4e-2, True) - 0.5)
        value += 0.01 * dice.random()
        for look in (1, 2, 3):
            trial.report(value * look / 3, look)
        if number % 5 == 4:
            made.optuna.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            trial.set_user_attr("score", {**score, "value": value})
            made.optuna.tell(trial, value)
    return made


def test_every_figure_says_its_finding_and_names_its_axes(told):
    from labkit.search import figures

    for figure in (figures.parallel(told), figures.history(told), figures.importance_bars(told, 2),
                   figures.seeds(told, [0.5, 0.52, 0.51])):
        (axes,) = figure.axes
        assert axes.get_title(loc="left") and (axes.get_xlabel() or axes.get_ylabel())
    sliced = figures.slices(told)
    assert [axes.get_xlabel() for axes in sliced.axes] == ["learning rate", "rank r", "alpha / r", "batch (rows)",
                                                           "dropout"]
    inside = all(0.05 < figures._place(told, name, told.best.params[name]) < 0.95 for name, d in told.space.items()
                 if not isinstance(d, search.Choice))
    assert ("the best lies within every range" in sliced.get_suptitle()) == inside


def test_equal_figures_are_drawn_one_above_the_other_and_not_as_one_dot(told):
    from labkit.search import figures

    again = [0.5, 0.52, 0.5, 0.5, 0.51]
    (axes,) = figures.seeds(told, again).axes
    dots = [[tuple(spot) for spot in marks.get_offsets().tolist()] for marks in axes.collections]
    assert sorted(map(len, dots)) == [5, 5] and len({*dots[0], *dots[1]}) == 10
    seeds = next(some for some in dots if some[1][1] == 0)  # the one that is alone stays on its row
    assert [x for x, _ in seeds] == pytest.approx([100 * value for value in again])
    assert [y for _, y in seeds] == pytest.approx([-0.14, 0, 0, 0.14, 0])


def test_the_importances_find_the_setting_that_was_made_to_matter(told):
    from labkit.search import figures

    shares = figures.importances(told, seeds=2)
    assert max(shares, key=lambda name: sum(shares[name])) == "learning_rate"
    one = {name: values[0] for name, values in shares.items()}
    assert sum(one.values()) < 1  # the rest is what settings do together
    forest = optuna.importance.FanovaImportanceEvaluator(seed=0)
    theirs = optuna.importance.get_param_importances(told.optuna, evaluator=forest, params=list(one))  # add up to 1
    assert {name: value / sum(one.values()) for name, value in one.items()} == pytest.approx(theirs)


def test_figures_of_an_empty_study_are_refused_with_a_sentence(task, tmp_path):
    from labkit.search import figures

    empty = small(task, tmp_path / "s.log", 0)
    for draw in (figures.slices, figures.parallel, figures.history, figures.importances):
        with pytest.raises(LabError, match="0 trials"):
            draw(empty)
    with pytest.raises(LabError, match="no trial has come to its end"):
        empty.best  # noqa: B018


def test_a_pruner_by_each_name():
    assert [type(pruner(name)).__name__ for name in ("median", "halving", "none")] == [
        "MedianPruner", "SuccessiveHalvingPruner", "NopPruner"]
