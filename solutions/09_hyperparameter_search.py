# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 09 · Hyperparameter search: twenty tries, one winner, and how much of it is luck
# **You will** search a space of settings at random and by TPE (a sampler that learns from its trials), stop trials that
# are behind, share a study between processes, say how much of a lead is luck, and open the test set once.
#
# *45 minutes. You need: lab 03. No GPU, no network, no account.*
#
# Where you set nothing else, `finetune` trains with the five figures below. Somebody chose them for you, once, by hand.
# Are they any good for this task, and how would you know?

# %%
from labkit import search
from labkit.tables import table

space = {"learning_rate": search.Float(1e-6, 1e-3, log=True), "rank": search.Int(8, 64, log=True),
         "alpha_over_rank": search.Choice(1, 2, 4), "batch_size": search.Choice(8, 16, 32),
         "dropout": search.Float(0.0, 0.2)}
table(search.defaults(space))

# %% [markdown]
# `space` says what may vary (`log=True` is explained below); `search.usual_space()` is short for one like it, with
# rates around the profile's own. alpha is tied to the rank here, alpha = `alpha_over_rank` × r, so that a larger rank
# does not also change the scale of the detour (lab 03); with `alpha` in its place it would be free.
#
# ## A trial is a short training
# One setting is tried by a training so short that twenty of them fit into a coffee break. A `Bench` loads the base
# once, lends it to one trial after another, and throws each adapter away. All trials see about the same number of
# *rows*: a batch of 32 gets about a quarter of the steps of a batch of 8 and costs about the same.
#
# **Predict.** What does the default reach in so short a training, and how long do twenty trials take?

# %%
prediction = ...  # two numbers: a share between 0 and 1, and seconds

# %%
from labkit import search
from labkit.tables import table

bench, looks = search.Bench("tone"), {}
default = bench(look=lambda number, value: looks.update({number: value}))
print(f"{bench.rows} rows, in {default.seconds:.1f} s: accuracy {default.accuracy}")
table(*({"look": number, "validation accuracy": f"{value:.1%}"} for number, value in looks.items()))

# %% [markdown]
# The three looks come after a third of the rows, after two thirds, and at the end. The first two score 24 validation
# tickets, the same ones, and the last one 96. A later figure can be lower: a model does not get better at every step.
# Further down, the first two decide whether a hopeless trial is stopped.
#
# ## Draw by factors, not by differences
# Let the learning rate be anything from 1e-6 to 1e-3. **Predict**: of a thousand rates drawn evenly between the two,
# how many are below 1e-4?
#
# ### Exercise 9.1 · draw by factors · difficulty 1 · 5 minutes
# `u` is a number drawn evenly between 0 and 1. Give a number from `low` (at u = 0) to `high` (at u = 1) such that equal
# steps of `u` multiply by equal *factors*: u = 0.5 between 1e-6 and 1e-2 gives 1e-4.

# %%
import math

from labkit import check


def log_uniform(u, low, high):
    ### BEGIN SOLUTION
    return math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    ### END SOLUTION


check("log_uniform", log_uniform)

# %% [markdown]
# Optuna does the same for `log=True`. A thousand draws of each kind, by decade:

# %% tags=["reproducible"]
import random

import optuna

from labkit.scratch.search import log_uniform as drawn_by_hand
from labkit.tables import table

optuna.logging.set_verbosity(optuna.logging.WARNING)
asked, dice = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), random.Random(0)
draws = {"evenly": [dice.uniform(1e-6, 1e-3) for _ in range(1000)],
         "by hand, by factors": [drawn_by_hand(dice.random(), 1e-6, 1e-3) for _ in range(1000)],
         "optuna, log=True": [asked.ask().suggest_float("rate", 1e-6, 1e-3, log=True) for _ in range(1000)]}
table(*({"": name, **{f"{10**e:.0e} to {10**(e + 1):.0e}": sum(10**e <= x < 10 ** (e + 1) for x in drawn)
                      for e in (-6, -5, -4)}} for name, drawn in draws.items()))

