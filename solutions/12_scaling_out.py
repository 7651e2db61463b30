# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 12 · Scaling out: the same training, on more
# **You will** cut one training into parts that give the same result: parts of a batch, two processes, two machines.
# You will kill one of the processes and go on, find what limits a step, and work out the bill before you pay it.
#
# *45 minutes. You need: labs 02 and 03. No GPU, no network, no account; where you have several GPUs, the commands are
# the same.*
#
# A second machine is easy to rent and hard to use. The training below runs twice, in one process and in two. What
# would convince you that it is the same training? First see what this machine has to share out:

# %%
import torch

from labkit import profiles

print(f"{profiles.cores()} cores, {torch.cuda.device_count()} GPUs")

# %% [markdown]
# ## A large batch in small parts
# Suppose that a batch of 16 rows does not fit into memory, and one of 4 does. Then run four of 4 one after the other,
# let the gradients add up, and take one step: *accumulation*. Several processes form the same sum, so start here.
#
# ### Exercise 12.1 · one step, several parts · difficulty 1 · 5 minutes
# `parts` is a list with a tensor of shape (tokens,) for each part of the batch: the losses of its tokens that count.
# The lengths differ. Return the loss of the whole batch, one number: what it would be if all went through at once.

# %%
import torch

from labkit import check, hint, solution


def step_loss(parts):
    ### BEGIN SOLUTION
    return sum(part.sum() for part in parts) / sum(len(part) for part in parts)
    ### END SOLUTION


check("step_loss", step_loss)

# %% [markdown]
# Now gradients, of a real model and two tasks at once: eight tones, which are short answers, and eight replies, which
# are long. They go through in one batch and in four parts. **Predict**: by what share of its length does the mean of
# the four parts' means miss the gradient of the whole batch?

# %%
from labkit import data, models
from labkit.data.encode import collate, encode, pad_id
from labkit.losses import masked

model, tokenizer = models.load("tiny")
tone, reply = (encode(data.ticket_task(name).train.select(range(8)), tokenizer) for name in ("tone", "reply"))
rows = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in (*tone, *reply)]


def batch_of(rows):
    return {name: value.to(model.device) for name, value in collate(rows, pad_id(tokenizer)).items()}


parts = [batch_of(rows[i : i + 4]) for i in range(0, 16, 4)]
counts = [int((part["labels"] != -100).sum()) for part in parts]
print("tokens that count in each part:", *counts)

# %% [markdown]
# `masked` is cross-entropy (lab 06): a sum over the tokens that count, divided by `items`, or by the part's own count
# where `items` is not given.

# %%
def gradient(parts, items=None):
    model.zero_grad()
    for part in parts:
        loss = masked(model, part, items)
        (loss if items else loss / len(parts)).backward()  # gradients add up in p.grad
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


whole = [batch_of(rows)]
want, good, naive = gradient(whole), gradient(parts, sum(counts)), gradient(parts)
off = [float((g - want).norm() / want.norm()) for g in (good, naive)]
print(f"divided by all tokens of the step: off by {off[0]:.0e}, below 1e-4: {off[0] < 1e-4}")
print(f"mean of the parts' means: off by {off[1]:.1%}")

# %% [markdown]
# The second line is a real bug: the Trainer of transformers had it until late in 2024, in every accumulated training
# whose parts differed in how many tokens count. Today it counts those of the whole step first, and hands that number to
# the loss. So `finetune` with four parts of 4 must give the curve of 16 at once. Look at the last line:

# %%
from labkit import data, finetune, runs

rows = data.ticket_task("tone").train.select(range(192))
same = dict(model="tiny", steps=4, bf16=False, guard=False)
log = {"logging_steps": 1}
big = finetune(rows, batch_size=16, out=runs("lab12-big"), arguments=log, **same)
small = finetune(rows, batch_size=4, out=runs("lab12-small"), **same,
                 arguments=log | {"gradient_accumulation_steps": 4})
gap = max(abs(a["loss"] - b["loss"]) for a, b in zip(big.curve, small.curve))
print("16 at once:", *(f"{p['loss']:.4f}" for p in big.curve))
print("4 times 4: ", *(f"{p['loss']:.4f}" for p in small.curve))
print(f"largest difference {gap:.0e} nats; below 1e-4: {gap < 1e-4}")

