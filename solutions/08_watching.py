# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 08 · Watching and mending: five broken runs
# **You will** read a training while it runs, tell by its curves and its meter what is wrong with it, mend five runs
# that are really broken, and leave with a page to come back to when one of your own goes wrong.
#
# *60 minutes. You need: Python; labs 02 and 03 help. No GPU, no network, no account.*
#
# A colleague at Tatra Trail sends the curve below and asks whether to ship the adapter. Its loss ends near zero. Would
# you say yes, and what would you ask for first? (`clinic` has the five broken runs; `treat` trains one of them.)

# %%
from labkit import clinic, plots, runs

sick = clinic.treat("overfitting", {}, out=runs("lab08-sick"))
first = [{"step": point["step"], "loss": point["loss"]} for point in sick.curve if "loss" in point]
plots.show(plots.curve(first, f"The training loss ends at {first[-1]['loss']:.2f} nats: a good run?"),
           alt=f"Training loss goes from {first[0]['loss']:.2f} to {first[-1]['loss']:.2f} nats")

# %% [markdown]
# It is ill, and the low end of the curve, which is that of the *training* rows, does not show it. (An early leap, if
# there is one, hints at a second illness; see patient 1.) This lab is about what does show it, and about what else can
# go wrong in silence.
#
# ## A run tells you how it is
# `monitoring.live()` is a callback: the Trainer calls it after every step, and it redraws a picture under the cell.
# **Predict** before you run it how the learning rate goes, and whether the gradient norm (the length of the gradient)
# rises, falls or does neither.

# %%
from labkit import clinic, finetune, monitoring, runs

rows, watched = clinic.rows_of(400), clinic.watched()
run = finetune(rows, watched, steps=30, batch_size=8, evaluate_every=10, callbacks=[monitoring.live()],
               out=runs("lab08-live"))

# %% [markdown]
# Four things to look at, in this order: does the training loss fall on the whole; does validation fall with it (it may
# lie lower, since it is of other letters, and of few); does the rate do what was set (by default a short way up, then
# down); does the gradient norm stay in one range, without runaway leaps. What the meter saw meanwhile stays in the Run:

# %%
from labkit import measured
from labkit.tables import table

measured.note("08_watching", tokens_per_second=run.meter["tokens_per_second"], longest_step=run.meter["move"],
              watching=f"{run.meter['watching']:.2%}")
table(*({"measured": name.replace("_", " "), "value": value} for name, value in run.meter.items()))

# %% [markdown]
# Shares are from 0 to 1. `waiting` is the share of the time in which the model had no rows, `padding` the share of the
# tokens that only fill up short rows, `move` how far the longest step moved the weights, as a share of their size, and
# `watching` the share of the time that looking took; `cpu` counts busy cores. Each of the first three points to an
# illness further down.
#
# ### Exercise 8.1 · tokens a second, and seconds to go · difficulty 1 · 6 minutes
# `seconds` and `tokens` are lists with one number for each step that is done, in order; `steps` is how many there will
# be in all. Return two numbers: tokens a second, and seconds to go at the mean pace so far. The first step warms up, so
# leave its time and its tokens out of both.

# %%
from labkit import check, hint, solution


def throughput(seconds, tokens, steps):
    ### BEGIN SOLUTION
    a_step = sum(seconds[1:]) / len(seconds[1:])
    return sum(tokens[1:]) / sum(seconds[1:]), a_step * (steps - len(seconds))
    ### END SOLUTION


check("throughput", throughput)

# %% [markdown]
# ### What does watching cost
# Two kinds of runs take turns: with a clock alone, and with meter, picture and a log for TensorBoard, which comes next.
# **Predict** how much slower the second kind is.

# %%
from IPython.display import clear_output

from labkit.monitoring import Meter


def seconds(callbacks):
    return finetune(rows, steps=8, batch_size=8, guard=False, callbacks=callbacks,
                    out=runs("lab08-cost")).meter


bare, seen = [], []
for _ in range(3):
    bare.append(seconds([Meter(look=False).callback()])["seconds_a_step"])
    seen.append(seconds([monitoring.live(), monitoring.tensorboard(runs("lab08-board") / "cost")]))