# %% [markdown]
# Drawn evenly, about nine of ten trials go to the highest decade. What acts as a factor (a rate, a rank, a weight
# decay) is drawn by factors; what acts as a share (dropout) is not.
#
# alpha is a question of its own, since the model only meets it as alpha / r. **Predict** how far alpha / r spreads if
# alpha is drawn freely and by factors, from 8 to 128, beside a rank from 8 to 64:

# %% tags=["reproducible"]
free, tied = [], []
for _ in range(1000):
    trial = asked.ask()
    rank = trial.suggest_int("rank", 8, 64, log=True)
    free.append(trial.suggest_int("alpha", 8, 128, log=True) / rank)
    tied.append(trial.suggest_categorical("alpha_over_rank", [1, 2, 4]))
table(*({"alpha": name, "smallest alpha / r": min(drawn), "largest": max(drawn),
         "outside of 1 to 4": f"{sum(not 1 <= x <= 4 for x in drawn) / len(drawn):.0%}"}
        for name, drawn in (("free", free), ("tied to the rank", tied))))

# %% [markdown]
# Free alpha spends about half of its trials on scales outside of 1 to 4, and mixes up two questions: what the rank
# does, and what the scale does. Tied, each is answered by itself.
#
# ## A dozen settings at random
# Random search sounds lazy and is hard to beat: each trial draws *every* setting anew, where a grid of twelve
# has two or three values of three settings and one of the others (Bergstra and Bengio, 2012). Many guides search the
# learning rate from 1e-6 to 1e-3. Here the range goes on above that, to twenty times the profile's own rate.
# **Predict** on which side of 1e-3 the best lies.

# %%
from labkit import plots, runs, search
from labkit.search import figures

drawn = search.study("tone", search.usual_space(1e-6), trials=12, strategy="random", pruning="none",
                     file=runs("lab09") / "random.log")
drawn.table()

# %% [markdown]
# What it cost: by the clock, and in processor time divided by two, as two cores would share it. The second figure
# leaves out what else the machine was doing, and what a GPU did. Memory is what the process holds after a trial. It may
# rise over the first ones, since what a large trial needed once is not always handed back; if trials left something
# behind, it would never level off. Twelve are too few to say: the next study asks again.

# %%
print(f"{len(drawn.counted)} trials in {drawn.seconds:.0f} s by the clock, {drawn.busy / 2:.0f} s of two cores")
print("MB after each:", *(f"{t.memory:.0f}" for t in drawn.counted))

# %% [markdown]
# One panel a setting, a dot a trial; a cross is a trial that a tripwire stopped because its loss broke. Look for a
# panel in which the dots form a shape. The title speaks of ranges only: of three choices, the best is easily the first
# or the last.

# %%
plots.show(figures.slices(drawn), alt=f"Validation accuracy of {len(drawn.counted)} random trials over each setting in "
           f"a panel; the best has learning rate {drawn.best.params['learning_rate']:.1e}")

# %% [markdown]
# Had we stayed within the guides' range, what would we have found? Compare the two rows; a trial that broke counts
# with its last look.

# %%
from labkit.tables import table

sides = {"1e-6 to 1e-3": [t for t in drawn.counted if t.params["learning_rate"] <= 1e-3],
         "above": [t for t in drawn.counted if t.params["learning_rate"] > 1e-3]}
table(*({"learning rate": side, "trials": len(part), "mean accuracy": f"{sum(t.value for t in part) / len(part):.1%}",
         "best": f"{max(t.value for t in part):.1%}"} for side, part in sides.items() if part))

# %% [markdown]
# Before you believe either row, look in the first panel for two dots at nearly the same rate: how far apart are they?
# Their other settings differ too: a batch of 8, for one, gives about four times the steps of one of 32. Each trial
# changes everything at once, and one lucky combination can decide a row: twelve trials do not tell which range is
# right.
#
# ### Exercise 9.2 · see that a range is too narrow · difficulty 2 · 7 minutes
# If the best value lies near the end of its range, a better one may lie beyond. Return "lower" or "higher" (where the
# range should go on) if `value` lies in the outer `margin` of the range on that side, else "fits". `margin` is a share:
# 0.05 means the outer 5 % on each side. Mind the scale: if `log` is true, measure the place in logarithms.

