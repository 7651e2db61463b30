# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 04 · QLoRA: the base in 4 bits
# **You will** quantise weights by hand, train an adapter over a base of 4 bits, and say how much memory a training
# takes before you run it.
#
# *75 minutes. You need: numpy, and lab 03. No GPU, no network, no account.*
#
# LoRA trains few of the numbers, a twentieth of tiny-base's in lab 03 and far fewer of a large model's, and still
# carries all the others about. This is what a step takes for a model of seven billion parameters whose weights are in
# 16 bits, one row of 512 tokens. A free GPU has 16,000 MB.

# %% tags=["reproducible"]
from labkit import models
from labkit.tables import table

table(*({"method": method, **models.memory("Qwen/Qwen2.5-7B-Instruct", method, batch=1, length=512, counted=64,
                                           dtype="bfloat16", bf16=True, device="cuda").row()}
        for method in ("full", "lora", "qlora")), caption="MB (10^6 bytes)")

# %% [markdown]
# With LoRA, gradients and optimizer are next to nothing; what is left is mostly weights, and they are frozen. Nobody
# needs sixteen bits to *read* a number. How few are enough, and what does it cost?
#
# ## A byte in place of a float
# ### Exercise 4.1 · a byte in place of a float · difficulty 1 · 6 minutes
# `x` is an array of floats of any shape. Give `codes`, whole numbers from -127 to 127 of the same shape and of dtype
# int8, and one `scale`, a float, so that x ≈ codes × scale and the largest |x| gets the code 127 or -127. Round to the
# nearest. Where x is all zeros, the codes are 0 and the scale is 1.

# %%
import numpy as np

from labkit import check, hint, solution


def absmax_int8(x):
    ### BEGIN SOLUTION
    scale = float(np.abs(x).max()) / 127 or 1.0
    return np.round(x / scale).astype(np.int8), scale
    ### END SOLUTION


check("absmax_int8", absmax_int8)

# %% [markdown]
# Try it on a real weight: a query projection of SmolLM2 where it was fetched, else of tiny-base. **Predict** the error
# of a typical weight with 8 bits, and with 4, as a share of a typical weight.

# %%
from labkit import models
from labkit.scratch import quantize
from labkit.tables import table

profile = "small" if models.here("small") else "tiny"
W = models.matrix("model.layers.0.self_attn.q_proj.weight", profile).numpy()
rows = []
for bits, largest in ((8, 127), (4, 7)):
    codes, scale = quantize.absmax_codes(W, largest)
    rows.append({"bits": bits, "codes used": len(np.unique(codes)),
                 "error": f"{np.abs(codes * scale - W).mean() / np.abs(W).mean():.1%}"})
table(*rows, caption=f"{profile}: {W.shape[0]} x {W.shape[1]} weights, one scale for all")

# %% [markdown]
# Eight bits cost little. Four have fifteen codes at most (the table counts those in use), and their scale is set by the
# largest weight of all: one large weight, and the many small ones round to zero.
#
# ## A scale for every block
# ### Exercise 4.2 · a scale for every block · difficulty 2 · 10 minutes
# `x` has any shape and n entries. Taken row after row, every `block` entries share a scale; the last block may be
# shorter. Codes of 4 bits go from -7 to 7. Give `codes` (n,), int8 (numpy has nothing smaller), and `scales` (blocks,),
# so that x ≈ codes × the scale of their block. A block of zeros has scale 1.

# %%
import numpy as np

from labkit import check, models, plots
from labkit.scratch import quantize


def blockwise(x, block):
    ### BEGIN SOLUTION
    flat = x.reshape(-1)
    parts = [flat[i : i + block] for i in range(0, flat.size, block)]
    scales = np.array([np.abs(part).max() / 7 or 1.0 for part in parts])
    codes = [np.round(part / scale) for part, scale in zip(parts, scales, strict=True)]
    return np.concatenate(codes).astype(np.int8), scales
    ### END SOLUTION


check("blockwise", blockwise)

