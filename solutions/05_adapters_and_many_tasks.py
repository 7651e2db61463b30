# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 05 · Adapters: one base, many tasks
# **You will** write a bottleneck adapter, compare the whole family in one table, train four adapters over one base,
# and switch, batch, mix, merge and route between them.
#
# *75 minutes. You need: lab 03. No GPU, no network, no account.*
#
# Each letter to Tatra Trail has several readers: one wants its tone, one wants JSON for the warehouse, one a line for
# the list, and the customer wants a reply. Four models would do it. How much of four models is needed?
#
# `inbox` has the letters of this lab, none of which training sees: `tickets()` are the letters themselves, and
# `held(task)` the same letters as prompts for one task, each with the answer that is wanted.

# %%
from labkit import inbox
from labkit.tables import table

print(inbox.tickets()[5]["text"])
table(*({"task": task, "wanted": inbox.held(task)[5]["completion"]} for task in inbox.TASKS))

# %% [markdown]
# ## A narrow way round, and back
# The oldest adapter for language models is a small network behind a part of each layer: h + up gelu(down h). `down`
# makes h narrow, gelu bends it (it is not linear), and `up` makes it wide again.
#
# ### Exercise 5.1 · a narrow way round, and back · difficulty 1 · 6 minutes
# Write `bottleneck_forward`. `h` is (batch, d), `down` is (width, d), `up` is (d, width); the answer is (batch, d).
# Leave biases out.

# %%
import torch
from torch.nn.functional import gelu

from labkit import check, hint, solution


def bottleneck_forward(h, down, up):
    ### BEGIN SOLUTION
    return h + gelu(h @ down.T) @ up.T
    ### END SOLUTION


check("bottleneck_forward", bottleneck_forward)

# %% [markdown]
# ### Exercise 5.2 · what a bottleneck costs · difficulty 1 · 4 minutes
# Write `bottleneck_parameters`. A model has `layers` layers with one bottleneck in each, and `down` and `up` now have
# biases. How many numbers are trained in all?

# %%
def bottleneck_parameters(d, width, layers):
    ### BEGIN SOLUTION
    return layers * (2 * d * width + width + d)
    ### END SOLUTION


check("bottleneck_parameters", bottleneck_parameters)

# %% [markdown]
# Now on the model. `up` starts at zero. **Predict** how far the model's answers move when the bottlenecks are put in,
# and how far when they have been trained and are taken out again. The training is a few steps on *intent*: which of the
# shop's eight teams is a letter for?

# %%
from labkit import adapters, data, inbox, models, relatives

base, tokenizer = models.load()
ids = torch.tensor([tokenizer(inbox.tickets()[0]["text"])["input_ids"]], device=base.device)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


start = logits(base)
model = adapters.attach_bottleneck(base, width=16)
print("the same after putting them in:", torch.equal(logits(model), start))

# %%
losses = relatives.train(model, tokenizer, data.ticket_task("intent").train, steps=8, batch_size=8, learning_rate=2e-3)
trained = logits(model)
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f} nats; a logit moved by up to {(trained - start).abs().max():.1f}")

# %% [markdown]
# Saved and read back onto a fresh base, the bottlenecks must give the same answers. Taken off, they must leave no
# trace: not nearly the base, but the base, bit for bit.

# %%
from labkit import runs

adapters.save_bottleneck(model, runs("lab05-bottleneck"))
again = adapters.load_bottleneck(models.load()[0], runs("lab05-bottleneck"))
print("read back, the same answers:     ", torch.equal(logits(again), trained))
print("taken off, the base, bit for bit:", torch.equal(logits(adapters.detach_bottleneck(model)), start))

# %% [markdown]
# That is what makes adapters safe to try. But a bottleneck cannot be merged into W, as LoRA can: a bend stands between
# its two matrices. So it costs a little time at every answer, for ever.
#
# ## A relative without a matrix
# IA3 learns no matrix at all. It multiplies a layer's keys, its values and the middle of its feed-forward part, each
# number by a factor of its own. Keys and values are outputs of a W, so there it is one factor for each output.
#
# ### Exercise 5.3 · one number an output · difficulty 1 · 4 minutes
# Write `ia3_forward`: `x` is (batch, d_in), `W` is (d_out, d_in), `scale` is (d_out,) and starts at ones; the answer is
# (batch, d_out).