ratio = sorted(watching["seconds_a_step"] / clock for watching, clock in zip(seen, bare, strict=True))
inside = sorted(watching["watching"] for watching in seen)
clear_output(wait=True)  # three pictures of one training
print(f"a watched step takes {ratio[1]:.2f} of the time of the other ({ratio[0]:.2f} to {ratio[2]:.2f} in three pairs)")
print(f"inside meter and picture: {inside[-1]:.1%} of the training at most; at most 3 %: {inside[-1] <= 0.03}")

# %% [markdown]
# The pairs wobble with whatever else the machine does, and may even come out below 1. The clock inside meter and
# picture times nothing but them, and leaves TensorBoard's log to the pairs. What is cheap to know is worth looking at.
#
# ## TensorBoard, and a terminal
# Many tools keep their curves in TensorBoard's event files. `transformers` has a callback that writes them;
# `monitoring.tensorboard(folder)` is that callback with a folder. **Predict** what the curves are called in there.

# %%
from labkit import clinic, finetune, monitoring, runs
from labkit.monitoring import board
from labkit.tables import table

folder = runs("lab08-board") / "tone"
finetune(clinic.rows_of(200), clinic.watched(), steps=20, batch_size=8, evaluate_every=5, guard=False,
         callbacks=[monitoring.tensorboard(folder)], out=runs("lab08-logged"))
found = board.scalars(folder)
table(*({"tag": tag, "points": len(values), "last": values[-1][1]} for tag, values in found.items()))

# %% [markdown]
# `train/` and `eval/` are the Trainer's prefixes. The same file as a picture, without a server:

# %%
board.show(folder)

# %% [markdown]
# TensorBoard itself opens in the notebook too, and draws all runs of a folder into one figure. Type this into a cell of
# your own (under another profile its name stands in place of `tiny`):
#
#     %load_ext tensorboard
#     %tensorboard --logdir ../runs/tiny/lab08-board
#
# On a server without a screen, `tensorboard --logdir runs --port 6006` and an SSH tunnel do the same. And in a terminal
# `finetune(..., progress=True)` draws one line, with the loss and the meter in words. Here it is drawn into a string,
# and its last state is printed:

# %%
import io

line = io.StringIO()
finetune(clinic.rows_of(200), steps=12, batch_size=8, guard=False, out=runs("lab08-line"),
         callbacks=[monitoring.terminal_line(file=line)])
print(line.getvalue().split("\r")[-1])

# %% [markdown]
# ## Patient 1: it learns by heart
# Sixteen letters, a large adapter, a high rate. You saw its training curve at the top of the lab. The cell prints its
# settings, and this time draws validation too, measured every few steps. **Predict** at which step validation is best.

# %%
from labkit import check, clinic, monitoring, plots, runs
from labkit.tables import table

print(clinic.sick("overfitting"))
sick = clinic.treat("overfitting", {}, out=runs("lab08-sick"))
figure, alt = monitoring.still(sick.curve)
plots.show(figure, alt)

# %% [markdown]
# *Symptom:* the training loss goes on down, and validation ends well above its lowest point. *Diagnosis:* find the
# lowest validation loss; see whether the run went on after it; see how often it read each row. `monitoring.diagnose`
# takes these steps and says what it saw:

# %%
monitoring.diagnose(sick)

# %% [markdown]
# Six remedies are in every textbook. **Predict** which of them lower the lowest point itself, which only keep it, and
# which do neither.

# %%
remedies = {"sick": {}, "early stopping": {"patience": 2}, "lower rank": {"rank": 2, "alpha": 8},
            "lower alpha": {"alpha": 16}, "dropout": {"dropout": 0.3}, "weight decay": {"weight_decay": 0.3},
            "more data": {"rows": 400}}
seen = []
for name, mend in remedies.items():
    run = clinic.treat("overfitting", mend, out=runs("lab08-sick" if not mend else "lab08-remedy"))
    held = [point["validation_loss"] for point in run.curve if "validation_loss" in point]
    kept = min(held) if "patience" in mend else held[-1]
    seen.append({"remedy": name, "lowest": round(min(held), 2), "of the weights that are kept": round(kept, 2),
                 "diagnosis": monitoring.diagnose(run).illness})
table(*seen, caption=f"validation loss, nats; a blind guess among six labels costs {clinic.blind():.2f}")