# %% [markdown]
# Now plant an outlier: make a single weight ten times as large as the largest. **Predict** which block sizes notice.

# %%
profile = "small" if models.here("small") else "tiny"
W = models.matrix("model.layers.0.self_attn.q_proj.weight", profile).numpy()
spoilt = W.copy()
spoilt[0, 0] = 10 * np.abs(W).max()


def error(x, block):
    """Mean error of all weights but the first, as a share of the mean |x|."""
    back = quantize.dequantize(*quantize.blockwise(x, block), block)
    return np.abs(back - x.reshape(-1))[1:].mean() / np.abs(x.reshape(-1))[1:].mean()


sizes = [32, 64, 256, 1024, 4096, W.size]
errors = {name: [error(x, size) for size in sizes] for name, x in (("as it is", W), ("with one outlier", spoilt))}

# %%
at64, one = (errors["with one outlier"][sizes.index(size)] for size in (64, W.size))
whole = errors["as it is"][-1]
figure, axes = plots.new(f"One scale: {whole:.0%} error, with an outlier {one:.0%}; a scale for each 64: {at64:.0%}",
                         "weights that share a scale", "mean error (% of a typical weight)")
for (name, values), colour, mark in zip(errors.items(), ("blue", "orange"), ("o-", "s--"), strict=True):
    axes.plot(sizes, [100 * v for v in values], mark, color=plots.COLOURS[colour], label=name)
axes.set_xscale("log")
axes.set_ylim(bottom=0)
axes.legend(frameon=False)
plots.show(figure, alt="; ".join(f"{name}: " + ", ".join(f"{v:.0%} with {s} in a block"
                                                          for s, v in zip(sizes, values, strict=True))
                                 for name, values in errors.items()))

# %% [markdown]
# Only the one scale for all notices much: an outlier spoils those that share its block, 63 others of 64, and no more.
# Smaller blocks are better without an outlier too, and each block costs a scale; we come to that bill.
#
# ## Sixteen levels for a bell curve
# Evenly spaced codes spend as many levels on the rare large weights as on the many small ones. Trained weights look
# like a bell, so QLoRA places its levels where a normal distribution has its mass: NF4.
#
# ### Exercise 4.3 · sixteen levels for a bell curve · difficulty 3 · 15 minutes
# NF4 places its levels at quantiles of a normal distribution: eight above zero, at probabilities evenly spaced from
# 0.9677083 down to 0.5; seven below, spaced in the same way, with a minus sign; and zero itself. The quantile at 0.5 is
# zero, so neither side takes it. Give the 16 levels (16,), sorted, divided by the largest. `norm.ppf(p)` is the
# quantile at p.

# %%
import numpy as np
from scipy.stats import norm

from labkit import check, models, plots
from labkit.scratch import quantize


def nf4_codebook():
    ### BEGIN SOLUTION
    above = norm.ppf(np.linspace(0.9677083, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(0.9677083, 0.5, 8)[:-1])
    levels = np.sort(np.concatenate([below, [0.0], above]))
    return levels / levels.max()
    ### END SOLUTION


check("nf4_codebook", nf4_codebook)

# %% [markdown]
# Here they stand under the weights that they must represent, each divided by the largest of its block of 64. Where do
# the levels crowd, and where do the weights?

# %%
profile = "small" if models.here("small") else "tiny"
W = models.matrix("model.layers.0.self_attn.q_proj.weight", profile).numpy()
blocks = W.reshape(-1)[: W.size // 64 * 64].reshape(-1, 64)  # (blocks, 64)
scaled = (blocks / np.maximum(np.abs(blocks).max(axis=1, keepdims=True), 1e-12)).reshape(-1)
inner = float((np.abs(scaled) < 0.5).mean())
figure, axes = plots.new(f"{inner:.0%} of the weights lie within half of their block's largest",
                         "weight / largest of its block", "weights")
axes.hist(scaled, bins=80, color=plots.COLOURS["grey"], alpha=0.5)
top, even = axes.get_ylim()[1], np.arange(-7, 8) / 7
for name, levels, y, colour in (("NF4", quantize.NF4, -0.06, "blue"), ("even", even, -0.13, "orange")):
    axes.plot(levels, [y * top] * len(levels), "|", ms=13, mew=2, color=plots.COLOURS[colour], label=name)
axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= top])
axes.legend(frameon=False)
plots.show(figure, alt=f"Histogram of scaled weights, {inner:.0%} within -0.5 to 0.5; NF4 levels crowd around zero")