# %%
import math

from labkit import check


def too_narrow(value, low, high, log, margin):
    ### BEGIN SOLUTION
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    place = (value - low) / (high - low)
    return "lower" if place < margin else "higher" if place > 1 - margin else "fits"
    ### END SOLUTION


check("too_narrow", too_narrow)

# %% [markdown]
# ### Why a small model wants a larger rate
# Under Adam each number of A and B moves by about the learning rate in a step, whatever the size of the gradient. What
# that does to an output is a sum over the width of the layer: a wide layer adds up many small moves, a narrow one few.
# So the smaller the model, the larger the rate that changes an answer by the same amount; and a short training has few
# steps to get there. The profiles' rates go the same way:

# %%
from labkit.profiles import PROFILES

table(*({"profile": p.name, "parameters": f"{p.parameters:.2g}", "rate for LoRA": f"{p.learning_rate:.0e}",
         "for all weights": f"{p.full_learning_rate:.0e}"} for p in PROFILES.values()))

# %% [markdown]
# The guides write for models of the size in the last row, and larger. Twelve trials cannot show which rate is right
# here, so we go by the profiles: below we search around the profile's own rate.
#
# ## Stop what is behind
# A trial that is hopeless after a third of its rows need not see the rest. The *median rule* stops a trial whose best
# figure so far is below the median of what the others had at the same look.
#
# ### Exercise 9.3 · stop what is behind · difficulty 2 · 10 minutes
# `looks` is a dict of a running trial's figures by the number of the look, such as `{1: 0.25, 2: 0.38}`; `others` is a
# list of such dicts, of trials that came to their end (one of them may lack a look). Return True if the trial is to be
# stopped: its best figure so far is below the median of the others at its *last* look. With fewer than `startup`
# others, return False.

# %%
from statistics import median

from labkit import check


def should_stop(looks, others, startup=5):
    ### BEGIN SOLUTION
    last = max(looks)
    seen = [other[last] for other in others if last in other]
    return len(others) >= startup and max(looks.values()) < median(seen)
    ### END SOLUTION


check("should_stop", should_stop)

# %% [markdown]
# *Successive halving* has another rule: it stops whoever is below the best third of all that reached this look so far.
# It asks after 1, 3, 9 ... looks, so of our three only the first can stop a trial. With 24 tickets a look, many trials
# are equal, and equals go on. Both rules can be tried on the random trials after the fact, since pruning was off
# there. **Predict** how many rows each rule saves, and whether the winner survives it.

# %%
from labkit import runs, search
from labkit.scratch.search import should_stop as stops_by_hand
from labkit.search.trials import LOOKS
from labkit.tables import table

drawn = search.study("tone", search.usual_space(1e-6), trials=12, strategy="random", pruning="none",
                     file=runs("lab09") / "random.log")  # there already, or run now
trials = drawn.counted
winner, ended, stopped = max(trials, key=lambda t: t.value).number, [], {}
for t in trials:
    behind = [n for n in (1, 2) if stops_by_hand({k: v for k, v in t.looks.items() if k <= n}, ended)]
    stopped |= {t.number: behind[0]} if behind else {}
    ended += [] if behind else [t.looks]
rules = {"median, by hand": stopped, "median, optuna": search.replay(trials, "median"),
         "successive halving": search.replay(trials, "halving")}
table(*({"rule": name, "stopped": f"{len(out)} of {len(trials)}", "winner": "stopped" if winner in out else "survives",
         "rows saved": f"{sum(1 - look / LOOKS for look in out.values()) / len(trials):.0%}"}
        for name, out in rules.items()))

