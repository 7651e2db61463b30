# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 05 · Adapters: one base, many tasks
# **You will** write a bottleneck adapter, compare the whole family at one table, train four adapters over one base,
# and switch, batch, mix, merge and route between them.
#
# *75 minutes. You need: lab 03. No GPU, no network, no account.*
#
# Each letter to Tatra Trail has several readers: one wants its tone, one wants JSON for the warehouse, one a line for
# the list, and the customer wants a reply. Four models would do it. How much of four models is needed?

# %%
from labkit import inbox
from labkit.tables import table

print(inbox.tickets()[5]["text"])
table(*({"task": task, "wanted": inbox.held(task)[5]["completion"]} for task in inbox.TASKS))

# %% [markdown]
# ## A narrow way round, and back
# The oldest adapter is a small network behind a part of each layer: h + up gelu(down h), where `down` makes h narrow
# and `up` makes it wide again.
#
# ### Exercise 5.1 · a narrow way round, and back · difficulty 1 · 6 minutes
# Write `bottleneck_forward`. `h` is (batch, d), `down` is (width, d), `up` is (d, width); leave biases out.

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
# One stands in each layer. `down` and `up` now have biases. How many numbers are trained?

# %%
def bottleneck_parameters(d, width, layers):
    ### BEGIN SOLUTION
    return layers * (2 * d * width + width + d)
    ### END SOLUTION


check("bottleneck_parameters", bottleneck_parameters)

# %% [markdown]
# Now on the model. `up` starts at zero. **Predict** how far the model's answers move when the bottlenecks are put in,
# and how far when they have been trained and are taken out again.

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
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f} nats; answers moved by up to {(trained - start).abs().max():.1f}")

# %% [markdown]
# Saved and read back onto a fresh base they must answer the same, and taken off they must leave no trace: not nearly
# the base, but the base, bit for bit.

# %%
from labkit import runs

adapters.save_bottleneck(model, runs("lab05-bottleneck"))
again = adapters.load_bottleneck(models.load()[0], runs("lab05-bottleneck"))
print("read back, the same answers:  ", torch.equal(logits(again), trained))
print("taken off, the base, bit by bit:", torch.equal(logits(adapters.detach_bottleneck(model)), start))

# %% [markdown]
# That is what makes adapters safe to try. What no bottleneck can do is vanish into W, as LoRA does: a bend stands
# between its two matrices, so it costs a little time at every answer, for ever.
#
# ## A relative without a matrix
# IA3 learns no matrix at all. It multiplies some outputs of a layer, each by a number of its own.
#
# ### Exercise 5.3 · one number an output · difficulty 1 · 4 minutes
# Write `ia3_forward`: `x` is (batch, d_in), `W` is (d_out, d_in), `scale` is (d_out,) and starts at ones.

# %%
from labkit import check


def ia3_forward(x, W, scale):
    ### BEGIN SOLUTION
    return (x @ W.T) * scale
    ### END SOLUTION


check("ia3_forward", ia3_forward)

# %% [markdown]
# The library has it too. This is a layer that `peft` has given IA3, with its numbers moved off one. **Predict** whether
# the two agree.

# %%
import torch

from labkit import models
from labkit.adapters import family
from labkit.scratch import bottleneck

model = family.attach(models.load()[0], "ia3")
layer = next(m for name, m in model.named_modules() if name.endswith("k_proj"))
layer.ia3_l["default"].data.uniform_(0.5, 1.5)
x = torch.randn(3, layer.in_features, device=layer.base_layer.weight.device)
with torch.no_grad():
    ours = bottleneck.ia3_forward(x, layer.base_layer.weight, layer.ia3_l["default"].flatten())
    gap = float((ours - layer(x)).abs().max())
print(f"largest difference {gap:.0e}; below 1e-5: {gap < 1e-5}")

# %% [markdown]
# ## The family at one table
# Two more leave the layers alone. *Prompt tuning* learns a few made-up tokens in front of the text; *prefix tuning*
# learns what each layer would have kept of such tokens, its keys and values. LoRA and its variants you know.
#
# **Predict**, for so short a training: which kind learns most, and which is smallest on disk?