# %% [markdown]
# Read the column `lowest`: it says how good the model could get with this remedy. Early stopping only keeps the best
# weights there were; the others change the run, and not each of them enough. Weight decay shrinks the weights by no
# more than the rate times its strength in a step, which over thirty steps is little. Where its row is far from the sick
# run's all the same, do not credit the decay: a run with leaps can go elsewhere after a small push, and one run each
# does not rank remedies that lie some tenths apart. And healthy means only that no sign of illness was found: compare
# with a blind guess. Look at `more data`: where its diagnosis is healthy and its validation is not good, the steps are
# too long as well (a high rate, times alpha / r = 4). A patient may have two illnesses, so the mend below may treat
# both.
#
# ### Exercise 8.2 · mend it · difficulty 2 · 10 minutes
# `mend` is a dict of the settings that you change, with the names printed above: `{"rank": 4}`, for instance. The check
# asks for a validation loss that ends at nine tenths of a blind guess or below (0.81 nats with tiny-base), and within
# 15 % (or 0.1 nats) of its lowest, in no more than twice the steps of the sick run. With `patience`, the lowest counts
# as the end. `...` leaves it untreated.

# %%
### BEGIN SOLUTION
mend = {"rows": 400, "batch_size": 8, "rank": 8, "alpha": 16, "learning_rate": 2e-3}
### END SOLUTION

mended = clinic.treat("overfitting", mend, out=runs("lab08-mended"))
check("mend_overfitting", mended)

# %% [markdown]
# *Proof* for one such mend (ours), on test tickets: neither run has trained on them, and nobody watched their loss. Do
# the intervals overlap?

# %%
from labkit import data, evaluation, measured

held = data.spread(data.ticket_task("tone").test, 72)
scores = {}
for name, cure in {"sick": {}, "mended": clinic.mended("overfitting")}.items():
    run = clinic.treat("overfitting", cure, out=runs(f"lab08-{name}"))
    picked = evaluation.classify(*run.loaded, held["prompt"], data.LABELS["tone"])
    scores[name] = evaluation.accuracy(held["label"], picked, evaluation.groups_of(held))
measured.note("08_watching", learnt_by_heart=scores["sick"], mended=scores["mended"])
table(*({"run": name, "accuracy": str(score)} for name, score in scores.items()))

# %% [markdown]
# ## Patient 2: it does not fit
# This run trains all weights on sixteen long rows a step, under a memory budget. Every tensor is counted, and the one
# that passes the limit stops the run with the error of a full GPU; on a GPU too, where the real limit is far off. What
# tells you is a *tripwire*, a check of labkit's that ends a run with a sentence.

# %%
from labkit import LabError, check, clinic, monitoring
from labkit.tables import table

print(f"the budget is {clinic.budget() / 1e6:.0f} MB")
try:
    with monitoring.Budget(clinic.budget()) as limit:
        clinic.cramped(limit, **clinic.sick("memory"))
except LabError as stopped:
    print(monitoring.diagnose(stopped))

# %% [markdown]
# *Symptom:* it stops in the first step, or in the second, when Adam's moments (its two means, lab 02) are there as
# well. *Diagnosis:* see what the need depends on. `clinic.wants` predicts the peak from the model's config, for fewer
# rows at once, and with *checkpointing*: keep few activations, and compute the others again in the backward pass.

# %%
table(*({"rows at once": rows, "MB": f"{clinic.wants(batch_size=rows, accumulation=16 // rows) / 1e6:.0f}",
         "MB with checkpointing": f"{clinic.wants('full', rows, 16 // rows, True) / 1e6:.0f}"}
        for rows in (16, 8, 4, 2, 1)), caption=f"sixteen rows a step, in parts; budget {clinic.budget() / 1e6:.0f} MB")

# %% [markdown]
# ### Exercise 8.3 · make it fit · difficulty 2 · 8 minutes
# `mend` is a dict with `batch_size` (rows at once), `accumulation` (parts a step) and `checkpointing` (True or False).
# All weights are trained, `batch_size` × `accumulation` stays sixteen, it fits, and as many rows as possible go through
# at once.

# %%
### BEGIN SOLUTION
mend = {"batch_size": 4, "accumulation": 4, "checkpointing": True}
### END SOLUTION

check("mend_memory", mend)

# %% [markdown]
# *Proof:* run our mend under the same budget, each remedy alone, and both with LoRA, and with LoRA over a base in 4
# bits (QLoRA). **Predict** what the 4 bits save here, where the model is small and the rows are long.

# %%
ways = {"sick": clinic.sick("memory"), "checkpointing": {"checkpointing": True},
        "four parts": {"batch_size": 4, "accumulation": 4},
        "both": clinic.mended("memory"), "both, LoRA": clinic.mended("memory") | {"method": "lora"},
        "both, QLoRA": clinic.mended("memory") | {"method": "qlora"}}