# %% [markdown]
# The same steps in less memory, and as a rule in more time: accumulation buys memory only.
#
# ## Two processes, one training
# *Data parallel*: each process has the whole model and a share of each batch. With the backward pass all add up their
# gradients (an *all-reduce*: each ends with the same sum), so they take the same step and stay equal.
#
# ### Exercise 12.2 · who takes which rows · difficulty 2 · 8 minutes
# `order` is the shuffled list of row numbers, and a step has `batch` rows over all `processes`, which divide it evenly.
# Return the list of row numbers that process `rank` takes in step `step`; both count from 0. Together the processes
# must take what one process would.

# %%
from labkit import check


def rows_of(order, step, batch, processes, rank):
    ### BEGIN SOLUTION
    share = batch // processes
    begin = step * batch + rank * share
    return order[begin : begin + share]
    ### END SOLUTION


check("rows_of", rows_of)

# %% [markdown]
# The libraries have another default: each process takes a whole batch, so with p processes a step has p times the rows.
# That is a different training (lab 02: rate and batch belong together), and you find out when a second GPU makes your
# scores *change*. `finetune` cuts the batch instead.
#
# This is the script. Nothing in it deals with processes but the message at the end, and an accident that we keep for
# later.

# %%
from labkit import profiles

jobs = profiles.COURSE / "data" / "jobs"
print((jobs / "train.py").read_text().partition("\n\n\n")[2])

# %% [markdown]
# `torchrun` starts it twice and tells each process its number by an environment variable, RANK. CPUs exchange tensors
# by a library called *gloo*, GPUs by *nccl*, which wants a GPU for each process. (`show` runs a command in that folder,
# as your shell would, and prints what it said. Where there is one GPU, it hides it, and the two meet on the CPU.)

# %%
from labkit import launch

done = launch.show(["torchrun", "--standalone", "--nproc-per-node", "2", "train.py", "two"], jobs)

# %% [markdown]
# Both processes report the same loss, that of the whole batch. **Predict**: how far is it from what one process finds,
# after ten steps?

# %%
from labkit import Run, data, finetune, measured, runs

rows = data.ticket_task("tone").train.select(range(192))
train = dict(model="tiny", steps=10, bf16=False, arguments={"logging_steps": 1, "save_steps": 5})
one, two = finetune(rows, out=runs("lab12") / "one", **train), Run.read(runs("lab12") / "two")
gap = max(abs(a["loss"] - b["loss"]) for a, b in zip(one.curve, two.curve))
print("one process:  ", *(f"{p['loss']:.4f}" for p in one.curve))
print("two processes:", *(f"{p['loss']:.4f}" for p in two.curve))
print(f"largest difference {gap:.0e} nats; below 1e-4: {gap < 1e-4}")
measured.note("12_scaling_out", loss_gap_of_two_processes=f"{gap:.0e}", seconds_one_process=one.seconds,
              seconds_two_processes=two.seconds)

# %% [markdown]
# Rounding, and nothing else: sums are taken in another order. Process 0 alone wrote the folder: one adapter, one curve.

# %%
print(*sorted(str(file.relative_to(two.folder)) for file in two.folder.rglob("*") if file.is_file()), sep="\n")

# %% [markdown]
# ## One of them dies
# The script knows the word `die`: process 1 is killed after step 7, as a machine kills what takes too much memory. This
# time `accelerate launch` starts it, from a file that says what torchrun was told above. **Predict**: what does process
# 0 do?

# %%
from labkit import launch, profiles

jobs = profiles.COURSE / "data" / "jobs"
done = launch.show(["accelerate", "launch", "--config_file", "ddp.yml", "train.py", "broken", "die"], jobs)

# %% [markdown]
# It cannot go on: there is nobody to add gradients with, and the launcher, which saw the other die, tells it to end. It
# says which checkpoint is the last whole one. The rest of the run goes on from there in *one* process, here in this
# notebook. Compare its end with that of the run that nobody stopped:

# %%
from labkit import Run, data, finetune, runs

rows = data.ticket_task("tone").train.select(range(192))
train = dict(model="tiny", steps=10, bf16=False, arguments={"logging_steps": 1, "save_steps": 5})
one = finetune(rows, out=runs("lab12") / "one", reuse=True, **train)
mended = finetune(rows, out=runs("lab12") / "broken", resume=True, **train)
gap = abs(one.curve[-1]["loss"] - mended.curve[-1]["loss"])
print(f"never stopped {one.curve[-1]['loss']:.4f}, killed and resumed {mended.curve[-1]['loss']:.4f}")
print(f"difference {gap:.0e} nats; below 1e-4: {gap < 1e-4}")