# %%
from labkit import data, relatives
from labkit.adapters import family
from labkit.tables import table

intent = data.ticket_task("intent")
trials = [relatives.family_trial(kind, intent, steps=20, every=3) for kind in family.KINDS]
table(*(t.row() for t in trials), caption=f"intent, {len(trials[0].losses)} steps of 8 letters, validation tickets")

# %% [markdown]
# The same as a picture: further left is smaller, higher is better, and bars that overlap have not been told apart.

# %%
from labkit import plots

best = max(trials, key=lambda t: t.accuracy.value)
level = [t.kind for t in trials if t is best or not best.accuracy.above(t.accuracy)]
title = f"Highest, and not told apart: {', '.join(level)}"
figure, axes = plots.new(title, "trained parameters (equals are drawn apart)", "accuracy (%), with 95 % interval")
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
# Read the intervals first; then mind what a table of short runs cannot say. IA3, prompt and prefix were given higher
# rates (`relatives.RATES`), and most kinds would gain from more steps; made-up tokens are known to come into their own
# on large models only. Where rsLoRA is ahead of LoRA, it is by its larger factor: at one rank it is LoRA with another
# alpha (lab 03). PiSSA starts on the largest directions of W, not at nothing, and so learns in few steps. Bytes and
# parameters are certain.
#
# ## Four adapters over one base
# From here on it is LoRA, the kind that can be mixed, merged and batched. Each of the four tasks gets an adapter of its
# own, trained on the same letters. The longest answers are those of the last one:

# %%
from labkit import data, inbox, models
from labkit.adapters import Bank
from labkit.tables import table

task = data.ticket_task("reply")
print(task.train[0]["prompt"], "\n->", task.train[0]["completion"])

# %% [markdown]
# This is the one long training of the lab; what is trained is kept, and every later section takes it from there.

# %%
base, tokenizer = models.load()
bank = Bank(base)
trained = {task: inbox.train(task) for task in inbox.TASKS}
for task, run in trained.items():
    bank.add(task, run.folder)
print("in the bank:", ", ".join(bank.names), "| active:", bank.active)

# %% [markdown]
# A `Bank` holds the base once and any number of adapters beside it. `use` switches, `None` switches all off.

# %%
from labkit import evaluation

letter = inbox.held("summary")[5]
for name in (None, "summary"):
    with bank.using(name) as model:
        print(f"{name or 'base'}:", evaluation.generate(model, tokenizer, [letter["prompt"]], 40)[0])

# %% [markdown]
# Hold it beside the line that is wanted, in the first table of the lab: how much of it is form, how much is true?
#
# Does each adapter own its task? **Predict** the diagonal of the next table, and what the reply adapter does when it is
# asked for JSON. Every adapter gets every task, and so does the base: accuracy for tone, entity F1, and ROUGE-L twice.

# %%
held = {task: inbox.held(task) for task in inbox.TASKS}
grid = {}
for name in (None, *inbox.TASKS):
    with bank.using(name) as model:
        grid[name or "base"] = {task: evaluation.evaluate_model((model, tokenizer), rows, task, progress=False,
                                                                batch_size=96) for task, rows in held.items()}
table(*({"answers": name} | {task: str(e.main) for task, e in row.items()} for name, row in grid.items()),
      caption=f"{len(held['tone'])} letters of as many families; columns are tasks")

# %% [markdown]
# "Better than" may be said where intervals do not touch. Here is that test for each task, against the best of the four
# others:

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
title = f"Each adapter on its own task: {min(own):.0f} to {max(own):.0f} points of 100"
plots.show(plots.heat(values, list(grid), columns, title, "task and figure (% or points of 100)", "who answers"),
           alt="; ".join(f"{name} on {task}: {e.main}" for name, row in grid.items() for task, e in row.items()))

# %% [markdown]
# A high ROUGE says that the words are like those wanted. A colleague asks other things: does the JSON parse, is the
# order number right to the digit, does a reply name the right product, and come from the right team?

