# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 10 · ONNX export and serving: the model leaves PyTorch
# **You will** export a fine-tuned model to ONNX, prove that it is still the same model, shrink its weights to 4 bits (8
# where 4 hurt) and measure what that loses, switch adapters in it at run time, and serve it to many clients at once.
#
# *75 minutes. You need: labs 03 and 04, or to know what LoRA and 4-bit weights are. No GPU, no network, no account.*
#
# Tatra Trail wants its model on a small machine in the office, where nobody will install PyTorch for it. What must
# leave with the model, and how would you know that nothing was lost on the way?

# %%
from labkit import current, data, finetune, runs

tone = data.ticket_task("tone")
run = finetune(tone.train, rank=8, steps=current().steps * 2 // 3, out=runs("lab10-tone"), reuse=True)
print(f"{run.total:,} parameters, {run.share:.1%} of them trained, in {run.seconds:.0f} s")

# %% [markdown]
# ## One call, one folder
# *ONNX* is a file format for a model's graph of operations. *onnxruntime* runs such a graph; *onnxruntime-genai*, genai
# for short, adds what text needs: a tokenizer, a memory of what was read, the loop that writes. `to_onnx` merges the
# adapter into the base (lab 03), lets genai's model builder write graph and weights, and checks what came of it.
#
# **Predict.** The first cell counted the parameters. How many megabytes will the folder have in *fp32*, four bytes a
# parameter?

# %%
prediction = ...  # MB

# %%
from labkit import current, data, finetune, runs
from labkit.export import to_onnx

tone = data.ticket_task("tone")
run = finetune(tone.train, rank=8, steps=current().steps * 2 // 3, out=runs("lab10-tone"), reuse=True)
fp32 = to_onnx(run, "fp32", reuse=True)
fp32.info()

# %% [markdown]
# Nothing here is Python: a graph, weights, a tokenizer, settings. Embedding and head are one matrix, so they are stored
# once. Ask it something; PyTorch takes no part in the answer:

# %%
print(tone.test[0]["prompt"], "\n->", fp32.generate(tone.test[0]["prompt"]), "\n   is:", tone.test[0]["completion"])

# %% [markdown]
# ### Exercise 10.1 · the loop that writes · difficulty 2 · 8 minutes
# A graph gives scores for the next token and nothing else. Write the loop. `prompt` is a list of token ids, and
# `step(ids)` takes all ids so far and gives a score for each token that may come next. Take the likeliest each time;
# stop at the token `end` (and leave it out) or after `most` tokens. Give the list of new ids, without the prompt.

# %%
from labkit import check, hint, solution


def greedy(step, prompt, end, most):
    ### BEGIN SOLUTION
    said = []
    while len(said) < most:
        scores = step(prompt + said)
        token = max(range(len(scores)), key=lambda i: scores[i])
        if token == end:
            break
        said.append(token)
    return said
    ### END SOLUTION


check("greedy", greedy)

# %% [markdown]
# The same loop around the real graph, beside genai's own. **Predict**: equal token by token?

# %% tags=["reproducible"]
from labkit.scratch import export as by_hand

[end, *_] = fp32.ends
ids = fp32.prompt_ids("Please write: my tent is blue and my stove is new.")
ours = by_hand.greedy(lambda so_far: fp32.logits(so_far)[-1], ids, end, 12)
theirs = fp32.tokens("Please write: my tent is blue and my stove is new.", 12)
print("the same tokens:", ours == theirs)

# %% [markdown]
# Equal, but ours reads the whole text again for every token. genai keeps the keys and values of what was read.
#
# ### Exercise 10.2 · what a conversation costs · difficulty 1 · 4 minutes
# How many bytes are the keys and values of one text of `tokens` tokens? `bytes_each` is the size of one number.

# %%
def kv_cache_bytes(layers, kv_heads, head_size, tokens, bytes_each=4):
    ### BEGIN SOLUTION
    return 2 * layers * kv_heads * head_size * tokens * bytes_each
    ### END SOLUTION


check("kv_cache_bytes", kv_cache_bytes)

# %% [markdown]
# For a text that fills the context, in three models. Compare each with the model's own weights, at four bytes a
# parameter:

# %% tags=["reproducible"]
from labkit.scratch import export as by_hand
from labkit.tables import table

table(*({"model": name, "context": context, "cache, MB": by_hand.kv_cache_bytes(*shape, context) / 1e6}
        for name, shape, context in (("tiny-base", (4, 3, 64), 1024), ("SmolLM2-135M", (30, 3, 64), 8192),
                                     ("Qwen2.5-0.5B", (24, 2, 64), 32768))))

# %% [markdown]
# That is for one client. A server that lets in fifty at once must have room for fifty of these, which is why the one
# below has limits.
#
# ## Is it still the same model?
# Three things may have changed on the way, and none of them prints anything: the tokens that a text becomes, the
# numbers, and the template. First the tokens: fifty strings with digits, newlines, accents and special tokens, through
# transformers' tokenizer and genai's own.

# %%
from labkit import current, data, evaluation, finetune, models, runs
from labkit.export import STRINGS, gaps, to_onnx
from labkit.tables import table

tone = data.ticket_task("tone")
run = finetune(tone.train, rank=8, steps=current().steps * 2 // 3, out=runs("lab10-tone"), reuse=True)
fp32 = to_onnx(run, "fp32", reuse=True)
apart = gaps(lambda text: run.tokenizer(text, add_special_tokens=False)["input_ids"], fp32.genai_ids)
print(f"{len(STRINGS) - len(apart)} of {len(STRINGS)} strings become the same tokens")
table(*({"string": repr(text), "transformers": str(a), "genai": str(b)} for text, a, b in apart))

# %% [markdown]
# Each row is a string that the two cut up differently. With such a string in it, a prompt becomes one that the model
# was not trained on: after the export it is "a little worse", and nobody finds out why. `to_onnx` makes this comparison
# at every export, and one of the template. Where tokens differ, the model reads through the library that transformers
# itself uses (`tokenizers`, without PyTorch), and its `facts` say so:

# %%
table({key: fp32.facts[key] for key in ("precision", "tokenizer", "template")})

# %% [markdown]
# Now the numbers. 200 held-out tickets, each answered greedily by PyTorch and by the exported model, and the
# log-likelihood of every label beside it. **Predict** the largest difference, in nats.

# %%
prediction = ...  # nats

# %%
held = list(tone.test["prompt"])[:200]
torch_says = evaluation.generate(run.model, run.tokenizer, held, 24)
equal = sum(a == b for a, b in zip(torch_says, fp32.generate(held, 24), strict=True))
gap = abs(evaluation.score_labels(run.model, run.tokenizer, held, tone.labels).numpy()
          - fp32.score_labels(held, tone.labels)).max()
print(f"the same answer on {equal} of {len(held)} tickets")
print(f"largest difference of a log-likelihood {gap:.0e} nats; below 0.01: {gap < 0.01}")

# %% [markdown]
# If nearly all agree, it is the same model: sums in another order move the last digits, and flip an answer only where
# two tokens are almost equally likely.
#
# ## Sixteen levels for a block
# fp32 spends 32 bits on a weight. int4 keeps a code from 0 to 15 for each, and for each block of 32 weights a scale and
# a zero: w ≈ (code - zero) × scale. NF4 in lab 04 also had 16 levels; here they are evenly spaced, so that the runtime
# can multiply in whole numbers.
#
# ### Exercise 10.3 · sixteen levels for a block · difficulty 2 · 10 minutes
# `block` is a numpy array of weights. Give three things: `codes` (uint8, as many as there are weights), `scale` (the
# step from one level to the next) and `zero` (a whole number, the code of the weight 0). If the range of the block
# leaves out 0, stretch it until 0 is in it.

# %%
import numpy as np

from labkit import check


def block_codes(block):
    ### BEGIN SOLUTION
    low, high = min(0.0, float(block.min())), max(0.0, float(block.max()))
    scale = (high - low) / 15
    zero = round(-low / scale)
    codes = np.clip(np.round(block / scale) + zero, 0, 15).astype(np.uint8)
    return codes, scale, zero
    ### END SOLUTION


check("block_codes", block_codes)

# %% [markdown]
# A real block, from the value matrix of the base's first layer. A dot on the line lost nothing. **Predict** how
# far from the line a dot can be, in steps.

# %%
from labkit import models, plots
from labkit.scratch import export as by_hand

block = models.matrix("model.layers.0.self_attn.v_proj.weight")[0, :32].numpy()
codes, scale, zero = by_hand.block_codes(block)
worst = abs((codes - float(zero)) * scale - block).max()
title = f"32 weights on 16 levels: no error above {worst / scale:.2f} of a step of {scale:.3f}"
figure, axes = plots.new(title, "weight (no unit)", "restored (no unit)")
axes.axline((0, 0), slope=1, color=plots.COLOURS["grey"], linewidth=0.8)
axes.plot(block, (codes - float(zero)) * scale, "o", color=plots.COLOURS["blue"])
plots.show(figure, alt=f"Weights against restored weights; the largest error is {worst / scale:.2f} of a step")

# %% [markdown]
# Half a step at most, since each weight goes to the nearest level.
#
# ### Exercise 10.4 · two codes a byte · difficulty 1 · 5 minutes
# `codes` is (d_out, d_in), uint8, each from 0 to 15. Put two neighbours of a row into one byte, the first in the lower
# half; the answer is (d_out, d_in / 2), uint8 again.

# %%
def pack_codes(codes):
    ### BEGIN SOLUTION
    return codes[:, 0::2] | (codes[:, 1::2] << 4)
    ### END SOLUTION


check("pack_codes", pack_codes)

# %% [markdown]
# That is how `MatMulNBits` reads its weights, the operator that replaces every product with a weight matrix. A code has
# 4 bits; each block adds 32 for its scale and 4 for its zero. **Predict** the bits a weight for blocks of 16, 32 and
# 128.

# %% tags=["reproducible"]
from labkit.tables import table

table({"block": "16 weights", "bits a weight": 4 + 36 / 16}, {"block": "32 weights", "bits a weight": 4 + 36 / 32},
      {"block": "128 weights", "bits a weight": 4 + 36 / 128})

# %% [markdown]
# ## The road to an int4 that holds
# Accuracy moves only when an answer flips. A finer measure is how far the probabilities of the next token moved, at
# every place of a text: the Kullback-Leibler divergence, KL(p‖q) = sum of p (log p - log q) over the vocabulary.
#
# ### Exercise 10.5 · how far the answers moved · difficulty 2 · 6 minutes
# `p` and `q` are logits, (rows, vocabulary), and p is the reference. Give the mean of KL(p‖q) over the rows, in nats
# (natural logarithms), as one number.

# %%
import torch

from labkit import check, current, data, finetune, plots, runs
from labkit.export import ROAD, to_onnx
from labkit.export.road import road
from labkit.export.road import table as road_table


def mean_kl(p, q):
    ### BEGIN SOLUTION
    p, q = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
    return float((p.exp() * (p - q)).sum(-1).mean())
    ### END SOLUTION


check("mean_kl", mean_kl)

# %% [markdown]
# Now several recipes on your own model, all scored on *validation* tickets. The first two are the builder's own; from
# the second on, the head keeps 8 bits. "symmetric" has a fixed zero, in the middle of the codes. "nearest" rounds each
# weight to the nearest level. "gptq" (Frantar et al., 2022) reads a few texts first, sets each block's range by the
# error there, rounds column by column, and lets the columns that are left make good what was lost. **Predict** which
# hurts least.

# %%
tone = data.ticket_task("tone")
run = finetune(tone.train, rank=8, steps=current().steps * 2 // 3, out=runs("lab10-tone"), reuse=True)
fp32 = to_onnx(run, "fp32", reuse=True)
names = ["builder, default", "builder, k_quant_last, asymmetric", "nearest, symmetric", "nearest", "gptq",
         "gptq, block 16", "gptq, 8 bits for v, o and down_proj"]
rows = tone.validation.select(range(0, len(tone.validation), 6))
steps = road(run, fp32, rows, tone.labels, {name: ROAD[name] for name in names})
road_table(steps, f"against fp32 on {len(rows)} validation tickets")

# %% [markdown]
# The same as a picture: to the left is smaller, down is closer to fp32. A recipe that lies both below and to the left
# of another is better in both.

# %%
best = min(steps, key=lambda s: s.kl)
figure, axes = plots.new(f"Closest to fp32: {best.name}", "size (% of fp32)", "KL (nats a token)")
for step in steps:
    axes.plot(100 * step.share, step.kl, "o", color=plots.COLOURS["blue"])
    left = step.name.startswith("nearest")  # the builder's dots lie close by
    axes.annotate(step.name, (100 * step.share, step.kl), textcoords="offset points", fontsize=8,
                  xytext=(-5 if left else 5, 4), ha="right" if left else "left")
axes.margins(x=0.35, y=0.12)
axes.set_ylim(bottom=0)
plots.show(figure, alt="; ".join(f"{s.name}: KL {s.kl:.3f} at {s.share:.0%} of fp32" for s in steps))

# %% [markdown]
# Compare pairs of rows: what a zero for each block is worth (symmetric against not), what GPTQ is worth against plain
# rounding, and whether extra bits are better spent on finer blocks or on v, o and down_proj, which make what a layer
# passes on to all later ones. Where the intervals of two accuracies overlap, go by KL. Speeds of a model this small
# jump about: compare them further down, side by side. `to_onnx` takes the last recipe of the table. Does it lose more
# than three points on the *test* tickets?

# %%
from labkit import evaluation, measured

int4 = to_onnx(run, "int4", reuse=True)
held, families = tone.test, evaluation.groups_of(tone.test)
exact, rough = (evaluation.accuracy(held["label"], m.classify(held["prompt"], tone.labels), families)
                for m in (fp32, int4))
share, lost = int4.bytes / fp32.bytes, 100 * (exact.value - rough.value)
print(f"fp32 {exact}\nint4 {rough}\npoints lost (below 0: won): {lost:.1f}; whole folder: {share:.1%} of fp32")
measured.note("10_onnx_export", fp32=exact, int4=rough, int4_share_of_fp32=f"{share:.1%}",
              **{f"KL, {s.name}": s.kl for s in steps})

# %% [markdown]
# ## One ONNX model, many adapters
# Merging is the default road: one task, one folder, no detour left to pay for. The second road keeps the base once, and
# each LoRA as inputs of the graph that can be exchanged between two requests. It needs a second adapter, here of
# another rank and for another task. `None` says that the base is exported as it is:

# %%
from labkit import adapters, current, data, evaluation, finetune, models, runs
from labkit.export import to_onnx

tone, intent = data.ticket_task("tone"), data.ticket_task("intent")
runs_of = {"tone": finetune(tone.train, rank=8, steps=current().steps * 2 // 3, out=runs("lab10-tone"), reuse=True),
           "intent": finetune(intent.train, rank=4, steps=current().steps // 4, out=runs("lab10-intent"), reuse=True)}
many = to_onnx(None, "fp32", adapters=runs_of, reuse=True)
many.info()

# %% [markdown]
# ### Exercise 10.6 · an adapter as inputs of a graph · difficulty 2 · 8 minutes
# Beside each weight matrix of a layer the graph computes x @ a @ b, with a (d_in, rank) and b (rank, d_out). Make both
# from peft's A (r, d_in) and B (d_out, r). Put the scale alpha / r into b, and fill up with zeros where `rank` is more
# than r. Give a and b, two tensors.

# %%
import torch

from labkit import check


def detour_inputs(A, B, alpha, rank):
    ### BEGIN SOLUTION
    r = A.shape[0]
    a, b = torch.zeros(A.shape[1], rank), torch.zeros(rank, B.shape[0])
    a[:, :r], b[:r] = A.T, B.T * (alpha / r)
    return a, b
    ### END SOLUTION


check("detour_inputs", detour_inputs)

# %% [markdown]
# One graph in memory, three requests, three models. `adapter=None` is the base:

# %%
from labkit.tables import table

ticket = tone.test[5]["prompt"]
table(*({"adapter": str(name), "answers": many.generate(ticket, 16, adapter=name)} for name in (None, "tone",
                                                                                              "intent")))

# %% [markdown]
# **Predict**: is each adapter's answer the one that peft gives, and without an adapter that of the base?

# %%
asked = list(tone.test["prompt"])[:24]
peft_says = {name: evaluation.generate(r.model, r.tokenizer, asked, 16) for name, r in runs_of.items()}
peft_says[None] = evaluation.generate(*models.load(), asked, 16)
for name, said in peft_says.items():
    same = sum(a == b for a, b in zip(said, many.generate(asked, 16, adapter=name)))
    print(f"{name or 'no adapter'}: the same on {same} of {len(asked)}")

# %% [markdown]
# All three were asked for a tone, and only one has learnt to give it: the others' words are guesses, and a right one is
# luck.
#
# Olive makes such models too (lab 11), with traps on the way. The file that it writes for a second adapter is refused,
# because peft writes `self_attn` where the graph writes `attn`; some builds stop with a shape error when no adapter is
# active; and only some versions of the packages fit each other. `to_onnx` translates the names. It also leaves the rank
# of the inputs open and stores an empty adapter in the graph, so that it answers without any.
#
# ## Side by side
# PyTorch with the adapter beside it, in fp32 and in bf16; merged; exported in fp32; exported in int4. Prompts of 128
# tokens, answers of 32, the same machine, one after another, all on its processor: a GPU, if there is one, is left out,
# since the office has none. **Predict** which reads fastest, and which writes fastest.

# %%
import copy

from labkit import adapters, current, data, evaluation, finetune, measured, plots, runs
from labkit.export import OnnxModel, to_onnx
from labkit.export.measure import measure_one, speed
from labkit.export.weigh import process_memory
from labkit.tables import table

tone = data.ticket_task("tone")
run = finetune(tone.train, rank=8, steps=current().steps * 2 // 3, out=runs("lab10-tone"), reuse=True)
folders = [to_onnx(run, precision, reuse=True).folder for precision in ("fp32", "int4")]
plain = copy.deepcopy(run.model).cpu()
torch_models = [plain, copy.deepcopy(plain).bfloat16(), adapters.merge(plain)]
measured_models = [*((model, run.tokenizer) for model in torch_models), *map(OnnxModel, folders)]

# %% [markdown]
# Each model's memory is measured in a process of its own, with the libraries that it needs, since that is what the
# machine in the office must have. The notebook's own process has everything in it already. In the table *prefill* is
# reading the prompt, *decode* is writing the answer.

# %%
names = ["PyTorch fp32", "PyTorch bf16", "PyTorch merged", "ONNX fp32", "ONNX int4"]
specs = [{"run": run.folder}, {"run": run.folder, "dtype": "bfloat16"}, {"run": run.folder, "merge": True},
         *({"onnx": folder} for folder in folders)]
memory = process_memory(dict(zip(names, specs)))
some = tone.test.select(range(0, len(tone.test), 12))
speeds = [measure_one(name, model, some, tone.labels, memory[name]) for name, model in zip(names, measured_models)]
table(*speeds, caption=f"prompts of 128 tokens, answers of 32; accuracy on {len(some)} tickets")

# %% [markdown]
# All rows have the same number of threads. That had to be seen to: left alone, onnxruntime-genai took one of two cores,
# said nothing, and wrote the more slowly. `OnnxModel` gives it as many as PyTorch takes.
#
# Look at decode first. For each token every weight is fetched from memory once, so fewer bytes mean less time, if the
# weights are what one waits for. In a small model the overhead of every call counts too. Two pairs of rows tell
# them apart: PyTorch merged against ONNX fp32, the same weights by another runtime, and ONNX fp32 against int4, the
# same runtime with fewer bytes. Memory: most of a small model's process is its libraries. Prefill is another matter:
# there each weight serves many tokens, so arithmetic counts. Codes of four bits must be unpacked first, but are then
# multiplied as whole numbers; which counts for more differs by machine. bf16 can be slower than fp32 in both columns:
# where the processor has no arithmetic for it, or where the model is so small that what bf16 adds to each call (every
# norm converts to fp32 and back, for one) costs more than its halved bytes save. The accuracy is of few tickets here,
# each of them two points: for what int4 loses, take the figure of all test tickets, above.

# %%
gain = speeds[-1]["decode, tokens/s"] / speeds[0]["decode, tokens/s"]
figure, axes = plots.new(f"int4 writes {gain:.1f} times as fast as PyTorch with its adapter", "model",
                         "decode (tokens/s)")
axes.bar([row[""] for row in speeds], [row["decode, tokens/s"] for row in speeds], color=plots.COLOURS["blue"],
         width=0.6)
axes.tick_params(axis="x", labelsize=8)
measured.note("10_onnx_export", int4_decode_over_PyTorch_fp32=gain, **{
    f"{row['']}, {figure}": row[figure] for row in speeds
    for figure in ("decode, tokens/s", "process, MB", "size, MB")})
plots.show(figure, alt="; ".join(f"{row['']}: {row['decode, tokens/s']} tokens/s" for row in speeds))

# %% [markdown]
# How long until the first token comes, by the length of the prompt and by how many prompts are read at once (the
# batch)? **Predict** the shape of the curve.

# %%
int4 = OnnxModel(folders[1])
seen = {batch: [(n, 1000 * speed(int4, n, 2, batch).first) for n in (16, 64, 128, 256)]
        for batch in (1, 2, 4)}
times = seen[1][-1][1] / seen[1][0][1]
figure, axes = plots.new(f"16 times the prompt, one at a time: {times:.0f} times the wait",
                         "tokens of the prompt", "time to the first token (ms)")
for (batch, line), colour, mark in zip(seen.items(), ("blue", "green", "orange"), "os^"):
    axes.plot(*zip(*line), marker=mark, color=plots.COLOURS[colour], label=f"batch {batch}")
axes.legend(frameon=False)
axes.set_ylim(bottom=0)
plots.show(figure, alt="; ".join(f"batch {b}: " + ", ".join(f"{n} tokens {ms:.0f} ms" for n, ms in c)
                                 for b, c in seen.items()))

# %% [markdown]
# On a quiet machine the lines are nearly straight, above a fixed cost of every call that a single short prompt feels
# most: by that alone, 16 times the prompt would be less than 16 times the wait. Where a line keeps bending upwards,
# attention over a long prompt begins to count; where one jumps and flattens again, or two meet or cross, something
# else was probably running.
#
# ## Serve it
# `labkit serve FOLDER` answers as OpenAI's API does, on this machine only unless told otherwise: a client that knows
# that API can talk to it, and each adapter is a model's name. Here the server runs inside the notebook and stops at the
# end of the cell.

# %%
import json
import urllib.request

from labkit import current, data, finetune, runs
from labkit.export import to_onnx
from labkit.serving import Limits, running

tone, intent = data.ticket_task("tone"), data.ticket_task("intent")
runs_of = {"tone": finetune(tone.train, rank=8, steps=current().steps * 2 // 3, out=runs("lab10-tone"), reuse=True),
           "intent": finetune(intent.train, rank=4, steps=current().steps // 4, out=runs("lab10-intent"), reuse=True)}
many = to_onnx(None, "fp32", adapters=runs_of, reuse=True)
with running(many) as url, urllib.request.urlopen(f"{url}/models") as answer:
    print([model["id"] for model in json.load(answer)["data"]])

# %% [markdown]
# An answer can come whole, or piece by piece as *server-sent events*: lines that begin with `data:`, each with some
# JSON, and `[DONE]` at the end. Here are the `delta` of each line, the new piece of the answer, and the last line:

# %%
def post(url, **body):
    head = {"Content-Type": "application/json"}
    return urllib.request.urlopen(urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), head))


question = [{"role": "user", "content": tone.test[0]["prompt"]}]
with running(many) as url, post(url, model="tone", messages=question, stream=True, max_tokens=8) as answer:
    lines = [line.decode().strip() for line in answer if line.strip()]
deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line != "data: [DONE]"]
print(*deltas, lines[-1], sep="\n")

# %% [markdown]
# Now more clients than it takes: 12 at once, where 1 is answered and 2 may wait. What should happen to the rest? A
# server without limits takes them all, slows down for everybody, and may run out of memory. This one says *come back
# later*. The cell counts the HTTP codes of the replies:

# %%
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError


long = [{"role": "user", "content": data.PROMPTS["summary"].replace("{text}", tone.test[0]["text"])}]


def status(url):
    try:
        with post(url, model="base", messages=long, max_tokens=200) as answer:
            return answer.status
    except HTTPError as error:
        return error.code


with running(many, Limits(running=1, waiting=2)) as url, ThreadPoolExecutor(12) as pool:
    codes = list(pool.map(status, [url] * 12))
print({code: codes.count(code) for code in sorted(set(codes))})

# %% [markdown]
# 200 is an answer; 429 means *too many requests*, with a header that says when to try again, and OpenAI's own client
# does so by itself. Fewer than nine may be sent away, for whoever comes next takes a place that has become free. The
# same model in a window: choose an adapter, ask, and watch the answer come.

# %%
from labkit.widgets.serve import AdapterChat

AdapterChat(many, tone.test[5]["prompt"], tokens=24)

# %% [markdown]
# ## The parity ledger
# One fixed set of prompts through every stage, from the base to what is served. Each row is compared with the one
# before it: whether the same tokens go in, how far the labels' log-likelihoods moved at most, how many answers stayed.
# Then come its score, its size and its speed. **Predict** in which row something is lost.

# %%
from labkit import adapters, current, data, finetune, models, runs
from labkit.export import to_onnx
from labkit.ledger import Served, follow
from labkit.serving import running

tone = data.ticket_task("tone")
run = finetune(tone.train, rank=8, steps=current().steps * 2 // 3, out=runs("lab10-tone"), reuse=True)
fp32, int4 = (to_onnx(run, precision, reuse=True) for precision in ("fp32", "int4"))
some = tone.test.select(range(0, len(tone.test), 3))  # of 48 tickets, two would be more than 3 points
with running(int4) as url:
    stages = {"base": models.load(), "adapter": run, "merged": (adapters.merge(run.model), run.tokenizer),
              "ONNX fp32": fp32, "ONNX int4": int4, "served": Served(url, "base", int4.bytes)}
    ledger = follow(stages, some, tone.labels)
ledger.table()

# %% [markdown]
# The large step is the first, and it is intended: that is the training. After it only int4 should move anything by more
# than rounding, and what is served must answer as the int4 model does. The speeds are of shorter texts than side by
# side, and jump about; where there is a GPU, the first three stages run on it. Written answers are compared on the
# first 16 prompts, the score counts all of them: so a ticket can be lost while every answer is as before. If a stage
# broke something, the ledger says so by itself:

# %%
print(*ledger.drifts() or ["nothing drifted"], sep="\n")

# %% [markdown]
# ## What it says to bad input
# A prompt without words, one that is longer than the context, an adapter and a folder that do not exist: each stops
# with a sentence, before anything is computed.

# %%
from labkit import LabError, current, data, finetune, runs
from labkit.export import OnnxModel, to_onnx

run = finetune(data.ticket_task("tone").train, rank=8, steps=current().steps * 2 // 3, out=runs("lab10-tone"),
               reuse=True)
fp32 = to_onnx(run, "fp32", reuse=True)


def said(call):
    try:
        return call()
    except LabError as error:
        return error


print(said(lambda: fp32.generate("  ")), said(lambda: fp32.generate("word " * 9000)),
      said(lambda: fp32.generate("Hi", adapter="tone")), said(lambda: OnnxModel("elsewhere")), sep="\n")

# %% [markdown]
# ## On a real model
# With `LABKIT_PROFILE=small` this very notebook runs on SmolLM2, 135 million parameters. What it measured, beside what
# you have just seen:

# %%
from labkit import measured

measured.beside("10_onnx_export")

# %% [markdown]
# ## The same by command line
# `labkit serve runs/tiny/onnx-fp32-adapters` is the server of this lab (`tiny` is the profile), for `curl`, `openai`'s
# client, or any program in which you can set the API's address. Lab 11 exports with Olive: `olive capture-onnx-graph`
# and `olive optimize`.
#
# ## What you can do now
# You can export a model and prove token by token that it is the same, choose a 4-bit recipe by what it costs, switch
# many adapters over one base, and serve them within limits.
#
# **Quiz.** Answer each in your head, then open it.
#
# <details><summary>1. The fp32 export answers 30 of 200 prompts differently from PyTorch. Where do you look
# first?</summary>
# At the token ids that went in. Rounding moves the last digits of a logit and flips an answer only where two tokens are
# nearly tied, which is rare; another template, a second start token or a lost newline moves everything.
# </details>
#
# <details><summary>2. A code has 4 of 32 bits, yet the int4 folder is more than an eighth of the fp32 one. Where is the
# rest?</summary>
# In a scale and a zero for each block, in the matrices that keep 8 bits (embedding and head among them), and in what is
# not quantised at all: norms, the tables of positions, the tokenizer, the graph. The smaller the model, the larger the
# share of those.
# </details>
#
# <details><summary>3. Ten tasks. Ten merged models, or one base with ten adapters?</summary>
# Merged, if each has many requests of its own: nothing is paid for the detour, and each can be quantised for its task.
# One base, if memory is short or requests are few and mixed: each adapter adds a few per cent, and switching loads
# no model.
# </details>
#
# **Next:** lab 11 does labs 03, 04, 05 and this one by Microsoft's `olive` command line. How far you are:

# %%
from labkit import progress

progress("10")