# %% [markdown]
# This works because nothing in such a checkpoint depends on the number of processes: not the batch, not the order of
# rows, not the optimizer's state.
#
# ## What agreeing costs
# ### Exercise 12.3 · the price of agreeing · difficulty 2 · 6 minutes
# In a *ring*, each of p `processes` cuts its gradients into p pieces. In p - 1 rounds each sends one piece to its
# neighbour, where it is added; in p - 1 more the sums travel round. `size` is the bytes of one gradient, and there are
# `parameters` of them; `bandwidth` is bytes a second to the neighbour. Return the seconds, if only the wire counts.

# %%
from labkit import check


def ring_seconds(parameters, size, processes, bandwidth):
    ### BEGIN SOLUTION
    return 2 * (processes - 1) / processes * parameters * size / bandwidth
    ### END SOLUTION


check("ring_seconds", ring_seconds)

# %% [markdown]
# Four processes, fp32 gradients. Full fine-tuning exchanges all of them, LoRA those of A and B (here 1 % of them).
# Which of these networks would you buy for which method?

# %%
from labkit.scratch import parallel
from labkit.tables import table

wires = {"office network, 1 Gbit/s": 0.125e9, "data centre, 100 Gbit/s": 12.5e9, "NVLink, 400 GB/s": 400e9}
trained = {"full: 1 billion": 1_000_000_000, "LoRA: 10 million": 10_000_000}
table(*({"the wire": wire, **{name: f"{parallel.ring_seconds(n, 4, 4, speed):.2g} s"
                                      for name, n in trained.items()}} for wire, speed in wires.items()))

# %% [markdown]
# Suppose that a step takes one GPU a second: on four, a quarter of a second of work is left to each. Over an office
# network LoRA gains little, since its exchange takes longer than that, and full fine-tuning loses. Between machines of
# a data centre full fine-tuning pays what LoRA pays in the office. The picture is of the data centre, by the law
# compute / p + all-reduce, as if the two never overlapped, for the same step of one second:

# %%
from labkit import plots
from labkit.scaling import step_seconds

counts = range(1, 17)
lora, best = (1 / step_seconds(1.0, 16, size, 12.5e9) for size in (0.04e9, 4e9))
figure, axes = plots.new(f"16 processes over 100 Gbit/s: LoRA {lora:.1f} times as fast, full {best:.1f}",
                         "processes", "times as fast as one process")
axes.plot(counts, counts, ":", color=plots.COLOURS["grey"], label="ideal: p times as fast")
for (name, size), colour in zip({"LoRA (1 %)": 0.04e9, "full": 4e9}.items(), ("blue", "orange")):
    axes.plot(counts, [1 / step_seconds(1.0, p, size, 12.5e9) for p in counts], color=plots.COLOURS[colour], label=name)
axes.legend(frameon=False)
plots.show(figure, alt=f"Speed-up over 1 to 16 processes: LoRA nearly the ideal line, full flat, {best:.1f} at 16")

# %% [markdown]
# And here? Two processes on one machine share the cores that one process could use alone, so no gain is promised. These
# are your own seconds for those ten steps (with one GPU, the one process had it, and the two had the CPU: then compare
# nothing). Run the cell with torchrun and the one after it again, then this one, to see how far they vary by chance:

# %%
from labkit import measured, profiles
from labkit.tables import table

mine = measured.noted("12_scaling_out")
table(cores=profiles.cores(), one_process=f"{mine.get('seconds_one_process')} s",
      two_processes=f"{mine.get('seconds_two_processes')} s")

# %% [markdown]
# ## What limits a step
# Before you buy a second device, see whether the first is busy. A step waits for rows, for memory, or for arithmetic.
#
# **Rows.** Suppose that a row takes 4 ms to come from a disk far away (so `load` is 16 times that), and the model 30 ms
# for a step of 16 rows (`compute`). Loader workers are processes that fetch ahead. Without them a step takes load +
# compute; with w of them the longer of compute and load / w. **Predict** how many workers are enough.

# %%
from labkit import measured, plots, scaling

waiting = scaling.loading(workers=(0, 1, 2, 3, 4), row=0.004, compute=0.03, batch=16)
enough = next((row["workers"] for row in waiting if row["waits for"] == "the model"), "more")
plots.show(scaling.draw_loading(waiting, f"A step with more loader workers: by the law {enough} are enough"),
           alt="; ".join(f"{row['workers']} workers: {1e3 * row['measured']:.0f} ms" for row in waiting))

