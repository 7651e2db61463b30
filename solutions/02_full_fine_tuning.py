# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 02 · Full fine-tuning: every weight may move
# **You will** write the training loop once by hand, see the library do the same, choose a learning rate, stop in
# time, survive a power cut, and measure what a model learnt and what it forgot.
#
# *60 minutes. You need: Python, and to have met tensors and gradients in PyTorch. No GPU, no network, no account.*
#
# In full fine-tuning every weight of the model is trained. It is the oldest way, the dearest in memory, and the one
# from which all others leave something out. One letter of the shop's inbox, and what the model
# shall answer:

# %%
from labkit import data

task = data.ticket_task("tone")
print(task.train[9]["prompt"], "\n\n->", task.train[9]["completion"])

# %% [markdown]
# Three verbs are yours all through the course: `check("name", answer)` says what is wrong with your very answer,
# `hint("name")` helps a little more at each call, `solution("name")` shows how we did it. Each section below loads
# what it needs, so after a break you can start again at any of them.
#
# ## One number to make smaller
# At every place of a row the model spreads its belief over the whole vocabulary. The loss is minus the logarithm of
# what it gave to the token that really came, averaged over the tokens that count.
#
# ### Exercise 2.1 · the loss of a batch · difficulty 2 · 8 minutes
# `logits` is (batch, seq, vocab), `labels` (batch, seq) with -100 where nothing counts. The logits at place i guess
# the label at place i + 1 of the same row. Give the mean, over all labels that are guessed and are not -100, of minus
# the log of the probability that the logits give to the label: a tensor of one number, from which `.backward()` can
# start. Logits may be in the hundreds.

# %%
import torch.nn.functional as F

from labkit import check, hint, solution


def next_token_loss(logits, labels):
    ### BEGIN SOLUTION
    guesses = logits[:, :-1].flatten(0, 1)  # (batch × (seq - 1), vocab)
    return F.cross_entropy(guesses, labels[:, 1:].flatten())  # leaves out -100
    ### END SOLUTION


check("next_token_loss", next_token_loss)

# %% [markdown]
# **Predict.** Eight letters, and a model that never saw the task. The label is one of six words (in tiny-base one token
# each), and an end of turn follows it. Who knows the six but not which, pays ln 6 on the label and nothing on the end:
# 0.9 on average. Who knows nothing at all pays the logarithm of the vocabulary.

# %%
import math

import torch

from labkit import data, models
from labkit.data.encode import collate, encode, pad_id
from labkit.scratch import loop
from labkit.tables import table

model, tokenizer = models.load()
rows = encode(data.ticket_task("tone").train.select(range(8)), tokenizer)
batch = {name: x.to(model.device) for name, x in collate(rows.to_list(), pad_id(tokenizer)).items()}
with torch.no_grad():
    answer = model(**batch)  # logits (batch, seq, vocab), and the library's own loss
table(by_hand=float(loop.next_token_loss(answer.logits, batch["labels"])), transformers=float(answer.loss),
      knows_the_six=math.log(6) / 2, knows_nothing=math.log(len(tokenizer)))

# %% [markdown]
# By hand and library agree. Compare the first figure with the third: how far is the model from knowing the six words?
#
# ## One step downhill
# The gradient says for each weight which way the loss falls, and not how far to go. AdamW divides each weight's
# gradient by its own usual size, so that every weight moves by about the learning rate.
#
# ### Exercise 2.2 · one step of AdamW · difficulty 3 · 15 minutes
# Write one step of AdamW for one tensor. `w`, `g`, `m`, `v` have the same shape, any: the weights, their gradient,
# the running mean of g, the running mean of g². `t` counts steps from 1. Divide m by 1 - beta1^t and v by 1 - beta2^t
# for the step only; add `eps` after the root; take the decay, lr × weight_decay × w, from the w that came in, past m
# and v. Give the new `(w, m, v)`, m and v without correction, and leave the inputs as they are.

# %%
from labkit import check


def adamw_step(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01):
    ### BEGIN SOLUTION
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    step = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
    return w - lr * weight_decay * w - lr * step, m, v
    ### END SOLUTION


check("adamw_step", adamw_step)

# %% [markdown]
# **Predict** how far a weight moves in the very first step, with a gradient of 0.001 and with one of 1000, at a
# learning rate of 0.1. Beside it, PyTorch's own AdamW:

# %% tags=["reproducible"]
import torch

from labkit.scratch import loop
from labkit.tables import table

w, g = torch.tensor([1.0, 1.0]), torch.tensor([0.001, 1000.0])
ours, m, v = loop.adamw_step(w, g, 0 * w, 0 * w, t=1, lr=0.1, weight_decay=0.0)
theirs = torch.nn.Parameter(w.clone())
theirs.grad = g
torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.0).step()
moved = theirs.detach() - w
table(*({"gradient": float(g[i]), "moved, by hand": float(ours[i] - w[i]), "moved, torch": float(moved[i])}
        for i in range(2)))