# %% [markdown]
# ### Exercise 4.4 · the nearest of sixteen levels · difficulty 2 · 8 minutes
# `x` (n,) is one block of weights, `codebook` (16,) the sorted levels. Divide x by its largest |x|, and give `codes`
# (n,), uint8, the place of the nearest level for each entry, from 0 to 15, and `absmax`, that largest |x|. In a block
# of zeros every code is that of the level 0.

# %%
def nf4_codes(x, codebook):
    ### BEGIN SOLUTION
    absmax = np.abs(x).max()
    scaled = x / (absmax or 1.0)
    distance = np.abs(scaled[:, None] - codebook)  # (n, 16)
    return distance.argmin(axis=1).astype(np.uint8), absmax
    ### END SOLUTION


check("nf4_codes", nf4_codes)

# %% [markdown]
# The same number of bits, the same blocks, two sets of levels. **Predict** how much NF4 gains over even spacing:

# %%
from labkit.tables import table

even = quantize.dequantize(*quantize.blockwise(W, 64), 64)
nf4 = quantize.nf4_dequantize(*quantize.nf4_quantize(W))
table(*({"levels": name, "error": f"{np.abs(back - W.reshape(-1)).mean() / np.abs(W).mean():.2%}"}
        for name, back in (("15, even", even), ("16, NF4", nf4))), caption=f"{profile}, blocks of 64")

# %% [markdown]
# ## The same from the library that the field uses
# `bitsandbytes` quantises whole models this way. **Predict**: of all the codes that it makes of every linear layer of
# tiny-base, how many will differ from the ones made by hand?

# %%
import torch
from bitsandbytes import functional

from labkit import models
from labkit.scratch import quantize
from labkit.tables import table

base, _ = models.load("tiny")
same = total = 0
for module in base.model.layers.modules():
    if isinstance(module, torch.nn.Linear):
        W = module.weight.detach().cpu()
        packed, state = functional.quantize_4bit(W, blocksize=64, quant_type="nf4")
        theirs = quantize.unpack(packed.numpy(), W.numel())
        same, total = same + int((quantize.nf4_quantize(W.numpy())[0] == theirs).sum()), total + W.numel()
print(f"{same:,} of {total:,} codes are equal; all: {same == total}")

# %% [markdown]
# None. From here on the library does it.
#
# ## The scales have their price
# A scale in 32 bits for each 64 weights adds half a bit to each. So QLoRA quantises the scales too.
#
# ### Exercise 4.5 · quantise the scales too · difficulty 2 · 8 minutes
# `scales` (n,) are the scales of n blocks of weights, all above zero. Subtract their mean, one number for all; then
# quantise what is left to int8 with absmax, every `block` of them with a second scale of its own (the last block may be
# shorter). Give `codes` (n,), `second` (blocks,) and `mean`, so that scales ≈ codes × second scale + mean. Where
# nothing is left of a block, its second scale is 1. (QLoRA uses an 8-bit float here; whole numbers show the same idea.)

# %%
import numpy as np

from labkit import check, models
from labkit.livebytes import weight_bytes
from labkit.scratch import quantize
from labkit.tables import table


def double_quantize(scales, block=256):
    ### BEGIN SOLUTION
    mean = scales.mean()
    parts = [scales[i : i + block] - mean for i in range(0, len(scales), block)]
    pairs = [quantize.absmax_int8(part) for part in parts]
    return np.concatenate([codes for codes, _ in pairs]), np.array([second for _, second in pairs]), mean
    ### END SOLUTION


check("double_quantize", double_quantize)