seen = []
for name, how in ways.items():
    row = {"": name, "predicted (MB)": f"{clinic.wants(**how) / 1e6:.0f}"}
    try:
        with monitoring.Budget(clinic.budget()) as limit:
            run = clinic.cramped(limit, **how)
        row |= {"fits": True, "measured (MB)": f"{limit.peak / 1e6:.0f}", "s a step": run.meter["seconds_a_step"]}
    except LabError:
        row |= {"fits": False}
    seen.append(row)
table(*seen)

# %% [markdown]
# Neither remedy is enough alone; both together are. They cost time, though three steps are too few to measure it:
# checkpointing computes the forward pass twice, and small parts use a machine less well. LoRA saves gradients and
# moments. 4 bits save weights: the larger the model and the shorter the rows, the larger the part of what is left
# (lab 04).
#
# ## Patient 3: it is slow
# A training that "takes all night". Whenever a ticket's turn comes, the loader reads the whole file to find it; every
# batch is padded to 256 tokens, in case a long letter comes. **Predict** for what share of the time the model waits for
# its rows.

# %%
from labkit import check, clinic, finetune, models, monitoring, runs
from labkit.data.encode import encode
from labkit.tables import table

tokenizer, times = models.load()[1], []
rows = encode(clinic.rows_of(200), tokenizer)


def timed(name, **how):
    run = finetune(rows, steps=8, batch_size=8, guard=False, out=runs("lab08-slow"),
                   **{"bf16": False, "narrow": False} | how)
    times.append({"": name, "s a step": run.meter["seconds_a_step"], "real tokens/s": run.meter["tokens_per_second"],
                  "waiting": f"{run.meter['waiting']:.0%}", "padding": f"{run.meter['padding']:.0%}"})
    return run


monitoring.diagnose(timed("as it came", collator=clinic.slow_collator(tokenizer, rows)))

# %% [markdown]
# *Symptom:* the processor is busy, and few tokens come out. *Diagnosis:* the clock between two steps. *First mend:* do
# before the training what can be done before it. The rows were read and encoded once; the loader now only pads them:

# %%
monitoring.diagnose(timed("rows prepared", collator=clinic.wide_collator(tokenizer)))

# %% [markdown]
# With the first illness gone, the next one is named; what is found beside the first stands under `also`. (A large model
# computes so long that the loader may never have been named.) *Second mend:* pad to the longest row of the batch, which
# is what `finetune` does by default.

# %%
monitoring.diagnose(timed("padded to the longest of a batch"))

# %% [markdown]
# ### Exercise 8.4 · batches with little padding · difficulty 2 · 8 minutes
# `lengths` has the number of tokens of each row. Return a list of batches, each a list of `size` row numbers (from 0
# on; one batch may be smaller), each row once, so that little is padding. A batch is as wide as its longest row.

# %%
def mend_batches(lengths, size):
    ### BEGIN SOLUTION
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    return [order[start : start + size] for start in range(0, len(order), size)]
    ### END SOLUTION


check("mend_batches", mend_batches)

# %% [markdown]
# *Third mend:* such batches. `finetune(group_by_length=True)` makes them, among four batches' rows at a time, so that
# chance keeps its say. *Fourth mend:* 16-bit numbers, where the machine multiplies them faster; where it does not, they
# would be slower, and the cell leaves them out and says so. *Fifth mend:* less work between the products. In 16 bits
# PyTorch's attention for CPUs is slow backwards, and a LoRA layer goes over its answer anew for the scale, for the sum
# and for each change of type. `labkit.kernels` does both in fewer passes; `finetune` uses it in 16 bits, unless it is
# told `kernels=False`. *Sixth mend:* leave out what nobody looks at. The loss asks for logits where labels count, at
# the end of a letter. Of the other tokens the last layer must make keys and values, for the end looks at them; its
# other work there is for nothing. And a question with which all rows of a batch begin has the same keys and values in
# each, so it can be read once. `labkit.narrow` does both. **Predict** which of the four brings most.

# %%
from labkit import measured, profiles

timed("rows of like length together", group_by_length=True)
if profiles.bf16():
    for name, on in {"and in bfloat16": False, "and in fewer passes": True}.items():
        timed(name, bf16=True, kernels=on, group_by_length=True)