# %% [markdown]
# The median rule stops as many by hand as by the library. Where the winner is *stopped*, the rule would have saved
# rows and lost the best trial: on 24 tickets a slow starter, or an unlucky one, looks like a loser. Whether it was one,
# only a search without pruning can tell, such as this one.
#
# ## Look where it was good
# Random search learns nothing from what it saw. The *tree-structured Parzen estimator* (TPE) parts the trials into the
# best few (a tenth in Optuna, a third in the picture below) and the rest, smooths both into densities l(x) and g(x),
# draws some candidates from l, and tries the one whose l(x) / g(x) is largest.
#
# ### Exercise 9.4 · where it was good, and not bad · difficulty 3 · 12 minutes
# `density(x, centres, width)` is given: how densely the numbers in `centres` lie around x. Of the list `candidates`,
# return the one with the largest l / g, where l is the density of the list `good` at it, and g that of `bad`.

# %%
from labkit import check
from labkit.scratch.search import density


def tpe_pick(candidates, good, bad, width):
    ### BEGIN SOLUTION
    return max(candidates, key=lambda x: density(x, good, width) / density(x, bad, width))
    ### END SOLUTION


check("tpe_pick", tpe_pick)

# %% [markdown]
# Now on the random trials, for the learning rate alone, in powers of ten. The candidates are a fine grid over the
# range. **Predict** where the pick lies: where l is highest?

# %%
import math

from labkit import plots, runs, search
from labkit.scratch.search import density, tpe_pick as pick_by_hand

drawn = search.study("tone", search.usual_space(1e-6), trials=12, strategy="random", pruning="none",
                     file=runs("lab09") / "random.log")
trials = sorted(drawn.counted, key=lambda t: -t.value)
rates = [math.log10(t.params["learning_rate"]) for t in trials]
good, bad, top = rates[:4], rates[4:], math.log10(drawn.space["learning_rate"].high)
grid = [-6 + 0.05 * i for i in range(int((top + 6) / 0.05) + 1)]  # from 1e-6 to the upper end
pick = pick_by_hand(grid, good, bad, 0.4)
figure, axes = plots.new(f"TPE would try {10**pick:.0e} next", "learning rate (log10)", "density (per factor of ten)")
for name, part, colour in (("l: the best four", good, "blue"), ("g: the others", bad, "grey")):
    axes.plot(grid, [density(x, part, 0.4) for x in grid], color=plots.COLOURS[colour], label=name)
    axes.plot(part, [0] * len(part), "|", color=plots.COLOURS[colour], markersize=12)
axes.axvline(pick, color=plots.COLOURS["orange"], linestyle="--", label="largest l / g")
figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
plots.show(figure, alt=f"Densities of good and other rates; the largest ratio lies at {10**pick:.0e}")

# %% [markdown]
# The pick lies where bad trials are *rare* beside good ones, which need not be where good ones are densest. Optuna's
# TPE does this for all settings at once (since version 5). The first ten trials are not its choice, but the default and
# nine at random, so that it has something to learn from. The range now lies around the profile's own rate, and the
# median rule stops what is behind, at the risk that it stops a winner.

# %%
from labkit import plots, runs, search
from labkit.search import figures

space = search.usual_space()  # the same, with rates around the profile's own
setting = dict(trials=20, strategy="tpe", pruning="median", first=[search.defaults(space)],
               file=runs("lab09") / "tpe.log")
found = search.study("tone", space, **setting)
found.table(5)

# %% [markdown]
# Compare the best rates with the profile's own, and with 1e-3, where the guides stop. The argument about small models
# says which way the rate goes with size, all else equal, and not where the best of twenty short trials lies: the batch,
# which sets the number of steps, and alpha / r move it, too.
#
# **Predict** how many of the twenty were stopped early, and whether more of those that TPE chose than of the first ten.

# %%
plots.show(figures.history(found), alt=f"Accuracy of {len(found.counted)} trials in their order; the best is trial "
           f"{found.best.number} with {found.best.score}")