# %% [markdown]
# ### Exercise 4.6 · what a weight really takes · difficulty 1 · 4 minutes
# A weight has a code of 4 bits. `block` weights share a scale of 8 bits, and `block2` such scales share a second scale
# of 32 bits. Give the bits that one weight takes, all in all. (The mean is one number for a whole matrix: leave it
# out.)

# %%
def bits_per_weight(block=64, block2=256):
    ### BEGIN SOLUTION
    return 4 + 8 / block + 32 / (block * block2)
    ### END SOLUTION


check("bits_per_weight", bits_per_weight)

# %% [markdown]
# An eighth of 32 bits is 4, so **predict**: which share of its fp32 bytes does a whole model take in NF4? Count what
# is really in memory, and look at which rows shrank.

# %%
full, packed = models.load()[0], models.load(quantize="nf4")[0]
parts = {"linear layers, norms": lambda m: m.model.layers, "embedding": lambda m: m.model.embed_tokens,
         "whole model": lambda m: m}
rows = []
for name, part in parts.items():
    before, after = weight_bytes(part(full)), weight_bytes(part(packed))
    rows.append({"": name, "fp32": before, "NF4": after, "share": f"{after / before:.1%}"})
half = weight_bytes(models.load(quantize="nf4", dtype="bfloat16")[0])
table(*rows, {"": "whole model, the rest in 16 bits", "fp32": before, "NF4": half, "share": f"{half / before:.1%}"},
      caption="bytes")

# %% [markdown]
# The layers come out near the 4.13 bits that you counted (and a little above in a small model, where each matrix brings
# its two code books, a kilobyte together). The embedding stays as it was: only the blocks' linear layers are quantised,
# and it serves as the output head too. In a small model it is a large part, so "4 bits" is a claim about layers; ask
# for the whole.
#
# ## Train over it
# A matrix of 4 bits cannot be nudged: a step of the optimizer is far smaller than the gap between two levels. So it
# stays frozen, is brought back to floats one matrix at a time when it is multiplied, and beside it LoRA's A and B learn
# in fp32: h = dequantised(W) x + (alpha / r) B A x. Find the three in what one layer prints.

# %%
from labkit import adapters, models

base, tokenizer = models.load(quantize="nf4")
adapted = adapters.attach_lora(base, rank=8)
print(adapted.base_model.model.model.layers[0].self_attn.q_proj)

# %% [markdown]
# **Predict** whether such a layer answers exactly as its dequantised weight does, and how far it is from what the layer
# was before:

# %%
import torch
from bitsandbytes.functional import dequantize_4bit

layer = adapted.base_model.model.model.layers[0].self_attn.q_proj
before = models.load()[0].model.layers[0].self_attn.q_proj
bias = 0 if before.bias is None else before.bias  # Qwen has one
W = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(before.weight.dtype)
x = torch.randn(64, W.shape[1], device=W.device, generator=torch.Generator(W.device).manual_seed(0))
with torch.no_grad():
    exact, size = before(x), before(x).abs().mean()
    print(f"from its dequantised weight: {float((layer(x) - x @ W.T - bias).abs().mean() / size):.1%}")
    print(f"from the layer in fp32:      {float((layer(x) - exact).abs().mean() / size):.1%}")

# %% [markdown]
# (The first is not quite 0 where the layer multiplies in 16 bits.) The error of one layer is not small.
# The adapter learns beside the *rounded* weights, so it can make up for some of it; what is left of it in the answers,
# the table of accuracies below says.
#
# ## Memory, before you run it
# Five things fill the memory of a training: weights, gradients, the optimizer's state, activations (what the forward
# pass keeps for the backward pass), logits. They are not all held at once: gradients come as activations go. The peak
# is what is held at the worst moment, with its working space (temporaries, such as those of the optimizer's step); so
# it is not the sum of the five.
#
# ### Exercise 4.7 · the bytes, before you run it · difficulty 2 · 8 minutes
# A frozen base has `parameters` weights of `bits` bits each, their part of the scales included. Beside it `trainable`
# adapter weights are trained; they, their gradients and the two moments that Adam keeps of each are in fp32, 4 bytes a
# number. Give a dict of bytes with the keys `"weights"` (base and adapter), `"gradients"` and `"optimizer"`. Full
# fine-tuning is the same count with nothing frozen: `qlora_bytes(0, n, 32)`.