else:
    print("this machine has no bfloat16 instructions, so mixed precision is left out here")
timed("and only what the loss looks at", bf16=profiles.bf16(), group_by_length=True, narrow=True)
measured.note("08_watching", slow_tokens_per_second=times[0]["real tokens/s"],
              cured_tokens_per_second=times[-1]["real tokens/s"])
table(*times)

# %% [markdown]
# *Proof:* the column of real tokens a second. The first two mends change nothing that is learnt: the same rows in the
# same order, only sooner. The third puts other rows together, which a training on few rows may notice; where little was
# padding before it, look for it in the column `padding`, since it may not show in the speed. The fourth, where it ran,
# rounds what is multiplied, the fifth and the sixth round elsewhere: they learn nearly the same, not exactly. 16 bits
# alone may change little: see how much of their gain comes with the fifth. The sixth brings little here: eight short
# rows share too short a question for a pass of its own to pay, so only the last layer is spared. With sixteen rows, a
# longer question or a larger model, both count.
#
# ## Patient 4: the wrong form
# This function, which makes a training row, is from an old tutorial. **Predict** three things that are wrong with it,
# knowing that the model has a chat template, and will be asked through it.

# %%
import inspect

from labkit import LabError, check, clinic, data, evaluation, finetune, models, monitoring, runs
from labkit.tables import table

print(inspect.getsource(clinic.alpaca_row))

# %% [markdown]
# Train on its rows, with the tripwires off (`guard=False`), as the tutorial has none. *Symptom:* the loss falls nicely,
# and the answers are poor when the model is asked as serving will ask it:

# %%
examples, held = clinic.rows_of(400), data.spread(data.ticket_task("tone").validation, 72)
rows = clinic.rows_by(clinic.alpaca_row, examples)
sick = finetune(rows, steps=36, batch_size=8, guard=False, out=runs("lab08-form"))
said = {"sick": evaluation.generate(*sick.loaded, held["prompt"], max_new_tokens=12)}
print(f"the loss goes from {sick.curve[0]['loss']:.2f} to {sick.curve[-1]['loss']:.2f}")
for asked, answer in list(zip(held["label"], said["sick"], strict=True))[:3]:
    print(f"right: {asked:9} said: {answer!r}")

# %% [markdown]
# *Diagnosis:* give `diagnose` the rows as well, and the tripwires look at them, one after the other. Each finds a
# mistake of its own:

# %%
monitoring.diagnose(sick, rows)

# %% [markdown]
# ### Exercise 8.5 · write the row as serving asks it · difficulty 2 · 10 minutes
# `prompt` and `completion` are strings. Return `{"input_ids": [...], "labels": [...]}`, two lists of token ids of one
# length. The prompt goes through the tokenizer's chat template, up to where the answer begins; after the answer comes
# the end of turn, `tokenizer.eos_token_id`. Only answer and end of turn count; all other labels are -100.