# %% [markdown]
# The median rule compares with trials that ran to their end, so its bar tends to rise, for TPE's choices too; until
# five have come so far it stops none (a cross before that is a broken loss), so a part of the first ten never met it.
# Do not compare this curve with the random search above: its range was another one. What can be compared is the best
# trial with the default, which is trial 0 and drew its rows with the same seed. The first line says what the study
# cost, the second whether memory still grows.

# %%
from statistics import median

from labkit import measured
from labkit.tables import table

default = found.counted[0]
print(f"{len(found.counted)} trials in {found.seconds:.0f} s by the clock, {found.busy / 2:.0f} s of two cores; "
      f"two cores in 90 s or less: {found.busy / 2 <= 90}")
early, late = (median(t.memory for t in part) for part in (found.counted[:5], found.counted[-5:]))
print(f"memory after one of the first five trials {early:.0f} MB, of the last five {late:.0f} MB (medians); "
      f"grown by less than 5 %: {late < 1.05 * early}")
print(f"the best beats the default on validation: {found.best.value > default.value}; "
      f"their intervals touch: {not found.best.score.above(default.score)}")
measured.note("09_hyperparameter_search", seconds_of_20_trials=found.seconds, default_validation=default.score,
              best_validation=found.best.score, best_rank=found.best.params["rank"],
              best_learning_rate=found.best.params["learning_rate"])
table(*({"": name, **t.params, "accuracy": str(t.score)} for name, t in (("default", default), ("best", found.best))))

# %% [markdown]
# ### It is all in the file
# The study lies in one file, a line a change. The same call again finds twenty trials there and has nothing to do; had
# you closed the laptop after the twelfth, it would do eight. Trial 13 draws the same settings either way, because its
# seed is made of the study's seed and its own number, and TPE finds the same trials before it in the file.

# %%
import time

began = time.monotonic()
again = search.study("tone", space, **setting)
print(f"{len(again.counted)} trials, the same best: {again.best.number == found.best.number}, "
      f"in {time.monotonic() - began:.1f} s")

# %% [markdown]
# ## What mattered
# Three pictures of the same trials. *Parallel coordinates*: a line a trial, from its settings to its figure, dotted if
# it was stopped early; the best third is in front. Look for an axis on which the front lines run close together.

# %%
from labkit import plots, runs, search
from labkit.search import figures

space = search.usual_space()
found = search.study("tone", space, trials=20, strategy="tpe", pruning="median", first=[search.defaults(space)],
                     file=runs("lab09") / "tpe.log")
plots.show(figures.parallel(found), alt="Parallel coordinates of the trials: one line from settings to accuracy each")

# %% [markdown]
# *Slices* show one setting at a time. Where TPE has tried one region again and again, the marks are dense: they are no
# fair sample of the range any more. Where they crowd at one end, the range may be too narrow, even if the best trial
# lies within. A cross was stopped early and shows its last look, at 24 tickets, or 0 where the loss broke before the
# first; a dot is of 96 tickets.

# %%
plots.show(figures.slices(found), alt="Validation accuracy over each setting in a panel; the best trial is ringed")

# %% [markdown]
# *Importances* come from a forest of decision trees, fitted to the trials that ran to their end: how much of the spread
# does each setting explain alone? The black line shows how far five forests disagree. **Predict** the order.

# %%
shares = figures.importances(found)
plots.show(figures.importance_bars(found), alt="; ".join(
    f"{name}: {sum(values) / len(values):.0%}" for name, values in shares.items()))

# %% [markdown]
# Importance is not advice. It speaks of the trials that it saw, and those that were stopped early are not among them:
# if all high rates were stopped, the rate may matter little among what is left, because only rates that work are left.
# A rate far above them can still ruin a training.
#
# ## Two workers, one of them killed
# Several processes, or *workers*, can share a study: each takes the next trial, and each sees what the others found. A
# study must not lose a trial when a laptop is closed, nor count one twice. **Predict** what becomes of a trial whose
# worker is killed in the middle. The space is a file this time, and `--rows 48` keeps its six trials short.