# %% [markdown]
# Both move by the learning rate. It is why a rate can be carried from task to task, and why one that is too high
# moves *every* weight too far. The price: m and v are two more numbers for each weight, so with the gradient and the
# weight itself full fine-tuning keeps four, 16 bytes in 32-bit floats.
#
# ## A gradient that is too long is shortened
# One odd batch can have a gradient several times as long as usual. Clipping scales all gradients by one factor, so
# that their common length is at most a limit, and the direction stays.
#
# ### Exercise 2.3 · clip the gradients together · difficulty 2 · 7 minutes
# `grads` is a list of tensors of any shapes. Their norm is one number: the root of the sum of all squares, over all
# tensors. Where it is larger than `max_norm`, scale all of them by one factor, so that their norm becomes `max_norm`;
# else leave them. Give `(new grads, norm before)`: a list of new tensors, and a number. All gradients may be 0.

# %%
import torch

from labkit import check


def clip_by_norm(grads, max_norm):
    ### BEGIN SOLUTION
    norm = torch.sqrt(sum((g**2).sum() for g in grads))
    factor = max_norm / norm if norm > max_norm else 1.0
    return [g * factor for g in grads], norm
    ### END SOLUTION


check("clip_by_norm", clip_by_norm)

# %% [markdown]
# The gradient of the base model on eight letters, and on the same letters with the answers that a broken export gave
# them. **Predict** which is longer, and whether a limit of 1 touches them.

# %%
import torch
from datasets import Dataset

from labkit import data, models
from labkit.data.encode import collate, encode, pad_id
from labkit.scratch import loop
from labkit.tables import table

model, tokenizer = models.load()
few = data.ticket_task("tone").train.select(range(8)).to_list()
broken = [row | {"completion": "NULL;;0"} for row in few]
found = []
for name, rows in (("as they are", few), ("a broken export", broken)):
    batch = collate(encode(Dataset.from_list(rows), tokenizer).to_list(), pad_id(tokenizer))
    ids, mask, labels = (batch[name].to(model.device) for name in ("input_ids", "attention_mask", "labels"))
    loss = loop.next_token_loss(model(ids, attention_mask=mask).logits, labels)
    clipped, norm = loop.clip_by_norm(torch.autograd.grad(loss, list(model.parameters())), 1.0)
    found.append({"batch": name, "norm": float(norm), "after clipping": float(loop.clip_by_norm(clipped, 1.0)[1])})
table(*found)

# %% [markdown]
# A limit of 1 is the habit of the field, and `finetune` keeps it. Where both batches are longer than that, only their
# direction counts after clipping. Without the limit the odd one would weigh more than its neighbours in m by as much as
# it is longer, for some ten steps, and in v by the square of that, for a thousand. The run further below says in what
# share of its steps the gradient was longer than 1.
#
# ## The rate rises, then falls
# ### Exercise 2.4 · warm-up, then a cosine · difficulty 2 · 7 minutes
# Give the learning rate at `step`, a whole number from 0 to `steps`. Below step `warmup` it climbs in a straight
# line, from 0 at step 0 to `peak` at step `warmup`. From there it falls along half a cosine, from `peak` at step
# `warmup` to 0 at step `steps`. `warmup` is smaller than `steps`, and may be 0: then step 0 has the peak.

# %%
import math

from labkit import check


def learning_rate_at(step, steps, warmup, peak):
    ### BEGIN SOLUTION
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / (steps - warmup)  # 0 to 1
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
    ### END SOLUTION


check("learning_rate_at", learning_rate_at)

# %% [markdown]
# `transformers` has it and about ten others by name. Three of them; the title says how far the cosine by hand is from
# the library's:

# %%
import torch
from transformers import get_scheduler

from labkit import plots
from labkit.scratch import loop

rates = {}
for name in ("cosine", "linear", "constant_with_warmup"):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=10, num_training_steps=100)
    rates[name] = []
    for _ in range(101):
        rates[name].append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
gap = max(abs(loop.learning_rate_at(s, 100, 10, 1.0) - rate) for s, rate in enumerate(rates["cosine"]))
figure, axes = plots.new(f"By hand and by library differ by {gap:.0e} at most", "step", "share of the peak")
for (name, values), colour in zip(rates.items(), ("blue", "orange", "green"), strict=True):
    axes.plot(values, label=name, color=plots.COLOURS[colour])
axes.legend(frameon=False)
plots.show(figure, alt="Three schedules over 100 steps: all climb for 10, then fall as a cosine, as a line, or stay")