# %%
from labkit import adapters, check, data, models
from labkit.data.encode import collate, encode, pad_id
from labkit.livebytes import peak_bytes
from labkit.tables import table
from labkit.trainer import sparse_loss


def qlora_bytes(parameters, trainable, bits):
    ### BEGIN SOLUTION
    return {
        "weights": parameters * bits / 8 + 4 * trainable,
        "gradients": 4 * trainable,
        "optimizer": 2 * 4 * trainable,
    }
    ### END SOLUTION


check("qlora_bytes", qlora_bytes)

# %% [markdown]
# The other two depend on the batch. `models.memory` reckons all five from a model's config alone. These are its figures
# for a batch of 8 tickets; **predict** what is largest for each method before you run the cell.

# %%
base, tokenizer = models.load()
rows = encode(data.ticket_task("tone").train.select(range(8)), tokenizer).to_list()
batch = {name: value.to(base.device) for name, value in collate(rows, pad_id(tokenizer)).items()}
length = batch["input_ids"].shape[1]
counted = int((batch["labels"][:, 1:] != -100).sum(-1).max())  # labels of a row, for which logits are made
options = {"batch": 8, "length": length, "counted": counted, "bf16": False}
predicted = {method: models.memory(base.config, method, **options) for method in ("full", "lora", "qlora")}
table(*({"method": method, **found.row()} for method, found in predicted.items()),
      caption=f"MB (10^6 bytes), 8 rows of {length} tokens, {counted} labels a row")

# %% [markdown]
# Then measure. `peak_bytes` keeps count of every tensor's bytes while two steps run (on a GPU it asks CUDA).

# %%
import time

import torch


def peak_of(method, accumulation=1, checkpointing=False):
    """Peak in bytes, the loss of the second step, and its seconds."""
    base, _ = models.load(quantize="nf4" if method == "qlora" else None)
    model = base.requires_grad_(True) if method == "full" else adapters.attach_lora(base, 8)
    if checkpointing:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW([p for p in model.train().parameters() if p.requires_grad], lr=1e-4)
    items, rows = int((batch["labels"][:, 1:] != -100).sum()), 8 // accumulation
    with peak_bytes(model) as peak:
        for _ in range(2):
            started, loss = time.monotonic(), 0.0
            for i in range(0, 8, rows):
                part = sparse_loss(model, {name: value[i : i + rows] for name, value in batch.items()}, items)
                part.backward()
                loss += part.item()
                del part  # it holds all that the backward pass has used
            optimizer.step()
            optimizer.zero_grad()
    return peak.bytes, loss, time.monotonic() - started

# %%
seen = {method: peak_of(method) for method in predicted}
table(*({"method": method, "predicted": f"{predicted[method].peak / 1e6:.1f}", "measured": f"{size / 1e6:.1f}",
         "off by": f"{predicted[method].peak / size - 1:+.1%}"} for method, (size, *_) in seen.items()),
      caption="peak of a step, MB")

# %% [markdown]
# On a CPU within a few per cent, from a config of a dozen lines; a GPU's kernels take some room of their own. And look
# what 4 bits saved *here*: the base shrank to a third, and the peak hardly. A tiny model with eight rows is nearly all
# activations; a large one with few is mostly weights, as in the first table of this lab. QLoRA helps where weights are
# what fills the memory.
#
# ### Fewer activations
# Two remedies for activations. *Checkpointing* keeps only the input of each block, and computes the block a second time
# on the way back. *Accumulation* sends the batch through in parts and adds the gradients up. **Predict** for both: what
# happens to the peak, to the loss, to the seconds?