# %%
from labkit import check


def ia3_forward(x, W, scale):
    ### BEGIN SOLUTION
    return (x @ W.T) * scale
    ### END SOLUTION


check("ia3_forward", ia3_forward)

# %% [markdown]
# `peft` has it too. The next cell takes one `v_proj`, the matrix that makes the values, with peft's IA3 on it, and
# moves the factors off one. **Predict** whether the two agree.

# %%
import torch

from labkit import models
from labkit.adapters import family
from labkit.scratch import bottleneck

model = family.attach(models.load()[0], "ia3")
layer = next(m for name, m in model.named_modules() if name.endswith("v_proj"))  # on Qwen peft leaves the keys out
layer.ia3_l["default"].data.uniform_(0.5, 1.5)
layer.base_layer.bias = None  # Qwen has one, which IA3 multiplies too; the formula leaves it out
x = torch.randn(3, layer.in_features, device=layer.base_layer.weight.device)
with torch.no_grad():
    ours = bottleneck.ia3_forward(x, layer.base_layer.weight, layer.ia3_l["default"].flatten())
    gap = float((ours - layer(x)).abs().max())
print(f"largest difference {gap:.0e}; below 1e-5: {gap < 1e-5}")

# %% [markdown]
# ## The family at one table
# Two more leave the weights of the layers alone. *Prompt tuning* learns the embeddings of a few made-up tokens in front
# of the text; *prefix tuning* learns what each layer would have kept of such tokens, their keys and values. You know
# LoRA and its variants from lab 03.
#
# Each kind gets the same few steps on *intent*; guessing is right once in eight. Two cores do not train a tiny model
# twice as fast as one does, so `side_by_side`, which otherwise does what `map` does, works on two kinds at once, each
# on a core of its own. (With a real model, or a GPU, it takes one after the other.) **Predict**: which kind learns
# most, and which is smallest on disk?

# %%
from labkit import data, relatives
from labkit.adapters import family
from labkit.parallel import side_by_side
from labkit.tables import table

intent = data.ticket_task("intent")
trials = side_by_side(lambda kind: relatives.family_trial(kind, intent, steps=12, every=3), family.KINDS)
table(*(t.row() for t in trials), caption=f"intent, {len(trials[0].losses)} steps of 8 letters, validation tickets")

# %% [markdown]
# The same as a picture: further left is smaller, higher is better, and kinds whose bars overlap have not been told
# apart.

# %%
from labkit import plots

best = max(trials, key=lambda t: t.accuracy.value)
level = [t.kind for t in trials if t is best or not best.accuracy.above(t.accuracy)]
title = f"Adapters on intent. Highest, not told apart: {', '.join(level)}"
figure, axes = plots.new(title, "trained parameters, log scale (equals drawn apart)", "accuracy (%), 95 % interval")
order = sorted(trials, key=lambda t: t.parameters)
for i, t in enumerate(order):
    equals = [other.parameters for other in order[:i]].count(t.parameters)
    colour, mark, x = list(plots.COLOURS.values())[i % 5], "osD^vPX*"[i], t.parameters * 1.12**equals
    axes.plot([x] * 2, [100 * t.accuracy.low, 100 * t.accuracy.high], color=colour)
    axes.plot(x, 100 * t.accuracy.value, mark, color=colour, label=t.kind)
axes.set_xscale("log")
axes.set_ylim(0, 100)
axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plots.show(figure, alt="; ".join(f"{t.kind}: {t.parameters:,} parameters, accuracy {t.accuracy}" for t in trials))

# %% [markdown]
# Read the intervals first; then mind what a table of short runs cannot say. The bottleneck, IA3, prompt and prefix were
# given higher learning rates (`relatives.RATES`), more steps may change the order, and prompt tuning is known to catch
# up on large models only. Prefix begins with random keys and values, which disturb the base until they are trained.
# Where rsLoRA is ahead of LoRA, it is by its larger factor: at one rank it is LoRA with another alpha (lab 03). PiSSA
# starts on the largest directions of W, not at zero, which is meant to make the first steps count for more: see whether
# these few steps show that. The parameters and the bytes are certain.
#
# ## Four adapters over one base
# From here on it is LoRA, which can be mixed, merged and batched. Each of the four tasks gets an adapter of its own,
# trained on the same set of letters. The longest answers are those of *reply*; here is one:

# %%
from labkit import data, inbox, models
from labkit.adapters import Bank
from labkit.tables import table

task = data.ticket_task("reply")
print(task.train[0]["prompt"], "\n->", task.train[0]["completion"])

# %% [markdown]
# This is the one long training of the lab, half a minute on a laptop, where two adapters are trained at once as
# above. On tiny-base three of the four train with Muon, an optimizer that you will meet in lab 06, since it needs
# fewer steps. The adapters are kept on disk, and every later section takes them from there.

# %%
base, tokenizer = models.load()
bank = Bank(base)
trained = inbox.train_all()
for task, run in trained.items():
    bank.add(task, run.folder)
print("in the bank:", ", ".join(bank.names), "| active:", bank.active)

# %% [markdown]
# A `Bank` holds the base once and any number of adapters beside it. `bank.use(name)` switches to one of them,
# `bank.using(name)` does so only for the length of a `with`, and `None` switches all off.

# %%
from labkit import evaluation

letter = inbox.held("summary")[5]
for name in (None, "summary"):
    with bank.using(name) as model:
        print(f"{name or 'base'}:", evaluation.generate(model, tokenizer, [letter["prompt"]], 40)[0])

# %% [markdown]
# What the base says is its habit (lab 03). Compare the adapter's answer with the summary that is wanted, in the first
# table of the lab: is the form right? Is what it says true?
#
# Does each adapter own its task? Every adapter gets every task, and so does the base. Tone is scored by accuracy,
# entities by F1 over the fields of the JSON (a missing one costs, and so does a wrong one), summary and reply by
# ROUGE-L: the words shared with the wanted answer, in the same order. An adapter gets all letters of its own task, and
# some two dozen of the others. **Predict** how each adapter does on its own task, and what the reply adapter does when
# it is asked for JSON.