# %% [markdown]
# All begin low, since v has seen nothing yet and the first directions are poor. Falling to 0 lets the noise of single
# batches average out at the end. Experience says that the form of the fall matters less than that it falls, and from
# which peak; this lab measures only the peak.
#
# ## The loop, whole
# Everything is there. A step: take the rows that are next, run the model, take the loss, its gradients, clip them,
# look up the rate, move the weights. **Predict** the mean loss of the first three of a dozen steps, and of the last.

# %%
import torch

from labkit import current, data, models
from labkit.data.encode import collate, encode, pad_id
from labkit.scratch import loop
from labkit.training import capped

STEPS, BATCH, PEAK = capped(12), 8, current().full_learning_rate
examples = data.ticket_task("tone").train.select(range(64))
model, tokenizer = models.load()
encoded = encode(examples, tokenizer).to_list()
order = loop.batch_rows(len(encoded), BATCH, STEPS, seed=0)  # every epoch shuffled anew
weights, losses = list(model.train().parameters()), []
means = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
for step, numbers in enumerate(order):
    batch = collate([encoded[i] for i in numbers], pad_id(tokenizer))
    ids, mask, labels = (batch[name].to(model.device) for name in ("input_ids", "attention_mask", "labels"))
    loss = loop.next_token_loss(model(ids, attention_mask=mask).logits, labels)
    grads, norm = loop.clip_by_norm(torch.autograd.grad(loss, weights), 1.0)
    rate = loop.learning_rate_at(step, STEPS, 1, PEAK)
    for i, (w, g) in enumerate(zip(weights, grads, strict=True)):
        new, *means[i] = loop.adamw_step(w.detach(), g, *means[i], step + 1, rate, weight_decay=0.0)
        w.data.copy_(new)
    losses.append(loss.item())
print(f"mean loss of the first three batches {sum(losses[:3]) / 3:.2f}, of the last three {sum(losses[-3:]) / 3:.2f}")

# %% [markdown]
# ### The same loop from the library
# `finetune` makes a `transformers.Trainer` with the same settings. Two dozen lines become one call, and the same seed
# must give the same curve. The collator notes which rows the Trainer takes.

# %%
from labkit import finetune, runs
from labkit.tables import table

taken = []


def spy(some):
    taken.append([row["input_ids"] for row in some])
    return collate(some, pad_id(tokenizer))


run = finetune(examples, method="full", steps=STEPS, batch_size=BATCH, learning_rate=PEAK, bf16=False, seed=0,
               collator=spy, guard=False, out=runs("lab02-trainer"))
theirs = [point["loss"] for point in run.curve]
ours = [[encoded[i]["input_ids"] for i in numbers] for numbers in order]
print("same rows in the same order:", taken[:STEPS] == ours)
gap = max(abs(a - b) for a, b in zip(losses, theirs, strict=True))
print(f"largest difference of a step's loss {gap:.0e} nats; below 0.001: {gap < 1e-3}")
table(*({"step": s + 1, "by hand": losses[s], "Trainer": theirs[s]} for s in range(0, STEPS, 3)))

# %% [markdown]
# The same rows, the same losses up to rounding. From here on the library does it: it also saves, resumes, logs, and
# runs on eight GPUs. When it surprises you, you know which of twenty lines to look at.
#
# ## How far may a step go
# The learning rate is the one setting that ruins a run by itself. A range test trains a few steps while the rate
# grows from next to nothing, and looks where the loss falls and where it breaks (Smith, 2017). **Predict** at which
# power of ten this model breaks.

# %%
from labkit import data, plots
from labkit.ratefinder import rate_test

found = rate_test(data.ticket_task("tone").train.select(range(192)), method="full", low=1e-6, high=0.1, steps=24)
figure, axes = plots.new(f"Lowest mean loss at a rate of {found.lowest:.0e}; the test ends at {found.rates[-1]:.0e}",
                         "learning rate (log)", "loss (nats per counted token)")