# %%
import sys
from pathlib import Path

from labkit import runs

home = runs("lab09")
home.mkdir(parents=True, exist_ok=True)
plan = home / "space.yml"
plan.write_text("""
search_space:
  learning_rate: {type: float, low: 1e-4, high: 4e-2, log: true}
  rank: {type: int, low: 8, high: 64, log: true}
  batch_size: {type: choice, values: [8, 16, 32]}
search_strategy: {type: random, num_trials: 6, pruning: none}
""", encoding="utf-8")
file = home / "shared.log"
file.unlink(missing_ok=True)
command = [sys.executable, "-m", "labkit.cli", "search", "tickets", "--task", "tone", "--space", str(plan),
           "--study", str(file), "--rows", "48"]
print("labkit search", *(Path(word).name for word in command[4:]))

# %% [markdown]
# The same command twice: two workers. As soon as one is at a trial, it is killed, as a power cut would do it.

# %%
import subprocess
import time

import psutil

from labkit import LabError, search

workers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
while not (busy := [t for t in search.trials_in(file) if t.state == "running" and t.worker]):
    if all(worker.poll() is not None for worker in workers):
        raise LabError("both workers ended before a trial began", todo="Run the cell above, which begins a new study")
    time.sleep(0.1)
psutil.Process(busy[0].worker).kill()
for worker in workers:
    worker.wait()
codes = sorted(worker.returncode for worker in workers)
print(f"trial {busy[0].number} lost its worker; exit codes: {codes} (a negative one is the signal that killed it)")

# %% [markdown]
# Read the table: six trials are done or stopped early, no setting twice among them, and the one that was lost is done
# again with its own settings by the other worker. Nothing is pruned here: if a trial was stopped early, its loss broke,
# and a tripwire ended it.

# %%
from labkit.tables import table

trials = search.trials_in(file)
names = {worker: letter for worker, letter in zip(dict.fromkeys(t.worker for t in trials), "ABCD")}
ended = [t for t in trials if t.state in ("done", "stopped early")]
print(f"done or stopped early: {len(ended)}, different settings: {len({str(t.params) for t in ended})}, "
      f"done again: {[t.retry_of for t in ended if t.retry_of is not None]}")
table(*({"trial": t.number, "worker": names[t.worker], "state": t.state, "again for": t.retry_of,
         "rate": f"{t.params['learning_rate']:.2e}", "rank": t.params["rank"]} for t in trials))

# %% [markdown]
# A file does for processes on one machine. For several machines the study moves into a database that all of them reach,
# and nothing else changes. There a worker counts as lost when it has given no heartbeat for twenty seconds:
#
# ```
# labkit search tickets --task tone --space space.yml --study postgresql+psycopg://user@host/studies
# ```
#
# Start it on each host, with the same data and the same `space.yml`. `tests/two_hosts_search.py` plays two hosts on one
# Linux machine that has a PostgreSQL server, and cuts one of them off in mid-trial. This is what it saw, once somebody
# has run it:

# %%
from labkit import measured

measured.seen("two_hosts_search", by="tests/two_hosts_search.py")

# %% [markdown]
# ## How much of it is luck
# The best of twenty was chosen because its figure was the highest. **Predict**: train the same settings again with
# other seeds. Will they come out above its figure, below, or around it?

# %%
from labkit import measured, plots, runs, search
from labkit.search import figures

space = search.usual_space()
found = search.study("tone", space, trials=20, strategy="tpe", pruning="median", first=[search.defaults(space)],
                     file=runs("lab09") / "tpe.log")
again = [found.bench(seed=seed, **found.best.setting).accuracy.value for seed in range(1, 6)]
print(f"the best trial: {found.best.value:.1%}; five other seeds:", *(f"{value:.1%}" for value in again))