# %%
def mend_format(tokenizer, prompt, completion):
    ### BEGIN SOLUTION
    asked = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                          tokenize=False)
    asked = tokenizer(asked, add_special_tokens=False)["input_ids"]
    answer = tokenizer(completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return {"input_ids": asked + answer, "labels": [-100] * len(asked) + answer}
    ### END SOLUTION


check("mend_format", mend_format)

# %% [markdown]
# *Proof:* the same tickets, the same steps, the rows in the right form. What counts is the answer, letter for letter:

# %%
from labkit import measured
from labkit.scratch import watching

mended = finetune(clinic.rows_by(watching.to_row, examples), steps=36, batch_size=8, out=runs("lab08-formed"))
said["mended"] = evaluation.generate(*mended.loaded, held["prompt"], max_new_tokens=12)
families = evaluation.groups_of(held)
exact = {name: evaluation.accuracy(held["label"], answers, families) for name, answers in said.items()}
measured.note("08_watching", wrong_form=exact["sick"], right_form=exact["mended"])
table(*({"run": name, "answers that are right, letter for letter": str(score)} for name, score in exact.items()),
      caption="a blind guess among six labels is right in 17 %")

# %% [markdown]
# ## Patient 5: nothing good comes out
# Rows, form and memory are fine, and still the model is no use. Two causes are left that a curve can show: the learning
# rate, and the base. **Predict** what a rate of 0.3 does, a hundred times what is usual here or more.

# %%
from labkit import LabError, check, clinic, finetune, monitoring, plots, runs
from labkit.tables import table

try:
    sick = clinic.treat("rate", {}, out=runs("lab08-rate-0.3"))
except LabError as stopped:
    sick = stopped
monitoring.diagnose(sick)

# %% [markdown]
# One number tells whether a rate is too large without waiting for the end: how far a step moves the weights.
#
# ### Exercise 8.6 · how far a step moves the weights · difficulty 1 · 6 minutes
# `before` and `after` are lists of the same tensors before and after a step. Return |after - before| / |before| as a
# float, where |...| is the length of all tensors taken together as one long vector.

# %%
def update_ratio(before, after):
    ### BEGIN SOLUTION
    moved = sum((a - b).square().sum() for a, b in zip(after, before))
    size = sum(b.square().sum() for b in before)
    return float((moved / size) ** 0.5)
    ### END SOLUTION


check("update_ratio", update_ratio)

# %% [markdown]
# The meter measures it in about ten steps of a run, on a few of the tensors. This is the longest step of the sick run:

# %%
print(f"the longest step moved the weights by {sick.meter['move']:.0%} of their size")

# %% [markdown]
# ### Exercise 8.7 · mend the rate · difficulty 1 · 5 minutes
# Adapters begin small, and one to ten per cent is usual for their longest step. `mend` is a dict again: change the
# `learning_rate` of the sick run, 0.3, and nothing else. The check asks for a loss that ends a twentieth or more below
# a blind guess (at 0.85 nats with tiny-base), as the mean of the last third of the steps.

# %%
### BEGIN SOLUTION
mend = {"learning_rate": 3e-3}
### END SOLUTION

mended = clinic.treat("rate", mend, out=runs("lab08-rate-0.003"))
check("mend_rate", mended)

# %% [markdown]
# *Proof* for our rate, between one that is far too low and the sick run's. **Predict** for the low one its longest
# step, and where its loss ends:

# %%
seen = []
for rate in (2e-6, clinic.mended("rate")["learning_rate"], 0.3):
    try:
        run = clinic.treat("rate", {"learning_rate": rate}, out=runs(f"lab08-rate-{rate:g}"))
    except LabError as stopped:
        run = stopped
    losses = [point["loss"] for point in run.curve if "loss" in point]
    seen.append({"rate": f"{rate:g}", "longest step": f"{run.meter['move']:.2g}",
                 "last loss": f"{losses[-1]:.2f}", "diagnosis": monitoring.diagnose(run).illness})
table(*seen, caption=f"longest step: a share of the weights' size; a blind guess costs {clinic.blind():.2f} nats")

# %% [markdown]
# The ratio does not know your task, so it gives a band and not one value; a range test (lab 02) finds the place inside
# it. With full fine-tuning a step moves the weights by a smaller share, so the band is another (`guards.STEP_BAND`).

# %% [markdown]
# The other cause: the base. A copy went wrong, and left a folder with the right settings and tokenizer, and noise for
# weights. It loads without a word. **Predict** the first loss; tiny-base has 2,048 tokens in its vocabulary, and
# ln 2,048 is 7.6 (another base has a vocabulary of its own).

# %%
rate = clinic.mended("rate")["learning_rate"]
blank = clinic.blank_base(runs("lab08-blank"))
sick = finetune(clinic.rows_of(400), model=blank, steps=24, batch_size=8, rank=8, learning_rate=rate,
                out=runs("lab08-base"))
monitoring.diagnose(sick)

# %% [markdown]
# Its curve falls, as a healthy one does, and still ends worse than a guess among the labels. No rate, rank or patience
# mends that. Test a base before you train it: on a sentence of its own language its loss must lie well below that of a
# blind guess among all tokens (lab 02, perplexity).
#
# *Proof:* the same settings over the right base. Look at both ends of the two curves:

# %%
well = finetune(clinic.rows_of(400), steps=24, batch_size=8, rank=8, learning_rate=rate, out=runs("lab08-based"))
table(*({"base": name, "first loss": run.curve[0]["loss"], "last losses": sum(p["loss"] for p in run.curve[-8:]) / 8,
         "diagnosis": monitoring.diagnose(run).illness} for name, run in (("noise", sick), ("trained", well))))

# %% [markdown]
# ## The gallery of silent failures
# Ten mistakes that print nothing, each provoked here and caught: most by a tripwire that `finetune` runs by default,
# those of merging (7) and of the runtime (8) by a comparison that you make yourself. `caught` trains four steps on
# thirty-two tickets, with one mistake built in, and prints the sentence that stopped it. **Predict** before each cell
# what is seen. Come back to this page when a project of your own goes wrong: read the symptoms, and run the cell that
# fits.

# %%
from datasets import Dataset

from labkit import LabError, adapters, clinic, data, finetune, guards, models, runs
from labkit.data.encode import collate, encode, pad_id

tokenizer = models.load()[1]
few = clinic.rows_of(32)
encoded = encode(few, tokenizer).to_list()


def caught(rows=few, **how):
    try:
        finetune(Dataset.from_list(rows) if isinstance(rows, list) else rows, steps=4, batch_size=4, rank=4,
                 out=runs("lab08-gallery"), **how)
        print("nobody noticed")
    except LabError as error:
        print(error)

# %% [markdown]
# **1 · Nothing, or everything, counts in the loss.** Where everything counts, the curve looks fine and the model learns
# to write prompts too; where nothing does, it learns nothing. The tripwire counts the labels of each row.

# %%
caught([row | {"labels": [-100] * len(row["labels"])} for row in encoded])
caught([row | {"labels": list(row["input_ids"])} for row in encoded])

# %% [markdown]
# **2 · The end of turn is masked, because pad is the end of turn.** The model never stops. The cause is a collator (it
# makes a batch of rows) that masks every pad by its id; SmolLM2 uses one token for both.

# %%
pad = models.end_of_turn(tokenizer)


def masks_every_pad(rows):
    batch = collate([{name: row[name] for name in ("input_ids", "labels")} for row in rows], pad)
    batch["labels"][batch["input_ids"] == pad] = -100
    return batch


caught(collator=masks_every_pad)

# %% [markdown]
# **3 · The training prompt is not the serving prompt.** Good in the notebook, gibberish elsewhere. Up to ten rows are
# compared, token by token. Here a second start token, then a trailing space:

# %%
start, space = [tokenizer.bos_token_id or 1], tokenizer(" ", add_special_tokens=False)["input_ids"]
caught([row | {"input_ids": start + row["input_ids"], "labels": [-100] + row["labels"]} for row in encoded])
asked = [row["labels"].count(-100) for row in encoded]
caught([row | {"input_ids": row["input_ids"][:n] + space + row["input_ids"][n:],
               "labels": [-100] * len(space) + row["labels"]} for row, n in zip(encoded, asked)])

# %% [markdown]
# **4 · An adapter that learns nothing, or is dropped on load.** The score equals the base's. The weights are compared
# with what they were before, and the logits of the reloaded model with those of the one in memory.

# %%
import torch

caught(learning_rate=1e-30)
run = finetune(few, steps=4, batch_size=4, rank=4, guard=False, learning_rate=0.02, out=runs("lab08-dropped"))
batch = collate([{name: row[name] for name in ("input_ids", "labels")} for row in encoded[:4]], pad_id(tokenizer))
try:
    guards.reload_agrees(guards.logits_of(run.model, batch), guards.logits_of(models.load()[0], batch))
except LabError as error:
    print(error)

# %% [markdown]
# **5 · The wrong weights train; frozen ones move.** Another task gets worse. Every frozen weight is hashed before and
# after the training, and the hashes are compared.

# %%
from transformers import TrainerCallback


class Meddler(TrainerCallback):
    def on_step_end(self, args, state, control, model=None, **kwargs):
        next(weight for name, weight in model.named_parameters() if "norm" in name).data[0] += 1e-3


caught(callbacks=[Meddler()])

# %% [markdown]
# **6 · Batch size or padding side changes the score.** Two people score one model and get two numbers. The same rows
# are scored alone and together; here somebody pads on the left and forgets the mask.

# %%
def last_logits(size):
    prompts, found = [row["input_ids"][:n] for row, n in zip(encoded[:8], asked)], []
    for start in range(0, 8, size):
        part = prompts[start : start + size]
        width = max(map(len, part))
        ids = torch.tensor([[pad_id(tokenizer)] * (width - len(ids)) + ids for ids in part])
        found.append(guards.logits_of(run.model, {"input_ids": ids})[:, -1].log_softmax(-1))
    return torch.cat(found)


try:
    guards.batch_parity(last_logits)
except LabError as error:
    print(error)

# %% [markdown]
# **7 · Merging into 4 bits.** Merged back into 4 bits, a model answers otherwise than with the adapter beside it. An
# adapter that was trained over 4-bit codes is merged twice: into full precision, and into codes again. How far the
# logits move says which to ship. (`logits_of` lets 4-bit layers multiply in float32: bfloat16's rounding would hide
# the difference.)

# %%
over = finetune(few, steps=8, batch_size=4, rank=4, quantize="nf4", guard=False, out=runs("lab08-nf4"))
before = guards.logits_of(over.model, batch)
for name, again in (("full precision", False), ("4 bits again", True)):
    after = guards.logits_of(adapters.merge(over.model, requantise=again), batch)
    gap = float((before - after).abs().max())
    print(f"merged into {name}, logits move by up to {gap:.1g}; at most 0.01: {gap <= 0.01}")

# %% [markdown]
# **8 · The tokenizer of the runtime differs.** A small drop after the export. The token ids of fifty strings are
# compared, those of `transformers` with those of the runtime (onnxruntime-genai, lab 10), which has a tokenizer of its
# own: first over the same files, then over an older `tokenizer.json`.

# %%
texts = few["text"][:] + clinic.rows_of(46)["text"][32:] + ["naïve Žilina", "two  spaces", " a space", "100 €"]
for older in (False, True):
    encode_there = clinic.runtime(runs("lab08-onnx"), older=older)
    if encode_there is None:
        print("onnxruntime-genai is not installed, so there is no other tokenizer to compare with")
        break
    try:
        print(guards.same_tokens(texts, tokenizer, encode_there).saw)
    except LabError as error:
        print(error)

# %% [markdown]
# **9 · A learning rate from a blog post.** Far too high, and the loss is no number any more (NaN), which stops the run.
# Far too low, and nothing happens: the run goes on, and a finding names the step and the least that is usual:

# %%
caught(learning_rate=1e30)
quiet = finetune(few, steps=4, batch_size=4, rank=4, learning_rate=1e-5, out=runs("lab08-quiet"))
print(next(found.saw for found in quiet.findings if found.guard == "step_size"))

# %% [markdown]
# **10 · Test rows in the training set.** The score is too good to be true. Nearly equal rows are looked for across the
# splits, here between training and validation:

# %%
leaked = few.select([3]).to_list()
leaked[0]["prompt"] = leaked[0]["prompt"].replace(".", "!").replace(" I ", " i ")
caught(validation=Dataset.from_list(leaked))

# %% [markdown]
# A tripwire can be switched off by name, `skip=["no_leak"]`, and now and then must be. If you do it, write down why.
#
# ## On a real model
# What the same patients showed on SmolLM2, if it was recorded, beside what you have just seen:

# %%
from labkit import measured

measured.beside("08_watching")

# %% [markdown]
# In the record the two intervals of patient 1 overlap, and both hold a blind guess, one in six: thirty steps of eight
# letters taught SmolLM2 little of the tone. A mended training is not yet a good model.
#
# ## The same by command line
# `labkit finetune my_tickets.csv` draws a line like that of the terminal section and runs `finetune`'s tripwires;
# `labkit diagnose RUN` says what is wrong with the finished run, and `tensorboard --logdir FOLDER` shows what the
# callback wrote. Lab 11 does the training by `olive finetune`.
#
# ## What you can do now
# You can say what is wrong with a training from its curves, its meter and its tripwires; mend it; and prove that it is
# mended.
#
# **Quiz.** Answer each in your head, then open it.
#
# <details><summary>1. Training loss 0.1, validation 1.4 and rising. Your colleague proposes a lower learning rate. Do
# you agree?</summary>
# In part. Where steps are too long, it can lower the lowest point (compare `lower alpha` with patient 1). It does not
# make the rows more varied, and with too few of them validation turns up again. Stop early, then get more rows.
# </details>
#
# <details><summary>2. The GPU shows 30 % use. Where do you look first?</summary>
# At the share of waiting. If the model waits for its rows, prepare them beforehand or give the loader workers; only
# then look at padding and at 16-bit numbers, which make the busy part shorter.
# </details>
#
# <details><summary>3. The loss falls as it should, and in production the model talks on after its answer. What was it?
# </summary>
# The end of turn did not count in the loss, or was not there. The curve does not show it; the tripwire `end_of_turn`
# does.
# </details>
#
# **Next:** lab 09 lets a search choose the settings. How far you are:

# %%
from labkit import progress

progress("08")