# %% [markdown]
# By the law more workers than that bring nothing, and each is a process that takes memory of its own. Our tickets lie
# in memory, so `finetune` uses none; `arguments={"dataloader_num_workers": 2}` sets it.
#
# **Memory or arithmetic.** One token times a matrix of d × d reads all d² numbers for 2 d² FLOPs (additions and
# multiplications). Sixty-four tokens read them once for sixty-four times as much work. The *roofline* says: speed =
# min(peak, FLOPs per byte × bandwidth). **Predict**: how many times as many FLOPs a second does this machine do with 64
# tokens (on a GPU: with 1,024) as with one?

# %%
from labkit import measured, plots, profiles, scaling

fp32, bf16 = roofs = scaling.roof("float32"), scaling.roof("bfloat16")
(few, slow), (many, fast) = fp32.points[0], fp32.points[-1]
title = f"fp32: {slow / 1e9:.0f} GFLOP/s for {few} token, {fast / 1e9:.0f} for {many} at once"
figure = scaling.draw_roofs(roofs, title)
measured.note("12_scaling_out", gflops_fp32=round(fp32.peak / 1e9, 2), gflops_bf16=round(bf16.peak / 1e9, 2))
plots.show(figure, alt=f"{title}; peak {fp32.peak / 1e9:.1f} GFLOP/s in fp32, {bf16.peak / 1e9:.1f} in bf16")

# %% [markdown]
# On the slope of the line a larger batch should take no more time; on the flat part, twice the tokens take twice the
# time. The line is made from the first dot and the fastest: those between show how far both are true here. Where a
# processor has units for bf16, they lift the flat part, the roof, and half the bytes may lift the slope, if memory is
# what one token waits for. Where it has none, bf16 is only slower. Has yours?

# %%
has = "has" if profiles.bf16() else "has no"
print(f"This {'GPU' if profiles.device() == 'cuda' else 'processor'} {has} arithmetic of its own for bf16.")
print(f"At its best: fp32 {fp32.peak / 1e9:.3g} GFLOP/s, bf16 {bf16.peak / 1e9:.3g} GFLOP/s.")

# %% [markdown]
# Where bf16 is much the slower one, it is imitated in software. `finetune` asks the machine before it uses it (lab 04),
# and a measurement like this one tells you what a machine can do that you have just rented.
#
# ## When the model itself does not fit
# Data parallel keeps the whole model everywhere. *ZeRO*, and after it *FSDP*, split what they can: each of p processes
# keeps 1/p of it. ZeRO's stage 1 splits the optimizer's moments, 2 the gradients too, 3 the weights too, as FSDP does;
# a process then fetches the rest of a layer for as long as it is needed. Below, full fine-tuning of a model of 8
# billion parameters, with weights, gradients and moments in bf16 (16, 16 and 32 GB), as much again as the gradients for
# what the optimizer works in (split as its moments are), and a row of 1,024 tokens on each GPU:

# %%
from labkit import models, scaling
from labkit.tables import table

needs = models.memory("meta-llama/Llama-3.1-8B-Instruct", "full", batch=1, length=1024, dtype="bfloat16", device="cuda",
                      checkpointing=True)
table(*({"split": what, **{f"{p} GPUs": f"{scaling.sharded(needs, p, stage) / 1e9:.0f} GB" for p in (2, 4, 8)}}
        for stage, what in enumerate(("nothing (data parallel)", "moments (ZeRO 1)", "and gradients (ZeRO 2)",
                                      "and weights (ZeRO 3, FSDP)"))))

# %% [markdown]
# Read the last line against the 80 GB of an A100 and the 24 GB of an L4. Activations are not split, since each process
# has its own rows; one checkpointed row is too little to show here, many long rows would. The price of splitting the
# weights is traffic: they are gathered twice a step, which makes half as much again as data parallel sends.
#
# Nothing in the script changes, only the file for `accelerate`. Beside `distributed_type: FSDP`, this is what differs:

# %%
from labkit import launch, profiles

jobs = profiles.COURSE / "data" / "jobs"
print((jobs / "fsdp.yml").read_text().partition("mixed_precision: 'no'\n")[2])
done = launch.show(["accelerate", "launch", "--config_file", "fsdp.yml", "train.py", "split"], jobs)

# %% [markdown]
# Process 0 gathers the parts at the end, so the folder holds an adapter like any other. An equal loss is no proof that
# anything was split: asked for FSDP on a machine without a GPU, accelerate keeps the weights whole and does not say so
# (`labkit.processes.let_split` makes it split them). So look at what a process held, too:

# %%
from labkit import Run, runs

split, two = Run.read(runs("lab12") / "split"), Run.read(runs("lab12") / "two")
print("weights:", *(finding.saw for finding in split.findings if finding.guard == "weights_split"))
gap = max(abs(a["loss"] - b["loss"]) for a, b in zip(split.curve, two.curve))
print(f"split weights against whole ones: largest difference {gap:.0e} nats; below 1e-4: {gap < 1e-4}")

# %% [markdown]
# **DeepSpeed** is the library that ZeRO comes from. We do not run it here: it is made for GPUs. `data/jobs/zero2.json`
# and `zero3.json` are ready files for `accelerate launch --use_deepspeed --deepspeed_config_file`; this is what to read
# in them:

# %%
import json

from labkit import profiles
from labkit.tables import table

zero = {n: json.loads((profiles.COURSE / f"data/jobs/zero{n}.json").read_text())["zero_optimization"] for n in (2, 3)}
means = {"stage": "what is split", "overlap_comm": "send gradients while others are still computed",
         "offload_optimizer": "moments wait in CPU memory: slower; the GPUs save 8 bytes or more a weight in all",
         "stage3_gather_16bit_weights_on_model_save": "write one whole model, as FSDP's FULL_STATE_DICT does"}
table(*({"option": name, "ZeRO 2": str(zero[2].get(name, "-")), "ZeRO 3": str(zero[3].get(name, "-")), "means": text}
        for name, text in means.items()))

# %% [markdown]
# ## Two machines
# One of the machines hosts the *rendezvous*, where all meet and are numbered. Type this on both: the endpoint is the
# first machine's address on both, `--local-addr` is each one's own, and `is_host` is 1 on the first and 0 on the
# second. Without `is_host`, a first machine that does not recognise its own name waits for a host like all others, and
# the run never begins.

# %%
print("""torchrun --nnodes 2 --nproc-per-node 1 --rdzv-id tickets --rdzv-backend c10d \\
  --rdzv-endpoint 10.77.0.1:29500 --rdzv-conf is_host=1 --local-addr 10.77.0.1 train.py two""")

# %% [markdown]
# `tests/two_machines.py` does it for real on any Linux where you are root: two network namespaces, each with an address
# of its own and a wire between them, one process in each. Then it does it again and cuts the wire in mid-run. This is
# what it saw, once somebody has run it:

# %%
from labkit import measured

measured.seen("two_machines", by="tests/two_machines.py")

# %% [markdown]
# A cut wire sends no message, so nobody is told: the machines wait for each other. `LABKIT_PEER_TIMEOUT` says for how
# many seconds (600 by default); then both trainings end with a sentence, and the first can go on alone from its
# checkpoint. The torchrun of the second keeps asking for the lost rendezvous until you end it.
#
# ## What it costs
# Each parameter costs 2 FLOPs for each token forward (a multiplication and an addition), 2 backward through the
# activations, and 2 more for its own gradient, unless it is frozen. With N parameters and D tokens:
#
# $$\text{hours} = \frac{k\,N\,D}{\text{GPUs} \times \text{utilisation} \times \text{FLOP/s} \times 3600},
# \quad k = 6 \text{ (full)}, 4 \text{ (LoRA)}, \qquad \text{money} = \text{hours} \times \text{GPUs} \times
# \text{price}$$
#
# ### Exercise 12.4 · hours and money · difficulty 2 · 8 minutes
# Return two numbers: hours by the clock, and money. `factor` is k, `utilisation` the share of the peak that is reached
# (0 to 1), `flops` what one GPU does at its peak in a second, and `price` is for one GPU and one hour.

# %%
from labkit import check


def training_cost(parameters, tokens, factor, flops, utilisation, gpus, price):
    ### BEGIN SOLUTION
    hours = factor * parameters * tokens / (gpus * utilisation * flops) / 3600
    return hours, hours * gpus * price
    ### END SOLUTION


check("training_cost", training_cost)

# %% [markdown]
# The one number that no data sheet has is the utilisation. Measure it: how many FLOPs did the run of ten steps in one
# process need, and how many could this machine have done meanwhile? **Predict** a share.

# %%
from labkit import data, finetune, measured, models, runs, scaling
from labkit.data.encode import encode