# %%
ways = {"as it is": {}, "checkpointing": {"checkpointing": True}, "4 parts": {"accumulation": 4},
        "both": {"checkpointing": True, "accumulation": 4}}
results = []
for name, way in ways.items():
    size, loss, seconds = peak_of("qlora", **way)
    guess = models.memory(base.config, "qlora", **options, **way).peak
    results.append({"": name, "predicted MB": f"{guess / 1e6:.1f}", "measured MB": f"{size / 1e6:.1f}",
                    "loss": f"{loss:.4f}", "seconds": f"{seconds:.2f}"})
table(*results)

# %% [markdown]
# The loss is the same: both are ways to compute the same gradient. Both pay in time, though one step of a tiny model is
# too short to say how much: checkpointing runs about one more forward pass, accumulation runs small parts one after the
# other. In `finetune` they are `arguments={"activation_checkpointing": True, "gradient_accumulation_steps": 4}`.
#
# ### The optimizer in 8 bits, in pages, and elsewhere
# Adam's moments can be kept in 8 bits with a scale for each 256, by the same trick as above
# (`arguments={"optim": "adamw_bnb_8bit"}`). **Predict** whether it matters for full fine-tuning or for QLoRA:

# %% tags=["reproducible"]
from labkit import models
from labkit.tables import table

table(*({"method": method, "optimizer": name, "its state, MB": round(models.memory(
        "Qwen/Qwen2.5-7B-Instruct", method, batch=1, length=512, optimizer=name, dtype="bfloat16", bf16=True,
        device="cuda").optimizer / 1e6)} for method in ("full", "qlora") for name in ("adamw", "adamw8bit")))

# %% [markdown]
# With an adapter there is hardly anything to save. *Paged* optimizers (`"paged_adamw_8bit"`, on a GPU) keep the same
# state in memory that CUDA may move to the host when a long batch needs the room: a peak becomes slow, in place of an
# out-of-memory error. *CPU offload* (`device_map="auto"`) keeps whole layers in the host's memory and carries them over
# in every step. What a step then waits for is a division:

# %% tags=["reproducible"]
size = models.memory("Qwen/Qwen2.5-7B-Instruct", "lora", batch=1, length=512, dtype="bfloat16", bf16=True,
                     device="cuda").weights
table(*({"link": name, "GB a second": rate, "seconds a pass": round(size / rate / 1e9, 2)}
        for name, rate in (("PCIe 3 x16", 13), ("PCIe 4 x16", 25), ("a GPU's own memory (T4)", 300))))

# %% [markdown]
# A forward and a backward pass carry the weights over twice. Offload lets a model run that does not fit; it is no way
# to train one for hours where 4 bits would fit.
#
# ## Will it fit?
# Move one thing at a time. **Predict** first: which of batch, length, method and checkpointing brings a model of 1.5
# billion parameters onto a T4?

# %%
from labkit.widgets.memory import WillItFit

fit = WillItFit("Qwen/Qwen2.5-1.5B-Instruct", "qlora", batch=8, length=512)
fit

# %% [markdown]
# The dashed line leaves a tenth for CUDA and for what an allocator cannot use. As the cell stands, half the batch, half
# the length or checkpointing brings it onto the T4, each alone; the method cannot, since QLoRA is the smallest already
# and most of the bar is activations. The figures behind the bars:

# %%
fit.table()

# %% [markdown]
# ## One table
# Now train all three on the same rows: routing tickets to one of the teams. Who compares methods needs runs that agree
# with themselves. On tiny-base, at LoRA's usual rate, two runs that differ in nothing but the seed can lie as far apart
# as two methods; at three quarters of it they lie closer together. **Predict** the order of the accuracies, and whether
# their intervals will be apart.

# %%
from labkit import current, data, evaluation, finetune, measured, models, plots, runs
from labkit.livebytes import watch_peak, weight_bytes
from labkit.tables import table