# %% [markdown]
# Same settings, same rows to choose from, same steps. What differs is chance: how A begins, which rows are taken and in
# what order, what dropout hides. The mean of such repeats is below the winner more often than not, since a winner is
# chosen for its luck, too (*winner's curse*).
#
# ### Exercise 9.5 · how much is luck · difficulty 2 · 8 minutes
# `figures` is a list of one setting's accuracies (shares), a seed each. How far apart must *two single runs* be before
# luck alone does it only about once in twenty times? Return two standard deviations of a difference, also as a share.
# The figures are a sample: their own standard deviation divides by n - 1.

# %%
from statistics import stdev

from labkit import check


def luck(figures):
    ### BEGIN SOLUTION
    return 2 * 2**0.5 * stdev(figures)
    ### END SOLUTION


check("luck", luck)

# %% [markdown]
# The best five trials beside the five seeds. Which of those five settings would you still call better than another?

# %%
from labkit.scratch.search import luck as by_luck

measured.note("09_hyperparameter_search", luck_points=round(100 * by_luck(again), 1))
plots.show(figures.seeds(found, again), alt=f"Five seeds of one setting differ by luck: {100 * by_luck(again):.1f} "
           "points between two runs are within it; the best five trials lie beside them")

# %% [markdown]
# So the next time somebody shows you a gain of half a point from a search, ask for five seeds. And with more tries the
# luckiest gets luckier. Take trials that are all *equally* good, with the spread that you just measured: by how much
# does the best of them look better than it is?

# %%
import random
from statistics import mean

from labkit.tables import table

spread, dice = by_luck(again) / (2 * 2**0.5), random.Random(0)
lead = {n: mean(max(dice.gauss(0, spread) for _ in range(n)) for _ in range(2000)) for n in (2, 5, 20, 100)}
table(*({"equally good trials": n, "the best looks better by (points)": f"{100 * value:.1f}"}
        for n, value in lead.items()))

# %% [markdown]
# ## The test set is opened once
# A figure that was used to choose can't be used to report. So far this lab has read no test ticket. Now the default and
# the winner are trained on more rows, equally many for both, and then the test set is opened. **Predict** the gain, in
# points.

# %%
from labkit import current, data, finetune, runs, search

space = search.usual_space()
found = search.study("tone", space, trials=20, strategy="tpe", pruning="median", first=[search.defaults(space)],
                     file=runs("lab09") / "tpe.log")
train, rows, tuned = data.ticket_task("tone").train, current().steps * current().batch_size // 4, {}
for name, trial in (("the default", found.counted[0]), ("the best", found.best)):
    steps = rows // trial.setting["batch_size"]
    tuned[name] = finetune(train, steps=steps, out=runs(f"lab09-{name[4:]}"), reuse=True, **trial.setting)

# %% [markdown]
# `open_test` scores them, and writes into the study that it did. `tested` gives what was seen the first time.

# %%
from labkit import measured
from labkit.tables import table

seen = found.tested or found.open_test(tuned)
measured.note("09_hyperparameter_search", gain_on_test=str(seen["gain"]),
              **{f"{name[4:]}_test": score for name, score in seen["scores"].items()})
print("the best minus the default, ticket by ticket:", seen["gain"])
table(*({"": name, "test accuracy": str(score)} for name, score in seen["scores"].items()))

# %% [markdown]
# If the interval of the gain lies wholly above 0, the search earned its place. If not, no gain is shown, and these test
# tickets cannot be asked again. Compare the gain with the lead on validation, further up. Two things can shrink a lead
# on its way here: the winner's luck stays behind, and a default that was slow or unlucky catches up with more rows.
# Now try to look again, as everybody wants to:

# %%
from labkit import LabError

try:
    found.open_test(tuned)
except LabError as error:
    print(str(error).split(": ", 1)[1])

# %% [markdown]
# The message begins with the study's file, which is left out here. No trial can be added either: a study whose test set
# was seen is closed. Nothing stops you from deleting the file, except that you would know.
#
# ## The other way: transformers' own search
# `Trainer.hyperparameter_search` drives Optuna too. You give a function that makes a fresh model and one that draws
# from the space; the objective is the validation loss, unless the Trainer computes other metrics. Two trials of a few
# steps:

# %%
from labkit import adapters, data, models, runs
from labkit.data.encode import collate, encode, pad_id
from labkit.profiles import device
from transformers import PrinterCallback, Trainer, TrainingArguments

task, tokenizer = data.ticket_task("tone"), models.load()[1]
train, held = (encode(part.select(range(n)), tokenizer).select_columns(["input_ids", "labels"])
               for part, n in ((task.train, 256), (task.validation, 48)))
arguments = TrainingArguments(output_dir=str(runs("lab09-transformers")), max_steps=6, report_to=[], disable_tqdm=True,
                              save_strategy="no", logging_strategy="no", use_cpu=device() == "cpu",
                              label_names=["labels"], remove_unused_columns=False)
trainer = Trainer(args=arguments, train_dataset=train, eval_dataset=held, data_collator=lambda rows: collate(
                      rows, pad_id=pad_id(tokenizer)), model_init=lambda: adapters.attach_lora(models.load()[0], 8))

# %% [markdown]
# Its space is code rather than a file, and its result is one `BestRun`:

# %%
import optuna

optuna.logging.set_verbosity(optuna.logging.WARNING)
trainer.remove_callback(PrinterCallback)
with models.quiet():
    best = trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 4e-2, log=True),
                                "per_device_train_batch_size": trial.suggest_categorical(
                                    "per_device_train_batch_size", [8, 16])},
        direction="minimize", backend="optuna", n_trials=2)
print(f"trial {best.run_id}: validation loss {best.objective:.3f} nats, {best.hyperparameters}")

# %% [markdown]
# It is less to write, where the Trainer is all you have. What it leaves to you: a base that is loaded once, trials of
# equal cost, a metric other than the loss, a study file that can be continued, workers that may die, and a test set
# that stays shut.
#
# ## On a real model
# With `LABKIT_PROFILE=small` this very notebook runs on SmolLM2. What it measured, if it was recorded, beside what you
# have just seen:

# %%
from labkit import measured

measured.beside("09_hyperparameter_search")

# %% [markdown]
# ## The same by command line
# `labkit search my_tickets.csv --space space.yml` searches with your file: its splits are those of `labkit finetune`,
# its test rows stay shut until you say `--open-test`, and `--workers 2` starts a second process. A mistake in the space
# is named with its place:

# %%
from labkit import LabError, runs, search

wrong = runs("lab09") / "wrong.yml"
wrong.parent.mkdir(parents=True, exist_ok=True)
wrong.write_text("search_space:\n  learning_rate: {type: float, low: 0, high: 1e-3, log: true}\n", encoding="utf-8")
try:
    search.read_plan(wrong)
except LabError as error:
    print(error)

# %% [markdown]
# ## What you can do now
# You can set up a space, search it at random and by TPE, see that a range is too narrow, stop what is behind, share a
# study, tell a lead from luck, and keep the test set for the end.
#
# **Quiz.** Answer each in your head, then open it.
#
# <details><summary>1. Your best learning rate is 9.8e-4, of at most 1e-3. What do you do?</summary>
# Widen the range upwards and search again. A better rate may lie above 1e-3, and this search could not see it.
# </details>
#
# <details><summary>2. A colleague ran 100 trials, took the best, and reports its validation accuracy. What is wrong?
# </summary> The best of many is chosen for its luck, too, and the validation rows chose it. Report its figure on rows
# that chose nothing, and train it with some seeds.
# </details>
#
# <details><summary>3. Short trials can favour high learning rates. Why, and what follows?</summary>
# With few steps, a low rate often does not get far enough. In a longer training, late steps at the same high rate may
# do harm. So a search by short trials finds a neighbourhood: check the winner at full length before you believe in it.
# </details>
#
# **Next:** lab 10 exports what you trained, so that it runs without PyTorch. How far you are:

# %%
from labkit import progress

progress("09")