# %%
found = {s.metric: s for s in grid["entities"]["entities"].metrics.values()}
for task in ("summary", "reply"):
    named = inbox.names(task, inbox.tickets(), grid[task][task].answers)
    found |= {f"{task} {name}": score for name, score in named.items()}
table(*({"figure": name, "own adapter": str(score)} for name, score in found.items()))

# %% [markdown]
# What is copied (an order number) and what is chosen (a team) are two things to learn; see whether their intervals
# touch. The team is one token of a whole reply, so the loss hardly sees it. A reply that sounds right and comes from
# the wrong team is a mistake that an average hides. And the check reads the team's name only: see whether the promise
# behind it is that team's, too. Read one, if there is one:

# %%
answers, wanted = grid["reply"]["reply"].answers, held["reply"]["completion"]
wrong = [i for i, t in enumerate(inbox.tickets()) if f"from the {t['intent']} team" not in answers[i]]
for i in wrong[:1]:
    print(held["reply"][i]["text"], "\n\nwanted:", wanted[i], "\n\nsaid:  ", answers[i])

# %%
from labkit import measured

measured.note("05_adapters_and_many_tasks", training_seconds=sum(run.seconds for run in trained.values()),
              trainable_share=f"{trained['tone'].share:.2%}",
              **{f"{task}: {name}": row[task].main for task in inbox.TASKS for name, row in grid.items()},
              **{name.replace(" ", "_"): score for name, score in found.items()})

# %% [markdown]
# ## Type a letter, see what everybody says
# Each adapter is asked in the words of its own task, and the base in those of the summary. Change the letter: add
# an order number, complain in place of praising, and watch which answers follow.

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
# A switch reads and copies nothing. It tells each layer which of the detours beside it to take. A bank is saved without
# its base, and comes back over it:

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
# An adapter that does not belong to a base still fits it, if the shapes agree, and answers nonsense without an error.
# So the bank asks first. Three adapters that should not get in:

# %%
import shutil

from safetensors.torch import load_file, save_file

from labkit import LabError, inbox, models, runs
from labkit.adapters import Bank

bank, tokenizer = inbox.bank(["tone", "summary"])
folder = inbox.train("tone").folder
broken = shutil.copytree(folder / "adapter", runs("lab05-broken"), dirs_exist_ok=True) / "adapter_model.safetensors"
first, *rest = sorted(load_file(broken))
save_file({name: load_file(broken)[name] for name in rest}, broken)
other = runs("lab05-other-base")
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
# The first lacks a weight, the second has another rank than the bank was made for. The third is the quiet one: the same
# architecture and shapes, but other weights below. `labkit` writes down which base a run was trained over; peft writes
# its name alone.
#
# ## A batch in which every row has its own adapter
# A server gets letters for all four tasks at once. Sorting them by task would make four small batches of one large one.
#
# ### Exercise 5.4 · every row its own adapter · difficulty 3 · 15 minutes
# Write `mixed_batch` for one layer. `x` is (batch, d_in); `adapters` has (A, B) by name; `names` has a name for each
# row, or None for the base alone.

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
# `bank.each` does this in the whole model, through peft. **Predict** whether a row's answer depends on the company that
# it is in.

# %%
from labkit import evaluation, inbox

bank, tokenizer = inbox.bank()
names = [None, *inbox.TASKS] * 2
prompts = [inbox.held(name or "summary")[i]["prompt"] for i, name in enumerate(names)]
with bank.each(names) as rows:
    together = evaluation.generate(bank.model, tokenizer, prompts, 60, adapter_names=rows)
alone = []
for prompt, name in zip(prompts, names):
    with bank.using(name) as model:
        alone += evaluation.generate(model, tokenizer, [prompt], 60)
print("rows:", len(names), "| the same text as one by one:", sum(a == b for a, b in zip(together, alone)))