task = data.ticket_task("intent")
held = task.test
families = evaluation.groups_of(held)
usual = {"steps": current().steps // 2, "learning_rate": 0.75 * current().learning_rate, "group_by_length": True}
methods = {"full": usual | {"method": "full", "learning_rate": 1e-4}, "LoRA": usual,
           "QLoRA": usual | {"quantize": "nf4"}}
trained, peaks = {}, {}
for name, how in methods.items():
    watch = watch_peak(steps=2)
    trained[name] = finetune(task.train, out=runs(f"lab04-{name}"), callbacks=[watch], **how)
    peaks[name] = watch.peak.bytes

# %%
scores, rows = {}, []
for name, run in trained.items():
    said = evaluation.classify(run.model, run.tokenizer, held["prompt"], task.labels)
    scores[name] = evaluation.accuracy(held["label"], said, families)
    rows.append({"": name, "accuracy": str(scores[name]), "trained": f"{run.share:.1%}",
                 "weights, bytes": weight_bytes(run.model), "peak, MB": f"{peaks[name] / 1e6:.0f}",
                 "seconds": round(run.seconds)})
table(*rows, caption=f"{len(held)} tickets of {len(set(families))} families, {trained['LoRA'].settings['steps']} steps")

# %% [markdown]
# Read the intervals first: where they overlap, this table does not show which is better; lab 07 compares row by row.
# `weights` is base and adapter together. Seconds are for this machine: bringing weights back to floats is work at every
# step. Do LoRA and QLoRA show it here, or is it lost in the rest? A GPU may win it back by fitting more rows.

# %%
dots = [(name, s.value, s.low, s.high) for name, s in scores.items()]
apart = round(100 * scores["QLoRA"].value, 1) - round(100 * scores["LoRA"].value, 1)  # as the table shows them
plots.show(plots.scores(dots, f"QLoRA {apart:+.1f} points from LoRA"),
           alt="; ".join(f"{name}: {score}" for name, score in scores.items()))

# %%
base_share = weight_bytes(models.load(quantize="nf4")[0]) / weight_bytes(models.load()[0])
measured.note("04_qlora", base_bytes_of_fp32=f"{base_share:.1%}", steps=trained["LoRA"].settings["steps"],
              **{f"{name}_accuracy": score for name, score in scores.items()},
              **{f"{name}_peak_MB": round(peak / 1e6) for name, peak in peaks.items()},
              **{f"{name}_seconds": run.seconds for name, run in trained.items()})
print(f"the base takes {base_share:.1%} of its fp32 bytes")

# %% [markdown]
# ## Three ways to merge, and only one keeps the model
# The adapter learnt beside W as NF4 shows it. To ship one model without an adapter, something must be added to
# something.
#
# ### Exercise 4.8 · merge without rounding · difficulty 2 · 6 minutes
# `dequantised_W` (d_out, d_in) is what the codes of W stand for: levels times absmax, float32. `A` is (r, d_in), `B` is
# (d_out, r). Give one matrix (d_out, d_in), in full precision, that answers as the quantised W and the detour together.

# %%
from labkit import adapters, check, current, data, evaluation, finetune, models, runs
from labkit.livebytes import weight_bytes
from labkit.tables import table


def merge_quantised(dequantised_W, A, B, alpha):
    ### BEGIN SOLUTION
    return dequantised_W + (alpha / A.shape[0]) * (B @ A)
    ### END SOLUTION


check("merge_quantised", merge_quantised)

# %% [markdown]
# The three ways: dequantise and merge in full precision; merge into the *original* fp32 weights, which look cleaner;
# merge and round to 4 bits again. The run is the one from above, or is trained now; only every third ticket is asked,
# so its accuracy differs a little from the one above. **Predict** which of the three answers as the model that you
# trained.

# %%
task = data.ticket_task("intent")
usual = {"steps": current().steps // 2, "learning_rate": 0.75 * current().learning_rate, "group_by_length": True}
run = finetune(task.train, **usual, quantize="nf4", out=runs("lab04-QLoRA"), reuse=True)
asked = task.test.select(range(0, len(task.test), 3))
asked_families = evaluation.groups_of(asked)
over_fp32 = adapters.load(models.load(run.settings["model"])[0], run.folder / "adapter")
ways = {
    "as trained: NF4 and adapter": run.model,
    "merged into the dequantised base": adapters.merge(run.model),
    "merged into the fp32 base": adapters.merge(over_fp32),
    "merged, then quantised again": adapters.merge(run.model, requantise=True),
}
logs = {}
for name, model in ways.items():
    with models.in_float32(model):  # 4-bit layers too: bfloat16 rounds by more than a merge changes
        logs[name] = evaluation.score_labels(model, run.tokenizer, asked["prompt"], task.labels)

# %%
first, rows = next(iter(logs.values())), []
for name, found in logs.items():
    said = [task.labels[i] for i in found.argmax(-1).tolist()]
    rows.append({"": name, "accuracy": str(evaluation.accuracy(asked["label"], said, asked_families)),
                 "same answer as trained": f"{float((found.argmax(-1) == first.argmax(-1)).float().mean()):.1%}",
                 "mean gap, nats": f"{float((found - first).abs().mean()):.4f}",
                 "weights, bytes": weight_bytes(ways[name])})
table(*rows, caption=f"{len(asked)} tickets")

# %% [markdown]
# Only the first merge is the model that you tested. The adapter grew beside the rounded base, and the fp32 base differs
# from that by just the rounding; a second rounding changes the sum anew, and can undo what was learnt. Where the
# accuracy does not show it, the gap does; what is shipped has to be scored again. `adapters.merge` dequantises first,
# if not told otherwise; peft's `merge_and_unload` on a 4-bit model is the last row.
#
# One trap more, which prints nothing: on a CPU with bf16 instructions, bitsandbytes packs the codes anew when a 4-bit
# model first answers, for one fast kernel. From then on they pass no gradient back, and dequantise into nonsense.
# `labkit.models.load` switches that off. A model that you loaded in another way: train and merge before you ask it.
#
# ## On a real model
# With `LABKIT_PROFILE=small` this very notebook runs on SmolLM2. What it measured, beside what you have just seen:

# %%
from labkit import measured

measured.beside("04_qlora")

# %% [markdown]
# In the record, how many steps of four letters did each of the three have? That is few for so many intents: read
# whether the intervals of LoRA and QLoRA overlap before you read anything into their order. Memory tells the methods
# apart with far less doubt: compare the peak of LoRA with that of the full fine-tuning, and then see what 4 bits take
# off it.
#
# With `LABKIT_PROFILE=full` the base and its learning rate change, by `labkit.profiles`. A gated base such as Llama
# asks you to accept its licence first; the error says where.
#
# ## The same by command line
# Lab 11 does this with Microsoft's `olive finetune --method qlora`. In Python it is one word more than lab 03:
# `finetune(rows, quantize="nf4")`.
#
# ## What you can do now
# You can quantise a weight and say what it costs, train over a 4-bit base, tell beforehand whether a training fits,
# find what fills the memory where it does not, and merge without losing what you trained.
#
# **Quiz.** Answer each in your head, then open it.
#
# <details><summary>1. LoRA on a base of 135 million runs out of memory at 4 rows of 2,048 tokens. Would QLoRA
# do?</summary>
# Hardly. A base of that size is half a gigabyte in fp32, and the rest is activations and logits: take checkpointing,
# fewer rows with accumulation, or shorter rows.
# </details>
#
# <details><summary>2. Why are A and B kept in fp32 and not in 4 bits too?</summary>
# They are trained. A step moves a weight by far less than the gap between two of sixteen levels, so nearly every step
# would be rounded away.
# </details>
#
# <details><summary>3. Why does NF4 have a level at exactly zero, and one level more above it than below?</summary>
# Sixteen levels with zero among them cannot be symmetric. Zero has to be exact because padding and pruned weights, and
# whole rows that do nothing, must stay nothing.
# </details>
#
# **Next:** lab 05 puts several adapters on one base and switches between them. How far you are:

# %%
from labkit import progress

progress("04")