rows = data.ticket_task("tone").train.select(range(192))
train = dict(model="tiny", steps=10, bf16=False, arguments={"logging_steps": 1, "save_steps": 5})
one = finetune(rows, out=runs("lab12") / "one", reuse=True, **train)
lengths = [len(ids) for ids in encode(rows, models.load("tiny")[1])["input_ids"]]
tokens = one.settings["steps"] * one.settings["batch_size"] * max(lengths)  # padded to the longest, as an upper bound
peak = scaling.roof("float32").peak
used = scaling.plan(tokens, one.total, peak, price=0, utilisation=1).seconds / one.seconds
measured.note("12_scaling_out", utilisation=f"{used:.1%}")
print(f"{tokens:,} tokens, {one.total:,} parameters, {one.seconds:.1f} s: {used:.1%} of {peak / 1e9:.1f} GFLOP/s")

# %% [markdown]
# The peak was measured anew, so it may differ from the one above. The share is rather too high than too low, since
# every row was counted as long as the longest. The rest goes to Python, to small operations and to checkpoints.
# Well-tuned trainings of billions of parameters report 30 to 50 % of a GPU's peak: compare yours.
#
# Now the plan for a real job: 20,000 tickets of 200 tokens, three epochs, LoRA on 1.5 billion parameters. The prices
# are examples; put in those of your provider. **Predict** which GPU makes it cheapest.

# %%
from labkit import scaling
from labkit.tables import table

prices = {"T4": 0.50, "L4": 0.80, "A100": 2.50, "H100": 4.00}  # for an hour: yours will differ
plans = [scaling.plan(3 * 20_000 * 200, 1.5e9, gpu, price=price, utilisation=0.3) for gpu, price in prices.items()]
table(*(plan.row() for plan in plans))

# %% [markdown]
# Compare the price of an hour with that of the training: the GPU with the dearer hour may be the cheaper one, if it is
# kept as busy as a slow one (here 30 % for all). Fine-tuning is cheap; what costs is the tenth try, and the GPU that
# idles while you read. Twice the GPUs do not make it cheaper; at best they halve the time.
#
# ## The same by command line
# `labkit finetune` trains in several processes on a file of yours too: with `--processes 2` it starts itself twice, as
# `torchrun` does, and gives back one table and one report.
#
#     labkit finetune tickets --task tone --processes 2
#
# With `--ray` the processes may be on other machines: **Ray** keeps a cluster of them, and its TorchTrainer finds a
# free GPU or core for each process, tells it RANK as torchrun would, and calls the same `finetune`. The loss is that of
# one process again. `labkit search --ray` spreads the workers of lab 09's study in the same way. Where no cluster is
# named, Ray makes one of this machine:
#
#     pip install 'ray[train]'
#     labkit finetune tickets --task tone --processes 2 --ray
#
# On a cluster a scheduler starts the job. `data/jobs/` has files for SLURM, Ray and Azure ML, and what each runs is
# `labkit finetune`. This is the whole one for SLURM:

# %%
from labkit import profiles

print((profiles.COURSE / "data/jobs/slurm.sh").read_text())

# %% [markdown]
# ## On a real model
# What this lab measured on your machine, beside what was recorded under `LABKIT_PROFILE=small`, if it was. The
# trainings above are tiny-base's on either side, so the columns differ by the machine and not by the model.

# %%
from labkit import measured

measured.beside("12_scaling_out")

# %% [markdown]
# ## What you can do now
# You can cut a batch, a training and a model into parts without changing the result, go on after an accident, say what
# a step waits for, and price a training before it runs.
#
# **Quiz.** Answer each in your head, then open it.
#
# <details><summary>1. You go from one GPU to four, and the loss curve changes. What did you change?</summary>
# Most likely the batch: by default the libraries give every process a whole batch, so a step now has four times the
# rows, and an epoch a quarter of the steps. Divide the batch per process by four, or choose the learning rate anew.
# </details>
#
# <details><summary>2. Four GPUs, LoRA, 1.9 times as fast as one. Name two suspects, and tell them apart.</summary>
# The wire, and the rows. With LoRA little travels, so look at the loader first: time steps on one batch that is already
# there, again and again. If these are four times as fast, rows were late; if not, count the bytes of the all-reduce.
# </details>
#
# <details><summary>3. FSDP on eight GPUs, and memory is still short. What do you shrink?</summary>
# Activations, which are not split: take fewer rows on each GPU, shorter rows, or checkpointing. More GPUs help little
# once an eighth of everything else is small.
# </details>
#
# **Next:** lab 13, the capstone: a dataset of your own, from report to model card. How far you are:

# %%
from labkit import progress

progress("12")