axes.plot(found.rates, found.losses, ".", color=plots.COLOURS["grey"], label="a step")
axes.plot(found.rates, found.smoothed, color=plots.COLOURS["blue"], label="running mean")
axes.axvline(found.suggested, color=plots.COLOURS["orange"], linestyle="--", label=f"to try: {found.suggested:.0e}")
axes.set_xscale("log")
axes.set_ylim(0, 2 * max(found.smoothed[: len(found.smoothed) // 2]))
axes.legend(frameon=False)
plots.show(figure, alt=f"Lowest mean loss at {found.lowest:.0e}, the test ends at a rate of {found.rates[-1]:.0e}")

# %% [markdown]
# Far to the left nothing happens. At its lowest point the running mean stops falling. Then it may stay level for a
# while; where it shoots up, the weights are thrown away, and the test ends. Take a peak somewhat below the lowest
# point: each dot is one batch, the test is short, and a rate that is good for a step or two is too high for hundreds.
#
# On real models the window is 1e-5 to 1e-4, and for tiny-base it lies higher. Adam moves each weight by about the
# rate, however many there are. In a wide layer thousands of moves add up to the same change of the output that a
# narrow layer needs a large move for; and a model that has read a trillion tokens has more to lose. The profiles of
# this course:

# %% tags=["reproducible"]
from labkit.profiles import PROFILES
from labkit.tables import table

table(*({"profile": p.name, "parameters": f"{p.parameters / 1e6:,.0f} million", "peak for all weights":
         f"{p.full_learning_rate:.0e}", "peak for LoRA": f"{p.learning_rate:.0e}"} for p in PROFILES.values()))

# %% [markdown]
# Compare your profile's peak with the lowest point of the test. Where it is hardly lower, or higher, it suits only runs
# as short as those of this lab, some dozens of steps; for hundreds, take less. LoRA (lab 03) trains a small addition
# that starts at zero, and has a longer way to go: its rates are larger.
#
# What does a rate do that is thousands of times too high? A loss that is no number, or worse than blind guessing,
# ends the run, with a sentence. The rate that it proposes is only the next one to try; compare it with the range test
# above:

# %%
from labkit import LabError, data, finetune, runs

few = data.ticket_task("tone").train.select(range(64))
try:
    finetune(few, method="full", learning_rate=3.0, steps=12, batch_size=8, out=runs("lab02-broken"))
except LabError as error:
    print(error)

# %% [markdown]
# ## A large batch from small ones
# A batch of 16 may not fit into memory. Accumulation runs four of 4, adds their gradients, and steps once. For that
# to be the same, their losses must be put together rightly.
#
# ### Exercise 2.5 · one loss from several micro-batches · difficulty 2 · 5 minutes
# A large batch came in micro-batches. `losses` has the mean loss of each, `counts` how many labels each mean is over;
# both are lists of one length. Give the loss of the large batch: the mean over all its labels. A micro-batch may
# count no label at all; its count is 0, its mean is nan, and it adds nothing.

# %%
from labkit import check


def accumulated_loss(losses, counts):
    ### BEGIN SOLUTION
    total = sum(loss * count for loss, count in zip(losses, counts) if count)
    return total / sum(counts)
    ### END SOLUTION


check("accumulated_loss", accumulated_loss)

# %% [markdown]
# **Predict** how far the two curves drift apart in six steps: 16 rows at once, and four times 4. The rows are
# handbook questions, whose answers are of different lengths, so that a mean of means would show.

# %%
from labkit import data, finetune, runs
from labkit.tables import table

handbook = data.read("handbook/train")
rows = data.examples(handbook, data.recognise(handbook)).select(range(96))
options = {"method": "full", "steps": 6, "bf16": False, "guard": False}
at_once = finetune(rows, batch_size=16, out=runs("lab02-16"), **options)
in_four = finetune(rows, batch_size=4, out=runs("lab02-4x4"), arguments={"gradient_accumulation_steps": 4}, **options)
pairs = list(zip(at_once.curve, in_four.curve, strict=True))
gap = max(abs(a["loss"] - b["loss"]) for a, b in pairs)
print(f"largest difference {gap:.0e} nats; below 0.001: {gap < 1e-3}")
table(*({"step": a["step"], "16 at once": a["loss"], "4 times 4": b["loss"]} for a, b in pairs))

# %% [markdown]
# The same training with a quarter of the activations at a time, and as a rule more slowly: small matrix products use a
# machine less well. So the batch size that counts for learning is rows × accumulation (× devices, lab 12); the
# micro-batch is a matter of memory.
#
# ## Does it earn its place
# Now the real training: the tone of tickets, from families (letters of one frame) of which training has seen none.
# Three answers cost next to nothing: the commonest class, a bag of words (a linear classifier that sees which words and
# pairs of words occur), and the base model asked to pick among the six labels. All weights get a rate of 1e-4, the
# upper end of what guides give for real models; for tiny-base that is slow, and enough.
# **Predict** what full fine-tuning reaches, and LoRA with a twentieth of the weights or less, its own larger rate and
# two thirds of the steps.

# %%
from labkit import current, data, evaluation, finetune, measured, models, runs
from labkit.tables import table

task, steps = data.ticket_task("tone"), current().steps // 2
held = task.test.select(range(0, len(task.test), 3))  # a third, of nearly all families
families = evaluation.groups_of(held)
options = {"group_by_length": True, "reuse": True}  # letters of like length share a batch: less padding
full = finetune(task.train, method="full", steps=steps, learning_rate=1e-4, out=runs("lab02-full"), **options)
lora = finetune(task.train, steps=2 * steps // 3, out=runs("lab02-lora"), **options)
asked = {"base model": models.load(), "full fine-tuning": full.loaded, "LoRA": lora.loaded}
guesses = {
    "majority class": evaluation.majority(task.train["label"], len(held)),
    "bag of words": evaluation.bag_of_words(task.train["text"], task.train["label"], held["text"]),
} | {name: evaluation.classify(*pair, held["prompt"], task.labels) for name, pair in asked.items()}
scores = {name: evaluation.accuracy(held["label"], said, families) for name, said in guesses.items()}
table(*({"": name, "accuracy": str(score)} for name, score in scores.items()),
      caption=f"{len(held)} tickets of {len(set(families))} families; {steps} steps, LoRA {lora.settings['steps']}")

# %% [markdown]
# Where two brackets (95 % intervals, which count families and not tickets) do not touch, "better than" may be said.
# Where they overlap, as those of the bag of words and of the tuned models may, the table leaves it open: differences
# ticket by ticket (lab 01) are the finer measure. The price differs too: look at what each run trained and kept, and
# divide the seconds by the steps, of which LoRA had fewer.

# %%
measured.note("02_full_fine_tuning", steps=steps, full_seconds=full.seconds, lora_seconds=lora.seconds,
              **{name.replace(" ", "_"): score for name, score in scores.items()})
table(*({"": name, "trained": run.trainable, "share": f"{run.share:.1%}", "seconds": run.seconds,
         "clipped steps": f"{sum(p['grad_norm'] > 1 for p in run.curve) / len(run.curve):.0%}",
         "on disk (MB)": round((run.folder / kept).stat().st_size / 1e6, 1)}
        for name, run, kept in (("full fine-tuning", full, "model/model.safetensors"),
                                ("LoRA", lora, "adapter/adapter_model.safetensors"))))

# %% [markdown]
# Where nearly every step is clipped, the limit no longer singles out the odd batch: all get the same weight in Adam's
# means. It happens where few tokens of a batch count, and does no harm as such; look out for a norm that *grows*.
#
# ## What it forgot
# The base could do things before: go on with a story of its world, and read an answer out of a short note. Nobody
# asked the training to keep that. The same kinds of text as the base has read, other ones:

# %%
from labkit import current, data, evaluation, finetune, measured, models, runs, texts
from labkit.tables import table

stories, questions = data.read("general/texts")["text"][::2], data.read("general/questions").select(range(48))
print(stories[0], "\n")
print(questions[0]["prompt"], "\n->", questions[0]["completion"])

# %% [markdown]
# **Predict** for each: does the perplexity of the stories rise (exp of the mean loss: as unsure as between so many
# equally likely tokens), and how many of the questions are still answered?

# %%
task, steps = data.ticket_task("tone"), current().steps // 2
options = {"group_by_length": True, "reuse": True}
full = finetune(task.train, method="full", steps=steps, learning_rate=1e-4, out=runs("lab02-full"), **options)
lora = finetune(task.train, steps=2 * steps // 3, out=runs("lab02-lora"), **options)
found = {}
for name, (model, tokenizer) in {"base model": models.load(), "full": full.loaded, "LoRA": lora.loaded}.items():
    said = evaluation.generate(model, tokenizer, questions["prompt"], max_new_tokens=24)
    right = evaluation.accuracy(questions["completion"], said)
    found[name] = {"": name, "perplexity of stories": str(texts.perplexity(model, tokenizer, stories)),
                   "questions answered": str(right), "for example": said[0]}
measured.note("02_full_fine_tuning", **{f"{name.replace(' ', '_')}_stories": row["perplexity of stories"]
                                       for name, row in found.items()})
table(*found.values())

# %% [markdown]
# Where the tuned models say a tone to one who asked for a code, training has taught more than was meant: how to answer
# anything at all. LoRA's base is untouched: without the adapter it answers as before (lab 05 switches one off). With
# it, LoRA forgets as well; the intervals say whether less or more, after two thirds of the steps at a much higher rate.
# What may help: a lower rate, fewer steps, and a share of the old kind of rows in the mix.
#
# ## Stop while it is good
# Now provoke the other classic: two dozen letters, read again and again. **Predict** what the loss on *other* letters
# does while the loss on these goes to nothing.

# %%
from labkit import data, finetune, plots, runs

task = data.ticket_task("tone")
few, watched = task.train.select(range(24)), task.validation.select(range(0, len(task.validation), 12))
options = {"method": "full", "steps": 24, "batch_size": 8, "evaluate_every": 4, "seed": 0, "guard": False}
over = finetune(few, watched, out=runs("lab02-over"), **options)
held = [point for point in over.curve if "validation_loss" in point]
turn = min(held, key=lambda point: point["validation_loss"])
title = f"Validation is best at step {turn['step']}, and then it turns"
plots.show(plots.curve(over.curve, title), alt=f"{title}: {turn['validation_loss']:.2f} nats there, "
           f"{held[-1]['validation_loss']:.2f} at the end; training goes to {over.curve[-1]['loss']:.2f}")

# %% [markdown]
# The model learns these letters by heart, and grows surer of answers that are wrong. The remedy is to look at
# validation while it trains, and to stop.
#
# ### Exercise 2.6 · stop while it is good · difficulty 2 · 10 minutes
# `losses` has the validation loss of each evaluation, in order. The first is the best so far; a later one becomes the
# best if it lies below the best by more than `min_delta`, so an equal loss does not. Training stops at the first
# evaluation at which the best is `patience` evaluations old (`patience` is 1 or more). Give two indices, from 0 on:
# `(best, stop)`, where `best` is the best when it stopped, and `stop` is the last index if it never does.

# %%
from labkit import check


def early_stopping(losses, patience, min_delta=0.0):
    ### BEGIN SOLUTION
    best = 0
    for i, loss in enumerate(losses):
        if loss < losses[best] - min_delta:
            best = i
        elif i - best >= patience:
            return best, i
    return best, len(losses) - 1
    ### END SOLUTION


check("early_stopping", early_stopping)

# %% [markdown]
# Apply it to the curve above, and let `finetune` do it for the same run: `patience=2`. **Predict** whether the two
# stop at the same step. The weights that it leaves are the best ones, not the last:

# %%
from labkit.scratch import loop

best, stop = loop.early_stopping([point["validation_loss"] for point in held], patience=2)
stopped = finetune(few, watched, patience=2, out=runs("lab02-patience"), **options)
print(f"by hand: best at step {held[best]['step']}, stopped at step {held[stop]['step']}")
print(f"Trainer: stopped at step {stopped.curve[-1]['step']};",
      next(found.saw for found in stopped.findings if found.guard == "best_weights"))

# %% [markdown]
# ## The power goes out
# A long run dies: somebody closes the laptop, a queue takes the GPU away. Every so many steps the Trainer writes a
# *checkpoint*; the stop button, which the next cell presses, lets it write one more, and a power cut does not.
# **Predict** what must be in it besides the weights, so that the rest of the run is the very same.

# %%
import os
import signal

from transformers import TrainerCallback

from labkit import checkpoints, data, finetune, runs
from labkit.tables import table


class CtrlC(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)  # what the stop button of the notebook sends


rows = data.ticket_task("tone").train.select(range(64))
options = {"method": "full", "steps": 8, "batch_size": 4, "seed": 3, "guard": False}
cut = finetune(rows, out=runs("lab02-cut"), callbacks=[CtrlC()], **options)
last = checkpoints.last(cut.folder)
print(f"finished: {cut.finished}; steps done: {cut.curve[-1]['step']}; kept: {last.name}")
table(*({"file": file.name, "bytes": file.stat().st_size} for file in sorted(last.iterdir())))

# %% [markdown]
# The weights; Adam's two means, twice their size; where the schedule stands; the random numbers; the step. The seal
# comes last and has a checksum of each file: a checkpoint without it was never whole. Now go on, and compare with a
# run that nobody stopped. **Predict**: nearly the same weights, or the same bytes?

# %%
import hashlib


def digest(run):
    return hashlib.sha256((run.folder / "model" / "model.safetensors").read_bytes()).hexdigest()[:16]


gone_on = finetune(rows, out=runs("lab02-cut"), resume=True, **options)
never = finetune(rows, out=runs("lab02-whole"), **options)
table({"run": "stopped and gone on", "finished": gone_on.finished, "SHA-256 of the weights": digest(gone_on)},
      {"run": "never stopped", "finished": never.finished, "SHA-256 of the weights": digest(never)})

# %% [markdown]
# On a CPU they are the same bytes (on a GPU some kernels add up in no fixed order, and last digits may differ). That
# holds for a kill at any moment, in the middle of writing a checkpoint too; the tests of this course kill twenty runs
# at random to see it. A checkpoint that is damaged is set aside and named, and the one before it is used. Provoke it:

# %%
cut = finetune(rows, out=runs("lab02-hurt"), callbacks=[CtrlC()], arguments={"save_steps": 1}, **options)
hurt = checkpoints.last(cut.folder)
file = hurt / "optimizer.pt"
file.write_bytes(file.read_bytes()[:1000])  # the disk lost the rest
mended = finetune(rows, out=runs("lab02-hurt"), resume=True, arguments={"save_steps": 1}, **options)
print(next(f.saw for f in mended.findings if f.guard == "whole_checkpoint"))
print("the same bytes as the run that nobody stopped:", digest(mended) == digest(never))

# %% [markdown]
# ## Another domain, and one number for it
# Not every training has questions and answers. To teach a model the language of a trade, let it read: every token
# counts. The measure is perplexity, exp of the mean loss: as unsure as between so many equally likely tokens.
#
# ### Exercise 2.7 · from loss to perplexity · difficulty 1 · 4 minutes
# `losses` and `counts` are as in exercise 2.5, the losses in nats (the logarithm is the natural one), every count
# above 0. Give the perplexity: exp of the mean loss over all labels.

# %%
import math

from labkit import check


def perplexity(losses, counts):
    ### BEGIN SOLUTION
    mean = sum(loss * count for loss, count in zip(losses, counts)) / sum(counts)
    return math.exp(mean)
    ### END SOLUTION


check("perplexity", perplexity)

# %% [markdown]
# Three small domains ship with the course: clinic notes, contract clauses, company reports, all made up. tiny-base has
# read nothing of the kind. **Predict** your base's perplexity on a contract. Who guesses blindly among all tokens of
# the vocabulary has their number as perplexity: 2,048 for tiny-base.

# %%
from labkit import data, models, texts
from labkit.tables import table

notes = {name: data.read(f"notes/{name}").to_list() for name in ("medical", "legal", "finance")}
print(notes["legal"][0]["text"], "\n")
parts = {name: {split: [row["text"] for row in rows if row["split"] == split] for split in ("train", "validation")}
         for name, rows in notes.items()}
base = models.load()
before = {name: texts.perplexity(*base, part["validation"]) for name, part in parts.items()}
table({"": "base model"} | {name: str(found) for name, found in before.items()})

# %% [markdown]
# Now one model reads clinic notes, one contracts, one reports; each reads two thirds of its domain, once. **Predict**
# the table: three rows of what was read, three columns of what is measured. Where is it lowest, and does what was *not*
# read fall, rise, or stay?

# %%
from labkit import finetune, measured, runs

after = {}
for name, part in parts.items():
    reading = texts.text_rows(part["train"], base[1])
    adapted = finetune(reading, method="full", steps=8, batch_size=8, skip=["end_of_turn"], out=runs(f"lab02-{name}"))
    after[name] = {other: texts.perplexity(*adapted.loaded, parts[other]["validation"]) for other in parts}
measured.note("02_full_fine_tuning", **{f"{name}_{when}": found for name in parts for when, found in
                                        (("before", before[name]), ("after", after[name][name]))})
table({"perplexity": "before"} | {name: str(found) for name, found in before.items()},
      *({"perplexity": f"after {name}"} | {other: str(value) for other, value in found.items()}
        for name, found in after.items()))

# %% [markdown]
# The same table as a change of the perplexity. Read down a column: one of its three figures stands on the diagonal,
# from the model that read this domain; the other two say what another trade taught of it.

# %%
table(*({"change": f"after {name}"} | {other: f"{found[other].change(before[other]):+.0%}" for other in parts}
        for name, found in after.items()))

# %% [markdown]
# A perplexity whose whole interval lies above the size of the vocabulary is worse than a blind guess: such a model is
# sure of something else. If the columns that were not read fall too, one trade has taught much of the others: for a
# base that had met no prose of any trade, those are long sentences, brackets, sums of money. A real model has met
# these, so there expect a wider gap between diagonal and rest. A falling perplexity says that the manner was learnt,
# not that the model knows the law; and it is comparable under one tokenizer only, since with other tokens it is another
# sum.
#
# ## Questions and answers: instruction tuning
# The handbook of the shop has 120 facts, with five questions each; four were for training, one is kept. The loss is
# over the answer alone. ROUGE-L says how many words an answer shares with the handbook's, in the same order: 100% is
# the same wording. **Predict** who scores higher under a question that was never read: the tuned model, or whoever
# looks up the most similar question and copies its answer?

# %%
from labkit import data, evaluation, finetune, models, runs, texts
from labkit.tables import table

train, test = (data.read(f"handbook/{split}") for split in ("train", "test"))
learn, asked = (data.examples(rows, data.recognise(train)) for rows in (train, test))
tuned = finetune(learn, method="full", steps=32, out=runs("lab02-handbook"))
asked = asked.select(range(0, len(asked), 3))
found, said = [], {}
for name, pair in (("base model", models.load()), ("tuned", tuned.loaded)):
    said[name] = evaluation.generate(*pair, asked["prompt"], max_new_tokens=48)
    found.append({"": name, "ROUGE-L": str(evaluation.rouge_l(asked["completion"], said[name]))})
near = evaluation.nearest_answer(learn["prompt"], learn["completion"], asked["prompt"])
table(*found, {"": "answer of the nearest question", "ROUGE-L": str(evaluation.rouge_l(asked["completion"], near))})

# %% [markdown]
# The last line costs nothing: look the nearest known question up. If it scores as high as the tuned model, training has
# not yet earned its place here. Read an answer before you believe a figure:

# %%
print(asked[0]["prompt"], "\n")
print("handbook:", asked[0]["completion"])
for name, answers in said.items():
    print(f"{name}: {answers[0]}")

# %% [markdown]
# Look for two things in the tuned answer: the manner of the handbook, and its fact. A small model after few steps has
# some of its words and not yet its sense; a larger one may write a wrong fact in the right form, which is harder to
# see. More steps, more ways to ask, or looking the answer up (retrieval) are what to try next. (tiny-base says
# "neutral" to much that it cannot answer: a habit from what it has read.)
#
# ## Code, in a form of its own
# A template is a decision, and any will do if training and serving keep to it. Code data often comes in one like this:

# %%
from labkit import data, finetune, models, runs, texts
from labkit.tables import table

FORM = "### Language: {language} ### Question: {question} ### Answer:"
snippets = data.read("snippets/snippets")
made = data.examples(snippets, data.recognise(snippets), template=FORM)
split = data.split(made, stratify="language", seed=0)
print(split["train"][0]["prompt"], split["train"][0]["completion"])

# %% [markdown]
# **Predict** how far the perplexity of held-out answers falls with sixteen steps of 8, on about two hundred rows.

# %%
coder = finetune(split["train"], split["validation"], method="full", steps=16, batch_size=8, evaluate_every=8,
                 out=runs("lab02-code"))
found = []
for name, pair in (("base model", models.load()), ("tuned", coder.loaded)):
    found.append({"": name, "perplexity of held-out answers": str(texts.answer_perplexity(*pair, split["test"]))})
table(*found, caption=f"{len(split['train'])} rows to learn from, {len(split['test'])} held out")

# %% [markdown]
# The perplexity of the answers says that it has learnt the look of code, and not that any of it would run: two hundred
# rows teach nobody to program. A model that shall write code must have read code, which is where choosing the base
# comes in.
#
# ## Choose the base before the method
# What a base has read decides what fine-tuning can bring out. Then its size must fit, and its licence must allow what
# you want to do. The last column names the methods (QLoRA: LoRA over a base in 4 bits, lab 04) whose weights, gradients
# and optimizer take at most three quarters of 16 GB; the rest is for activations.

# %% tags=["reproducible"]
from labkit.choosing import base_models
from labkit.tables import table

table(*({"base": b.model.split("/")[-1], "profile": b.profile, "million parameters": round(b.parameters / 1e6, 1),
         "read": b.trained_for, "full (GB)": round(b.gigabytes("full"), 2), "LoRA (GB)": round(b.gigabytes("lora"), 2),
         "fits 16 GB": ", ".join(b.methods_within(16))} for b in base_models()))

# %% [markdown]
# **Predict** before you read on: which of these may you sell inside a product, and what must you write on the box?

# %% tags=["reproducible"]
table(*({"base": b.model.split("/")[-1], "licence": b.licence, "allows": b.allows, "account": b.gated,
         "source": b.source} for b in base_models()))

# %% [markdown]
# Sizes of one family may come under different licences (not these two of Qwen2.5), and a fine-tuned model inherits that
# of its base. This is a summary for engineers, no legal advice: the text behind `source` counts. The rule of thumb: the
# smallest model that speaks the language of your rows, under a licence that you can keep; then LoRA (lab 03); all
# weights when LoRA's interval lies below what you need, and you have the memory.
#
# ## On a real model
# With `LABKIT_PROFILE=small` this very notebook runs on SmolLM2, 135 million parameters, with a rate from the window
# of real models. What was measured there, if it has been recorded, beside what you have just seen:

# %%
from labkit import measured

measured.beside("02_full_fine_tuning")

# %% [markdown]
# ## The same by command line
# `labkit finetune` trains adapters, since a task should cost megabytes and not gigabytes; so does Microsoft's
# `olive finetune` (lab 11). All weights are a matter of one word in Python: `finetune(rows, method="full")`. What was
# stopped goes on with `labkit finetune ... --resume`, in the same way as above.
#
# ## What you can do now
# You can write the loop, read its curve, choose a rate from a test, build a large batch from small ones, stop at the
# right step, go on after a kill, and say what was learnt and what it cost.
#
# **Quiz.** Answer each in your head, then open it.
#
# <details><summary>1. Training loss falls, validation loss rises. More steps, a higher rate, or neither?</summary>
# Neither: it learns the rows by heart. Stop earlier and take the best weights; more or more varied rows help, or
# fewer weights to train.
# </details>
#
# <details><summary>2. You halve the batch and double the accumulation. Which curves change?</summary>
# The loss does not, up to rounding, if the labels are counted over the whole effective batch. Memory falls, and
# tokens per second usually too.
# </details>
#
# <details><summary>3. A run is resumed and ends with other weights than the one that was never stopped. Why?</summary>
# Something was not restored: Adam's means, the place in the schedule, the random numbers, the order of rows; or the
# settings changed in between, which labkit refuses.
# </details>
#
# **Next:** lab 03 leaves the weights alone and trains an addition of a twentieth of their number or less. How far
# you are:

# %%
from labkit import progress

progress("02")