# %% [markdown]
# A text shows only which token was the likeliest. How far apart are the logits, at most? Here for random tokens:

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
# A letter list wants summary *and* JSON. Can two adapters be made one, without training? What an adapter adds to W is
# B A, times alpha / r (left out here), so a mix should add a weighted sum of those.
#
# ### Exercise 5.5 · a weighted mix of two adapters · difficulty 2 · 8 minutes
# Write `mixed_detour`. `pairs` lists (A, B), `weights` a number for each; the answer is (d_out, d_in).

# %%
from labkit import check


def mixed_detour(pairs, weights):
    ### BEGIN SOLUTION
    return sum(w * (B @ A) for w, (A, B) in zip(weights, pairs))
    ### END SOLUTION


check("mixed_detour", mixed_detour)

# %% [markdown]
# The exact sum needs the ranks of both (`cat`). `svd` is the nearest at the old rank. `linear` sums A and B apart,
# which lets one adapter's B meet the other's A. `ties` and `dare_linear` first throw entries away, so that fewer get in
# each other's way. **Predict** which, if any, keep both tasks.

# %%
from labkit import evaluation, inbox
from labkit.tables import table

bank, tokenizer = inbox.bank(["entities", "summary"])
held = {task: inbox.held(task, every=3) for task in bank.names}
for how in ("cat", "svd", "linear", "ties", "dare_linear"):
    bank.mix(how, {"entities": 1.0, "summary": 1.0}, how)
rows = []
for name in bank.names:
    with bank.using(name) as model:
        both = {task: evaluation.evaluate_model((model, tokenizer), asked, task, progress=False).main
                for task, asked in held.items()}
    figures = {f"{task}, {score.metric}": str(score) for task, score in both.items()}
    rows.append({"adapter": name, "rank": bank.model.peft_config[name].r, **figures})
table(*rows, caption=f"{len(held['summary'])} letters of as many families; weights 1 and 1")

# %% [markdown]
# Compare each mix with the two singles above it, row by row: does one keep both? The arithmetic of `cat`, the exact
# sum, is not at fault for what it loses: two adapters that were trained apart never agreed on which directions to use.
# What a mix gains is one adapter in place of two, without a step of training; what it loses stands in the table, and
# the intervals say which losses are real.
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
# Somebody has to choose the adapter. A small router reads the intent, by a bag of words, in a millisecond.
#
# ### Exercise 5.6 · send a ticket to its adapter, or to nobody · difficulty 2 · 7 minutes
# `shares` has a probability for each intent, `routes` an adapter for some intents. Give the adapter of the likeliest
# intent, or None where that is less likely than `least` or has no adapter.

# %%
from labkit import check


def route(shares, routes, least):
    ### BEGIN SOLUTION
    intent = max(shares, key=shares.get)
    return routes.get(intent) if shares[intent] >= least else None
    ### END SOLUTION


check("route", route)

# %% [markdown]
# At Tatra Trail the warehouse takes JSON, the bench and the accounts take one line, and the rest is answered at once.
# Learnt on the training letters, tried on families that it has not seen. **Predict** what a higher `least` does to both
# columns.

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
for router.least in (0.0, 0.5, 0.3):
    pairs = [(a, b) for a, b in zip(router(test["text"][:]), right) if a]
    score = evaluation.accuracy([b for _, b in pairs], [a for a, _ in pairs])
    rows.append({"least": router.least, "sent": f"{len(pairs)} of {len(right)}", "of these, right": str(score)})
table(*rows)

# %% [markdown]
# What is not sent, a person reads. `least` trades the one for the other. Now letters, router (at the last `least`),
# bank and one mixed batch, all together:

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
# The right adapter is not yet the right answer: hold the last reply beside the one that is wanted, in the first table.
# A router decides only *who* answers, and not always rightly; what is said is a matter of the figures above.
#
# ## What a grammar gives for nothing
# An answer that must be JSON, or one of six labels, can be made so without any training: at each step, look only at the
# tokens that the form allows next.
#
# ### Exercise 5.7 · choose only what a grammar allows · difficulty 2 · 7 minutes
# Give the id of the likeliest token among `allowed`. `logits` is (vocabulary,).

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
# `evaluation.JsonObject` says what may come next in an object with given keys. The same letters, to the base and to the
# adapter, free and constrained. **Predict** all four shares that parse, then all four F1.