# %%
held = {task: inbox.held(task) for task in inbox.TASKS}
every, grid = max(1, len(held["tone"]) // 24), {}
for name in (None, *inbox.TASKS):
    asked = {task: held[task] if task == name else inbox.held(task, every) for task in inbox.TASKS}
    with bank.using(name) as model:
        grid[name or "base"] = {task: evaluation.evaluate_model((model, tokenizer), rows, task, progress=False,
                                                                batch_size=96) for task, rows in asked.items()}
table(*({"answers": name} | {task: str(e.main) for task, e in row.items()} for name, row in grid.items()),
      caption=f"columns are tasks; {len(held['tone'])} letters of as many families, or {len(asked['tone'])} of them")

# %% [markdown]
# "Better than" may be said where intervals do not touch. Here is that test for each task: its own adapter against the
# three others and the base.

# %%
rows = []
for task in inbox.TASKS:
    own, rest = grid[task][task].main, [row[task].main for name, row in grid.items() if name != task]
    best = max(rest, key=lambda score: score.value)
    rows.append({"task": task, "own adapter": str(own), "best of the others": str(best),
                 "better than all": all(own.above(other) for other in rest)})
table(*rows)

# %%
from labkit import plots

values = [[100 * e.main.value for e in row.values()] for row in grid.values()]
own = [values[i + 1][i] for i in range(4)]
columns = [f"{task}\n({e.main.metric})" for task, e in grid["base"].items()]
title = f"Every adapter on every task; each on its own: {min(own):.0f} to {max(own):.0f} points"
plots.show(plots.heat(values, list(grid), columns, title, "task and its metric (points of 100)", "who answers"),
           alt="; ".join(f"{name} on {task}: {e.main}" for name, row in grid.items() for task, e in row.items()))

# %% [markdown]
# A high ROUGE-L says that the words are like those wanted. JSON is no summary, but it has the product, the order and
# the date in common with one: see what the entities adapter earns for that. A colleague asks other things: does the
# JSON parse, is the order number right to the digit, do summary and reply name the right product and the right team
# (its *intent*)?

# %%
found = {s.metric: s for s in grid["entities"]["entities"].metrics.values()}
for task in ("summary", "reply"):
    named = inbox.names(task, inbox.tickets(), grid[task][task].answers)
    found |= {f"{task} {name}": score for name, score in named.items()}
table(*({"figure": name, "own adapter": str(score)} for name, score in found.items()))

# %% [markdown]
# To copy an order number and to choose a team are two things to learn; see whether their intervals touch. The team is
# one token of a whole reply, so it weighs little in the mean loss, and a reply that sounds right but comes from the
# wrong team is a mistake that ROUGE-L hides. Where that token stands counts as well: an earlier version of these
# replies began with "Greetings from the stock team", and got the team wrong more often than the version where it came
# first, in the place where the base answers a question, after the same training. Read a wrong one, if there is one. The
# check reads the team's name only: is the promise behind it that team's, too?

# %%
answers, wanted = grid["reply"]["reply"].answers, held["reply"]["completion"]
wrong = [i for i, t in enumerate(inbox.tickets()) if inbox.MARKS["reply"].format(t["intent"]) not in answers[i]]
for i in wrong[:1]:
    print(held["reply"][i]["text"], "\n\nwanted:", wanted[i], "\n\nsaid:  ", answers[i])

# %%
from labkit import measured

# Kept for the table at the end, where they stand beside the figures of a real model.
measured.note("05_adapters_and_many_tasks", training_seconds=sum(run.seconds for run in trained.values()),
              trainable_share=f"{trained['tone'].share:.2%}",
              **{f"{task}: {name}": row[task].main for task in inbox.TASKS for name, row in grid.items()},
              **{name.replace(" ", "_"): score for name, score in found.items()})

# %% [markdown]
# ## Type a letter, see what everybody says
# Each adapter is asked in the words of its own task, and the base in those of the summary. Change the letter (another
# order number, another place, another mood), press *Ask*, and watch which answers follow.

# %%
from labkit import inbox
from labkit.widgets.bank import bank_answers

bank, tokenizer = inbox.bank()
box = bank_answers(bank, tokenizer, inbox.tickets()[5]["text"], base_asks="summary")
box

# %% [markdown]
# ## One more task costs its own bytes
# **Predict**: what does a fifth task cost in memory, as a share of the base? And how long does a switch take?

# %%
import time

from labkit import inbox, models
from labkit.tables import table

bank, tokenizer = inbox.bank()
started = time.perf_counter()
base, _ = models.load()
loading = time.perf_counter() - started
weights = sum(p.nbytes for p in base.parameters())
table(*({"": name, "bytes in memory": bank.bytes(name), "of the base": f"{bank.bytes(name) / weights:.1%}"}
        for name in bank.names), {"": "base", "bytes in memory": weights, "of the base": "100.0%"})

# %%
before = {name: p.data_ptr() for name, p in bank.model.named_parameters()}
started = time.perf_counter()
for i in range(100):
    bank.use(bank.names[i % 4])
switching = (time.perf_counter() - started) / 100
after = {name: p.data_ptr() for name, p in bank.model.named_parameters()}
print(f"a switch {1000 * switching:.1f} ms, loading the base {1000 * loading:.0f} ms")
print("every weight where it was:", before == after, "| a switch is quicker:", switching < loading)

# %% [markdown]
# A switch reads and copies no weights. It tells each layer which of the detours beside it to take. A bank is saved
# without its base, and is put back on it when it is loaded:

# %%
from labkit import runs
from labkit.adapters import Bank

bank.use("summary")
bank.save(runs("lab05-bank"))
again = Bank.load(models.load()[0], runs("lab05-bank"))
size = sum(file.stat().st_size for file in runs("lab05-bank").rglob("*") if file.is_file())
print("back from disk:", ", ".join(again.names), "| active:", again.active, f"| {size:,} bytes for all of them")

# %% [markdown]
# ## What a bank refuses
# An adapter that was trained on another base still fits this one, if the shapes agree, and may answer nonsense without
# any error. So the bank checks first. The next cell makes a damaged adapter and another base; the one after it tries
# three adapters that should not get in:

# %%
import shutil

from safetensors.torch import load_file, save_file

from labkit import LabError, inbox, models, runs
from labkit.adapters import Bank

bank, tokenizer = inbox.bank(["tone", "summary"])
folder = inbox.train("tone").folder
broken = shutil.copytree(folder / "adapter", runs("lab05-broken"), dirs_exist_ok=True) / "adapter_model.safetensors"
first, *rest = sorted(load_file(broken))  # the names of its weights, of which the first is left out
save_file({name: load_file(broken)[name] for name in rest}, broken)
other = runs("lab05-other-base")  # another base: this one with an adapter merged into it
with models.quiet():
    bank.merge("summary").save_pretrained(other)
    tokenizer.save_pretrained(other)

# %%
def refused(bank, folder):
    try:
        bank.add("new", folder)
    except LabError as error:
        print("refused:", error.what, "\n  expected:", error.expected or "-", "\n  to do:", error.todo)


refused(bank, broken.parent)
refused(Bank(models.load()[0], rank=4), folder)
refused(Bank(models.load(other)[0]), folder)

# %% [markdown]
# The first lacks a weight, the second has another rank than the bank was made for. The third is the one that no shape
# gives away: the same architecture, but a base with other weights. `labkit` keeps a fingerprint of the base's weights
# with each run; peft keeps the base's name.
#
# ## A batch in which every row has its own adapter
# A server gets letters for all four tasks at once. Sorted by task, one large batch would become four small ones.
#
# ### Exercise 5.4 · every row its own adapter · difficulty 3 · 15 minutes
# Write `mixed_batch` for one layer. `x` is (batch, d_in), `W` is (d_out, d_in). `adapters` is a dict from a name to
# (A, B), with A (r, d_in) and B (d_out, r); r may differ from one to the next, and `alpha` is the same for all. `names`
# lists an adapter's name for each row, or None for the base alone. The answer is (batch, d_out).

# %%
import torch

from labkit import check


def mixed_batch(x, W, adapters, names, alpha):
    ### BEGIN SOLUTION
    h = x @ W.T
    for name in set(names) - {None}:
        A, B = adapters[name]
        rows = torch.tensor([n == name for n in names])
        h[rows] += alpha / A.shape[0] * (x[rows] @ A.T @ B.T)
    return h
    ### END SOLUTION


check("mixed_batch", mixed_batch)

# %% [markdown]
# `bank.each` does this in the whole model, through peft. **Predict** whether a row's answer depends on the other rows
# of its batch.

# %%
from labkit import evaluation, inbox

bank, tokenizer = inbox.bank()
names = [None, *inbox.TASKS] * 2
prompts = [inbox.held(name or "summary")[i]["prompt"] for i, name in enumerate(names)]
with bank.each(names) as rows:
    together = evaluation.generate(bank.model, tokenizer, prompts, 40, adapter_names=rows)
alone = []
for prompt, name in zip(prompts, names):
    with bank.using(name) as model:
        alone += evaluation.generate(model, tokenizer, [prompt], 40)
print("rows:", len(names), "| the same text as one by one:", sum(a == b for a, b in zip(together, alone)))

# %% [markdown]
# A text shows only which token was the likeliest. How far apart are the logits, at most? Try it on random tokens:

# %%
import torch

ids = torch.randint(4, 2000, (len(names), 24), device=next(bank.model.parameters()).device)
with torch.no_grad(), bank.each(names) as rows:
    mixed = bank.model(input_ids=ids, adapter_names=rows).logits
gap = 0.0
for i, name in enumerate(names):
    with torch.no_grad(), bank.using(name) as model:
        gap = max(gap, float((model(input_ids=ids[i : i + 1]).logits[0] - mixed[i]).abs().max()))
print(f"largest difference of a logit {gap:.0e}; below 1e-3: {gap < 1e-3}")

# %% [markdown]
# ## Mixing two adapters
# Somebody wants a summary *and* JSON of each letter. Can two adapters be made one, without training? What an adapter
# adds to W is B A, times alpha / r (left out here), so a mix should add a weighted sum of those.
#
# ### Exercise 5.5 · a weighted mix of two adapters · difficulty 2 · 8 minutes
# Write `mixed_detour`. `pairs` lists (A, B), with A (r, d_in) and B (d_out, r); `weights` lists a number for each pair.
# The answer is (d_out, d_in).

# %%
from labkit import check


def mixed_detour(pairs, weights):
    ### BEGIN SOLUTION
    return sum(w * (B @ A) for w, (A, B) in zip(weights, pairs))
    ### END SOLUTION


check("mixed_detour", mixed_detour)

# %% [markdown]
# `cat` is the exact sum, and its rank is the sum of both ranks. `svd` is the matrix of the old rank that is nearest to
# that sum. `linear` adds A to A and B to B, so that one adapter's B meets the other's A. `ties` and `dare_linear` do so
# too, but throw entries away first (`ties` the smallest, `dare_linear` at random), so that fewer get in each other's
# way. **Predict** which, if any, keep both tasks.

# %%
from labkit import evaluation, inbox
from labkit.parallel import side_by_side
from labkit.tables import table

bank, tokenizer = inbox.bank(["entities", "summary"])
held = {task: inbox.held(task, every=4) for task in bank.names}
for how in ("cat", "svd", "linear", "ties", "dare_linear"):
    bank.mix(how, {"entities": 1.0, "summary": 1.0}, how)


def both_tasks(name):
    with bank.using(name) as model:
        scores = {task: evaluation.evaluate_model((model, tokenizer), asked, task, progress=False,
                                                  batch_size=96).main for task, asked in held.items()}
    figures = {f"{task}, {score.metric}": str(score) for task, score in scores.items()}
    return {"adapter": name, "rank": bank.model.peft_config[name].r, **figures}


table(*side_by_side(both_tasks, bank.names),
      caption=f"{len(held['summary'])} letters of as many families; weights 1 and 1")

# %% [markdown]
# Compare each mix with the two single adapters in the first two rows: does one keep both tasks? Mind that JSON earns a
# good part of the ROUGE-L of a summary, so only a mix above that writes summaries. Where `cat` loses
# something, its arithmetic is not at fault, since it is exact: two adapters that were trained apart never agreed on
# which directions to use. A mix gives you one adapter in place of two, without a step of training. What it loses stands
# in the table, and the intervals say which losses are real.
#
# An adapter that is wanted for good can be merged into a copy of the base; the bank stays as it is.

# %%
import torch

merged, ids = bank.merge("summary"), torch.arange(4, 44, device=next(bank.model.parameters()).device).reshape(2, 20)
with torch.no_grad(), bank.using("summary") as model:
    gap = float((merged(input_ids=ids).logits - model(input_ids=ids).logits).abs().max())
print(f"largest difference of a logit {gap:.0e}; below 0.01: {gap < 0.01}; in the bank: {len(bank.names)}")

# %% [markdown]
# ## Who answers this letter?
# Somebody has to choose the adapter. A small router guesses the intent from a bag of words; no language model is needed
# for that.
#
# ### Exercise 5.6 · send a ticket to its adapter, or to nobody · difficulty 2 · 7 minutes
# Write `route`. `shares` is a dict from each intent to its probability, `routes` a dict from some of the intents to the
# name of an adapter. Return the adapter's name for the likeliest intent, or None where that intent is less likely than
# `least` or has no adapter.

# %%
from labkit import check


def route(shares, routes, least):
    ### BEGIN SOLUTION
    intent = max(shares, key=shares.get)
    return routes.get(intent) if shares[intent] >= least else None
    ### END SOLUTION


check("route", route)

# %% [markdown]
# At Tatra Trail the warehouse takes JSON, the workshop and the accounts take one line, and the rest gets a reply at
# once. The router learns from the training letters and is tried on families that it has not seen. **Predict** what a
# higher `least` does to both columns.

# %%
from labkit import data, evaluation, inbox
from labkit.adapters import Router
from labkit.tables import table

wants = {"entities": ("delivery", "return", "warranty"), "summary": ("payment", "workshop"),
         "reply": ("advice", "change", "stock")}
routes = {intent: adapter for adapter, intents in wants.items() for intent in intents}
train, test = data.read("tickets/train"), inbox.tickets()
rows, right = [], [routes[intent] for intent in test["intent"]]
router = Router(train["text"][:], train["intent"][:], routes)
for router.least in (0.0, 0.5, 0.3):  # the last one stays
    pairs = [(a, b) for a, b in zip(router(test["text"][:]), right) if a]
    score = evaluation.accuracy([b for _, b in pairs], [a for a, _ in pairs])
    rows.append({"least": router.least, "sent": f"{len(pairs)} of {len(right)}", "of these, right": str(score)})
table(*rows)

# %% [markdown]
# A person reads what is not sent. `least` trades how much is sent for how much of it is right. Now all together: the
# router (at the last `least`) chooses for six letters, and the bank answers them in one mixed batch.

# %%
bank, tokenizer = inbox.bank(["entities", "summary", "reply"])
letters = test.select(range(6))
sent = router(letters["text"][:])
asked = [data.PROMPTS[name or "summary"].replace("{text}", text) for name, text in zip(sent, letters["text"])]
with bank.each(sent) as rows:
    said = evaluation.generate(bank.model, tokenizer, asked, 80, adapter_names=rows)
table(*({"letter": text[:40] + "...", "sent to": name or "a person", "answer": answer if name else "-"}
        for text, name, answer in zip(letters["text"], sent, said)))

# %% [markdown]
# The right adapter is not yet the right answer. The last letter is that of the lab's first table: if an adapter
# answered it, compare with what is wanted there. A router decides only *who* answers, and not always rightly; how good
# the answers are, the figures above have said.
#
# ## What a grammar gives for nothing
# An answer that must be JSON, or one of six labels, can be forced into that form without any training: at each step,
# choose only among the tokens that the form allows next.
#
# ### Exercise 5.7 · choose only what a grammar allows · difficulty 2 · 7 minutes
# Write `constrained_choice`. `logits` is (vocabulary,), `allowed` lists the ids of some tokens. Return the id of the
# likeliest of these, a whole number.

# %%
import torch

from labkit import check


def constrained_choice(logits, allowed):
    ### BEGIN SOLUTION
    ids = torch.tensor(list(allowed))
    return int(ids[logits[ids].argmax()])
    ### END SOLUTION


check("constrained_choice", constrained_choice)

# %% [markdown]
# `evaluation.JsonObject` says what may come next in an object with given keys. The base and the adapter answer the same
# letters, free and constrained. **Predict** all four shares that parse, then all four F1.

# %%
from labkit import data, evaluation, inbox
from labkit.data.template import ENTITIES
from labkit.parallel import side_by_side
from labkit.tables import table

bank, tokenizer = inbox.bank(["tone", "entities"])
asked = inbox.held("entities", every=3)
form = evaluation.JsonObject(tokenizer, ENTITIES, most=24)


def entities(name, form):
    with bank.using(name) as model:
        said = evaluation.generate(model, tokenizer, asked["prompt"], 140, 96, allowed=form)
    parses, f1, *_ = evaluation.entity_scores(asked["completion"], said)
    return {"model": name or "base", "decoding": "constrained" if form else "free", "parses": str(parses),
            "entity F1": str(f1), "first answer begins": said[0][:60]}


table(*side_by_side(lambda of: entities(*of), [(None, None), (None, form), ("entities", None), ("entities", form)]))

# %% [markdown]
# With the grammar, all answers parse. What stands between the quotes is still the model's own. The base has never
# learnt these fields: look at the names that it gives them when it is free, and at what it puts into ours. Now the same
# for labels; an answer outside the six counts as wrong.

# %%
asked, labels, rows = inbox.held("tone", every=2), data.LABELS["tone"], []
for name in (None, "tone"):
    for form in (None, evaluation.OneOf(tokenizer, labels)):
        with bank.using(name) as model:
            said = evaluation.generate(model, tokenizer, asked["prompt"], 8, 96, allowed=form)
        known = evaluation.mean_score("is a label", [float(answer in labels) for answer in said])
        rows.append({"model": name or "base", "decoding": "constrained" if form else "free", "is a label": str(known),
                     "accuracy": str(evaluation.accuracy(asked["label"], said))})
table(*rows)

# %% [markdown]
# Training teaches what to say and, as far as the free rows show it, the form as well; a grammar guarantees the form for
# letters that are still to come. For larger grammars there are libraries (outlines, xgrammar); onnxruntime-genai and
# llama.cpp have constrained decoding built in.
#
# ## The architectures that you will meet
# In some families the layers have other names (Phi-3 joins q, k and v). GPT-2, on which DialoGPT is built, has no
# `nn.Linear` in its layers: its `Conv1D` keeps W transposed. These are the real architectures with two small layers and
# random weights. **Predict** in which of them the embedding and the output head are one matrix (*tied*).

# %%
import torch

from labkit import adapters
from labkit.adapters import architectures
from labkit.scratch import loop
from labkit.tables import table

rows, ids = [], torch.arange(4, 24).reshape(2, 10)
for name in architectures.NAMES:
    base = architectures.small(name)
    tied, targets = architectures.one_matrix(base), architectures.linear_names(base)
    model = adapters.attach_lora(base, rank=4)
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        gap = (adapters.merge(model)(input_ids=ids).logits - model(input_ids=ids).logits).abs().max()
    rows.append({"": name, "tied": tied, "linear layers": ", ".join(targets), "merged = unmerged": bool(gap < 1e-4)})
table(*rows)

# %% [markdown]
# Tied or not is set model by model (Qwen2.5's small models are tied, its large ones are not). Older tutorials name
# `c_attn` and `c_proj` as targets, and train the embedding whole through `modules_to_save`. Left to itself, peft then
# trains a copy of it and leaves a tied head as it was; a merged model that is saved as tied loses one of the two.
# `attach_lora` keeps them one:

# %%
before = architectures.small("GPT-2").get_input_embeddings().weight
model = adapters.attach_lora(architectures.small("GPT-2"), 4, targets=["c_attn", "c_proj"], modules_to_save=["wte"])
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
loop.next_token_loss(model(input_ids=ids).logits, ids).backward()
optimizer.step()
merged = adapters.merge(model.eval())
print("still one matrix after the merge:", architectures.one_matrix(merged))
print("and no longer what it was:", not torch.equal(merged.get_input_embeddings().weight, before))

# %% [markdown]
# ## On a real model
# SmolLM2 has 135 million parameters. If this notebook was recorded with it, its figures stand beside your own. Compare
# the trainable share: at one rank it falls as layers get wider.

# %%
from labkit import measured

measured.beside("05_adapters_and_many_tasks")

# %% [markdown]
# ## The same by command line
# `labkit finetune tickets --task summary` trains one of the four, reports on it and names its folder. With that folder,
# `labkit chat` talks to it. Lab 10 puts two adapters beside one ONNX model, and lab 11 does that with Microsoft's
# `olive generate-adapter` and `convert-adapters`.
#
# ## What you can do now
# You can write two adapters by hand and say what each relative costs, keep many tasks over one base, serve them in one
# batch, mix and merge them, refuse those that do not belong, route letters, and say what a grammar cannot give you.
#
# **Quiz.** Answer each in your head, then open it.
#
# <details><summary>1. Which of bottleneck, IA3 and LoRA can be merged into W, and why?</summary>
# IA3 and LoRA: both are linear in x, so one matrix does what W and they do together. The bottleneck has a bend in it.
# </details>
#
# <details><summary>2. You serve a hundred customers, each with a LoRA of its own. What does one more cost?</summary>
# Its A and B in memory, and a small product for its rows in a batch. The base's product is made once for all rows.
# Merging would cost a whole model for each customer.
# </details>
#
# <details><summary>3. With constrained decoding every answer parses. Is your extraction now good?</summary>
# It is well-formed. The grammar also accepts an order number that stands nowhere in the letter. Only a comparison with
# the truth (entity F1, exact match) tells.
# </details>
#
# **Next:** lab 06 tells a model what you want by losses of your own. How far you are:

# %%
from labkit import progress

progress("05")