# %%
from labkit import data, evaluation, inbox
from labkit.data.template import ENTITIES
from labkit.tables import table

bank, tokenizer = inbox.bank(["tone", "entities"])
asked = inbox.held("entities", every=2)
rows = []
for name in (None, "entities"):
    for form in (None, evaluation.JsonObject(tokenizer, ENTITIES, most=24)):
        with bank.using(name) as model:
            said = evaluation.generate(model, tokenizer, asked["prompt"], 140, 96, allowed=form)
        parses, f1, *_ = evaluation.entity_scores(asked["completion"], said)
        rows.append({"model": name or "base", "decoding": "constrained" if form else "free", "parses": str(parses),
                     "entity F1": str(f1), "first answer begins": said[0][:60]})
table(*rows)

# %% [markdown]
# The grammar gives every parse for nothing. What stands between the quotes is still the model's own, and the base has
# learnt neither which of a letter's words are wanted where, nor to take only what stands there. The same for labels; an
# answer outside the six counts as wrong.

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
# Training brings the truth and, where the free rows say so, the form as well; a grammar is the guarantee for letters
# that are still to come. For real grammars there are libraries (outlines, xgrammar); onnxruntime-genai and llama.cpp
# have it built in.
#
# ## Every architecture that you will meet
# In some families the layers have other names (Phi joins q, k and v), and GPT-2, which DialoGPT is made of, has no
# `nn.Linear` in its layers: its `Conv1D` keeps W transposed. These are the real architectures with two small layers and
# random weights. **Predict** where embedding and head are one matrix.

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
# Older tutorials name `c_attn` and `c_proj`, and train the embedding whole through `modules_to_save`. Where embedding
# and head are one matrix, that trains both; a merge that took them for two would lose one of them when it is saved.

# %%
before = architectures.small("GPT-2").get_input_embeddings().weight
model = adapters.attach_lora(architectures.small("GPT-2"), 4, targets=["c_attn", "c_proj"], modules_to_save=["wte"])
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
loop.next_token_loss(model(input_ids=ids).logits, ids).backward()
optimizer.step()
merged = adapters.merge(model.eval())
print("still one matrix after the merge:", architectures.one_matrix(merged))
print("and another than before:", not torch.equal(merged.get_input_embeddings().weight, before))

# %% [markdown]
# ## On a real model
# What SmolLM2, 135 million parameters, measured in this notebook, if it was recorded, beside your own figures. An
# adapter that costs a twentieth of tiny-base costs less there: the share falls as layers get wider.

# %%
from labkit import measured

measured.beside("05_adapters_and_many_tasks")

# %% [markdown]
# ## The same by command line
# `labkit finetune tickets --task summary` trains one of the four and reports on it; `labkit chat` talks to it. Lab 10
# exports two adapters beside one ONNX model, and lab 11 does that with Microsoft's `olive generate-adapter` and
# `convert-adapters`.
#
# ## What you can do now
# You can write two adapters by hand and say what each relative costs, keep many tasks over one base, serve them in one
# batch, mix and merge them, refuse those that do not belong, route letters, and say what a grammar cannot give.
#
# **Quiz.** Answer each in your head, then open it.
#
# <details><summary>1. Which of bottleneck, IA3 and LoRA can be merged into W, and why?</summary>
# IA3 and LoRA: both are linear in x, so one matrix does what W and they do together. The bottleneck has a bend in it.
# </details>
#
# <details><summary>2. You serve a hundred customers, each with a LoRA of its own. What does one more cost?</summary>
# Its A and B in memory, and a small product for its rows in a batch. The base's product is made once for all rows.
# Merging would cost a whole model a customer.
# </details>
#
# <details><summary>3. With constrained decoding every answer parses. Is your extraction now good?</summary>
# It is well-formed. The grammar holds for an order number that stands nowhere in the letter, too. Only a comparison
# with the truth (entity F1, exact match) tells.
# </details>
#
# **Next:** lab 06 writes losses for what no label says. How far you are:

# %%
from labkit import progress

progress("05")
