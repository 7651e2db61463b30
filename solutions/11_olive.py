# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 11 · The Olive way: the same by command line
# **You will** fine-tune, quantise, export and serve with Microsoft's `olive` command, write a workflow file of your
# own, and know which options of older tutorials no longer work.
#
# *60 minutes. You need: labs 03 and 04, and to have met ONNX (lab 10). No GPU, no network, no account.*
#
# Labs 03, 04, 05 and 10 were Python. Here every step is a command, and at the end one ONNX model switches between a
# classifier and a writer while it runs. What do the commands take off your hands, and what do they decide for you
# without a word?

# %%
from labkit import olive
from labkit.tables import table

table(olive.installed(), caption="what this lab runs on")

# %% [markdown]
# If that cell says that something is not installed, it also says how to get it. No other lab needs `olive-ai`.
#
# ## A folder to work in
# `Desk` is a folder with the base model in it, under the name `base`. `desk.run("...")` runs what you would type after
# `olive` in a terminal in that folder. Three things are added: telemetry is off, the log is detailed (you see it
# without the libraries' warnings), and Olive's cache of earlier runs is cleared first, since it knows your data by the
# file's name and not by what is in it.

# %%
from labkit import data, olive, runs

desk = olive.Desk(runs("lab11"))
train = data.ticket_task("tone").train.select(range(960))
desk.write("tone.jsonl", ({"phrase": row["text"], "tone": row["label"], "prompt": row["prompt"],
                           "completion": row["completion"]} for row in train))
print(train[2]["text"], "\n->", train[2]["label"])

# %% [markdown]
# Each row of the file has a phrase and its tone, as in Olive's own tutorials, and beside them the prompt and the answer
# that labkit makes of them. They are 960 of 5,568: Olive prepares all rows of a file before every training, also those
# that its few steps will never come to. Olive trains on text, so first a row must become one text.
#
# ### Exercise 11.1 · the text that both sides see · difficulty 1 · 6 minutes
# Give the template of a row as one string, with `{phrase}` and `{tone}` in it: what the model sees when it is asked,
# then the answer, then the end of turn, `<|im_end|>`. `data.PROMPTS["tone"]` is the question, with `{text}` where the
# ticket goes; `data.render(tokenizer, question)` puts it into the chat format, as the next cell shows.

# %%
from labkit import check, data, hint, models, solution

tokenizer = models.tokenizer("tiny")
print(repr(data.render(tokenizer, "hello")))

# %%
template = ...
### BEGIN SOLUTION
template = data.render(tokenizer, data.PROMPTS["tone"].replace("{text}", "{phrase}")) + "{tone}<|im_end|>"
### END SOLUTION

check("text_template", template)

# %% [markdown]
# ## One command, one adapter
# `olive finetune` is peft and the Trainer behind a command. What Olive has no option for, such as the learning rate,
# goes by transformers' name for it. Without `--torch_dtype float32` it would train in bfloat16, without `--max_seq_len`
# on sequences of 1,024 tokens, and without `--max_samples` on no more than 256 of them.
#
# **Predict** what it leaves behind, and how large that is beside the base.

# %%
from labkit import current, olive, runs

desk = olive.Desk(runs("lab11"))
made = desk.run(f"""finetune --method lora -m base -d json --data_files tone.jsonl
    --text_template {olive.one_line(olive.text_template("tone"))} --max_seq_len 128 --max_samples 2000
    --torch_dtype float32 --lora_r 8 --lora_alpha 16 --target_modules {",".join(olive.LINEAR)}
    --max_steps 30 --per_device_train_batch_size 8 --learning_rate {current().learning_rate}
    --gradient_checkpointing False --logging_steps 10 -o tone""")
made

# %% [markdown]
# An adapter as peft saves it (`adapter_model.safetensors`), small beside the base, and a copy of the base that it
# belongs to. Anything that reads peft's adapters reads this one, labkit too. (The log names `gpu-cuda` even
# where there is no GPU; the training runs on the CPU then.) How good is it, asked as in lab 03?

# %%
from labkit import adapters, data, evaluation, models
from labkit.tables import table

task, tokenizer = data.ticket_task("tone"), models.tokenizer()
held = task.test.select(range(0, len(task.test), 2))  # every other one, to be quick


def score(model):
    said = evaluation.classify(model, tokenizer, held["prompt"], task.labels)
    return evaluation.accuracy(held["label"], said, evaluation.groups_of(held))


tuned = adapters.load(models.load()[0], desk.path("tone/adapter"))
found = {"base": score(models.load()[0]), "olive finetune": score(tuned)}
table(*({"": name, "accuracy": str(accuracy)} for name, accuracy in found.items()), caption="tickets never seen")

# %% [markdown]
# Remember both figures. A later section trains on the same rows again, and asks what this command did with them.
#
# ## What it trained on
# Olive joins the texts of all rows, with two line breaks between them, and chops the result into pieces of
# `--max_seq_len` tokens. A piece starts and ends where it happens to.
#
# ### Exercise 11.2 · join and chop · difficulty 2 · 8 minutes
# `rows` is a list of lists of token ids, `joiner` a list of token ids. Return the list of pieces: all rows in one list
# with `joiner` behind each, cut into pieces of `length` tokens. What does not fill a piece is dropped; if the cut comes
# out even, Olive leaves out the last piece as well.

# %%
from labkit import check


def join_and_chop(rows, joiner, length):
    ### BEGIN SOLUTION
    joined = [token for row in rows for token in [*row, *joiner]]
    return [joined[start : start + length] for start in range(0, len(joined) - length, length)]
    ### END SOLUTION


check("join_and_chop", join_and_chop)

# %% [markdown]
# This is the second piece that such a cut gives. Where does it begin?

# %%
from labkit import data, models, olive
from labkit.scratch import onnx_inputs

tokenizer, template = models.tokenizer("tiny"), olive.text_template("tone", "tiny")
train = data.ticket_task("tone").train.select(range(960))
texts = [template.format(phrase=row["text"], tone=row["label"]) for row in train]
rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
pieces = onnx_inputs.join_and_chop(rows, tokenizer("\n\n", add_special_tokens=False)["input_ids"], 128)
print(tokenizer.decode(pieces[1]))

# %% [markdown]
# In the middle of a row. And every token counts in the loss: the question, the ticket, the tone. **Predict** what share
# of the tokens belongs to a tone and its end of turn, the only ones that labkit counts.

# %%
from labkit.tables import table

answers = tokenizer(list(train["completion"]), add_special_tokens=False)["input_ids"]
counted = sum(len(answer) + 1 for answer in answers)
table(rows=len(rows), pieces=len(pieces), tokens=sum(map(len, rows)), of_an_answer=counted,
      share=f"{counted / sum(map(len, rows)):.1%}")

# %% [markdown]
# Most of that loss is about how tickets sound. That is what you want for domain adaptation; for a classifier you would
# rather count the answers alone. The scores further down show whether it matters here. The command has no option to
# mask the prompt; the workflow file behind it can do that.
#
# ## Behind every command is a workflow file
# `--dry_run` runs nothing and writes down what would be run. Read three parts of it: where the rows come from, what is
# done to them, and the one *pass* (a step of the work). Which settings in them did nobody type?

# %%
import json

from labkit import current, olive, runs

desk = olive.Desk(runs("lab11"))
desk.run("""finetune -m base -d json --data_files tone.jsonl --text_field phrase --torch_dtype float32 --lora_r 8
    --max_steps 30 --save_config_file --dry_run -o planned""")
config = desk.read("planned/config.json")
for part in (config["data_configs"][0]["load_dataset_config"], config["data_configs"][0]["pre_process_data_config"],
             config["passes"]):
    print(json.dumps(part, indent=1))

# %% [markdown]
# The command chose `max_seq_len`, `max_samples` and `alpha`, among others, without a word. `olive run --config FILE`
# runs such a file, and a file can say what the command cannot: `user_script` names Python of your own. The function
# below takes the place of Olive's joining: one ticket a row, the prompt masked, by labkit's `encode`.

# %%
import inspect
from pathlib import Path

script = Path(olive.SCRIPT).read_text(encoding="utf-8")
print(script[script.index("@Registry") : script.index("@Evaluators")].strip())

# %% [markdown]
# `olive.masked_workflow` gives a workflow as a dict, with the same settings as `labkit.finetune`: rank, targets,
# schedule, warm-up, seed. It even starts from the same A. **Predict**: how far apart will two trainings end that share
# data and settings, one by labkit and one by Olive?

# %%
STEPS, ROWS = 40, min(8, current().batch_size)  # rows a step
workflow = olive.masked_workflow("tone.jsonl", "masked", steps=STEPS, batch_size=ROWS)
print(json.dumps(workflow["passes"]["lora"]["training_args"]))
desk.write("masked.json", workflow)
desk.run("run --config masked.json")

# %%
from labkit import adapters, data, evaluation, finetune, models, runs
from labkit.tables import table

task, tokenizer = data.ticket_task("tone"), models.tokenizer()
held = task.test.select(range(0, len(task.test), 2))
run = finetune(task.train.select(range(960)), rank=8, steps=STEPS, batch_size=ROWS, bf16=False,
               out=runs("lab11-labkit"))
tuned = {"labkit": run.model}
for name, folder in (("olive run, same rows and mask", "masked"), ("olive finetune, joined and chopped", "tone")):
    tuned[name] = adapters.load(models.load()[0], desk.path(f"{folder}/adapter"))
said = {name: evaluation.classify(model, tokenizer, held["prompt"], task.labels) for name, model in tuned.items()}
scores = {name: evaluation.accuracy(held["label"], labels, evaluation.groups_of(held)) for name, labels in said.items()}
table(*({"": name, "accuracy": str(score)} for name, score in scores.items()))

# %%
first, second, third = scores.values()
ours, theirs = (adapters.matrices(tuned[name]) for name in list(tuned)[:2])
gap = max(float((a - b).abs().max()) for k in ours for a, b in zip(ours[k], theirs[k], strict=True))
print(f"largest difference of a weight, labkit and olive run: {gap:.0e}")
print(f"points between them: {100 * abs(first.value - second.value):.1f}; "
      f"within 3 points: {abs(first.value - second.value) <= 0.03}")
print(f"points between labkit and olive finetune: {100 * (first.value - third.value):+.1f}")

# %% [markdown]
# The first two are one training under two names: the same rows in the same order, the same start, the same schedule,
# and transformers' Trainer behind both. The third has other rows (pieces of the joined text), another loss (all
# tokens), another schedule (a constant rate), dropout and fewer steps. Where the intervals overlap, the tickets do not
# tell them apart, whichever is ahead; where they do not, it is not the tool that makes the difference, it is what the
# tool was told.
#
# The next cell notes these figures; at the end they stand beside those of a real model, if any were recorded.

# %%
from labkit import measured

measured.note("11_olive", steps=run.settings["steps"], labkit_seconds=run.seconds,
              **{name.replace(" ", "_").replace(",", ""): score for name, score in scores.items()})

# %% [markdown]
# ## Four bits by one word
# With `--method qlora` the base is in NF4 while the adapter trains (lab 04), and Olive chooses the target modules
# itself: every matrix that it quantised. What lies in the folder afterwards?

# %%
from labkit import olive, runs
from labkit.tables import table

desk = olive.Desk(runs("lab11"))
made = desk.run("""finetune --method qlora -m base -d json --data_files tone.jsonl --text_field phrase --max_seq_len 128
    --max_samples 200 --torch_dtype float32 --lora_r 8 --lora_alpha 16 --max_steps 4 --per_device_train_batch_size 4
    --gradient_checkpointing False -o four_bits""")
made

# %%
config = desk.read("four_bits/adapter/adapter_config.json")
table(r=config["r"], alpha=config["lora_alpha"], dropout=config["lora_dropout"],
      target_modules=", ".join(sorted(config["target_modules"])))

# %% [markdown]
# Again an adapter, and no base in four bits: that one existed only during the training. Four steps teach next to
# nothing; they show that the command runs, on a CPU too. Lab 04 measures how much memory it saves, and what it costs.
#
# ### Exercise 11.3 · a command for a job · difficulty 2 · 8 minutes
# Write the command, as one string or as a list of words. *The job:* a LoRA of rank 16 and alpha 32 beside `q_proj` and
# `v_proj` of the model in the folder `base`; the data set is `json`, its file `tone.jsonl`, the text is the column
# `phrase`; pieces of 128 tokens; 60 steps, 8 pieces each, at a learning rate of 1e-3; in float32; into the folder
# `small`. `check` asks Olive's own parser; nothing is trained.

# %%
from labkit import check

command = ...
### BEGIN SOLUTION
command = """finetune --method lora -m base -d json --data_files tone.jsonl --text_field phrase --max_seq_len 128
    --torch_dtype float32 --lora_r 16 --lora_alpha 32 --target_modules q_proj,v_proj --max_steps 60
    --per_device_train_batch_size 8 --learning_rate 1e-3 -o small"""
### END SOLUTION

check("finetune_command", command)

# %% [markdown]
# ## From rows to ONNX in one file
# A workflow's passes run one after another, so one file can train and export. In the file below each row stays a row of
# its own (`"strategy": "line-by-line"`), which the command has no option for either.
#
# ### Exercise 11.4 · the passes of a workflow · difficulty 2 · 10 minutes
# Give the dict that stands under `passes`: a name of your choice for each pass, and under it a dict with its `type` and
# settings. First `LoRA`: r 16, alpha 32, target modules `q_proj` and `v_proj`, `torch_dtype` float32, the data
# `tickets`, 20 steps at a learning rate of 1e-3; the dry run above shows the keys. Then `ModelBuilder`, with
# `precision` fp32.

# %%
from labkit import check

passes = ...
### BEGIN SOLUTION
passes = {
    "lora": {"type": "LoRA", "r": 16, "alpha": 32, "target_modules": ["q_proj", "v_proj"], "torch_dtype": "float32",
             "train_data_config": "tickets", "training_args": {"max_steps": 20, "learning_rate": 1e-3}},
    "onnx": {"type": "ModelBuilder", "precision": "fp32"},
}
### END SOLUTION

check("workflow_passes", passes)

# %% [markdown]
# The whole file: a model, data with a template, the passes (with 8 steps, to be quick). It is written, then run.

# %%
from labkit import olive, runs
from labkit.training import capped

desk = olive.Desk(runs("lab11"))
desk.write("whole.json", {
    "input_model": {"type": "HfModel", "model_path": "base"},
    "data_configs": [{
        "name": "tickets", "type": "HuggingfaceContainer",
        "load_dataset_config": {"data_name": "json", "data_files": ["tone.jsonl"], "split": "train"},
        "pre_process_data_config": {"text_template": olive.text_template("tone"), "strategy": "line-by-line",
                                    "max_seq_len": 160, "max_samples": 400, "add_special_tokens": False}}],
    "passes": {
        "lora": {"type": "LoRA", "r": 16, "alpha": 32, "target_modules": ["q_proj", "v_proj"],
                 "torch_dtype": "float32", "train_data_config": "tickets",
                 "training_args": {"max_steps": capped(8), "learning_rate": 1e-3, "gradient_checkpointing": False}},
        "onnx": {"type": "ModelBuilder", "precision": "fp32"}},
    "output_dir": "whole", "no_artifacts": True})
desk.run("run --config whole.json")

# %% [markdown]
# One command went from rows to a folder that runs without PyTorch (lab 10 says what each file in it is for). The
# adapter's weights are in the graph beside the base's, not merged into them; a later section takes such an adapter out.
#
# ## A search in the same file
# Two learning rates and two ranks are four trainings. A pass may be a list of passes, of which a search takes one (here
# a pass for each rate), and a setting of a pass may be a list of values (here the ranks); `search_strategy` says in
# what order they are tried. You have to say what "better" means: the evaluator is a class in the same script, and it
# gives the accuracy on *validation* tickets. (A metric of type `custom` would need only a function, but Olive 0.13
# fails at it.)

# %%
from labkit import current, olive, runs

desk = olive.Desk(runs("lab11"))
search = olive.masked_workflow("tone.jsonl", "searched", steps=8)
lora = search["passes"]["lora"]
search["passes"]["lora"] = [lora | {"r": [4, 16], "alpha": 16, "training_args": lora["training_args"]
                                    | {"learning_rate": current().learning_rate * factor}} for factor in (0.25, 2)]
search["evaluators"] = {"tickets": {"type": "TicketEvaluator", "user_script": olive.SCRIPT, "metrics": [{
    "name": "tone", "type": "accuracy",
    "sub_types": [{"name": "accuracy_score", "priority": 1, "higher_is_better": True}]}]}}
search |= {"evaluator": "tickets", "evaluate_input_model": False, "no_artifacts": False,
           "search_strategy": {"execution_order": "joint", "sampler": "random", "max_samples": 4, "seed": 0}}
desk.write("search.json", search)
desk.run("run --config search.json")

# %% [markdown]
# What was tried, best first, from the `footprint.json` that Olive leaves. **Predict** which matters more here, the rate
# or the rank.

# %%
olive.trials(desk.path("searched/footprint.json"))

# %% [markdown]
# The search does not say which of the four adapters it leaves in the folder: train the winner again. So short a trial
# shows a rate that is very far off, and no more: the evaluator asks 96 tickets, so one of them is about a point, and
# rows that lie some points apart, by the rate or by the rank, are not told apart by one trial each. Nor does it say
# which would be ahead after more steps. Lab 09 measures how much of such a difference is luck. Alpha is 16 in all
# four, so a higher rank has a smaller scale (lab 03). Olive also has the sampler `tpe`, which is Optuna's; over a list
# of passes it asked for the same points again and again when we tried it (0.13), and never ended. Beyond a small grid,
# take Optuna itself (lab 09).
#
# ## To ONNX: the old command and the new
# `auto-opt` is what older tutorials use, and it says at every start that `optimize` has taken its place. No adapter is
# named here (`-a`), so both export the base: one in int4, one in fp32.

# %%
from labkit import olive, runs
from labkit.tables import table

desk = olive.Desk(runs("lab11"))
old = desk.run("auto-opt -m base --use_model_builder --use_ort_genai --precision int4 -o auto_opt")
new = desk.run("optimize -m base --precision fp32 -o optimized")
table(*({"command": made.command.split(" -o")[0], "seconds": round(made.seconds), "bytes": made.bytes}
        for made in (old, new)))

# %% [markdown]
# The int4 model is smaller, but not by the eightfold that four bits in place of 32 promise: in so small a model the
# embedding, which stays in full precision, is a large part. What int4 does to the answers is lab 10's subject.
#
# ## Two adapters in one ONNX model
# The classifier is trained. Now for the writer, which sums up a ticket in a line: the same workflow with other rows.

# %%
from labkit import current, data, olive, runs

desk = olive.Desk(runs("lab11"))
train, rows = data.ticket_task("summary").train.select(range(960)), min(8, current().batch_size)
desk.write("summary.jsonl", ({"prompt": row["prompt"], "completion": row["completion"]} for row in train))
desk.write("summary.json", olive.masked_workflow("summary.jsonl", "summary", steps=30, batch_size=rows))
desk.run("run --config summary.json")

# %% [markdown]
# `capture-onnx-graph` makes a graph with the classifier's adapter in it, as nodes beside each matrix.
# `generate-adapter` takes its weights out: they become inputs of the graph, and a file of their own.

# %%
desk.run("""capture-onnx-graph -m base -a masked/adapter --use_model_builder --use_ort_genai --precision fp32
    -o captured""")

# %%
desk.run("generate-adapter -m captured -o multi")

# %% [markdown]
# The second adapter needs no second graph: `convert-adapters` is there to turn peft's file into one for the graph. By
# hand, that is three small changes.
#
# ### Exercise 11.5 · an adapter as inputs of a graph · difficulty 2 · 10 minutes
# `weights` is a dict of numpy arrays, A (r, d_in) and B (d_out, r), by peft's names, such as
# `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`. The graph multiplies x @ A @ B, wants `alpha / r` in
# B already, and calls the A of this example `model.layers.0.attn.q_proj.lora_A.MatMul.weight`. Return the dict that
# fits the graph.

# %%
from labkit import check


def adapter_inputs(weights, r, alpha):
    ### BEGIN SOLUTION
    def named(name):
        name = name.removeprefix("base_model.model.").replace("self_attn", "attn")
        return name.replace(".weight", ".MatMul.weight")

    return {named(name): value.T * (alpha / r if "lora_B" in name else 1) for name, value in weights.items()}
    ### END SOLUTION


check("adapter_inputs", adapter_inputs)

# %% [markdown]
# Now Olive's command for the same, and what onnxruntime-genai, which runs the graph, says to the file that it writes.
# `adopt` copies the graph and the adapters into a folder and opens it. **Predict**: does the file fit?

# %%
from labkit import LabError, olive, runs
from labkit.export.adopt import adopt

desk = olive.Desk(runs("lab11"))
desk.run("convert-adapters -a summary/adapter -o converted/summary.onnx_adapter")
first = desk.path("multi/adapter_weights.onnx_adapter")
model = adopt(desk.path("multi"), desk.path("base"), desk.folder / "served",
              {"tone": first, "summary": desk.path("converted/summary.onnx_adapter")})
try:
    model.generate("hello", 4, adapter="summary")
except Exception as error:
    print(f"{type(error).__name__}: {str(error)[:200]}")

# %% [markdown]
# It does not: `convert-adapters` keeps peft's names but for the prefix, while the graph has the model builder's names.
# Compare a name of each, then rename, and hold the numbers beside those made by hand.

# %%
import numpy as np
from safetensors.numpy import load_file

from labkit.scratch import onnx_inputs

converted = olive.read_adapter(desk.path("converted/summary.onnx_adapter"))
for names in (converted, olive.read_adapter(first)):
    print(next(name for name in names if "3." in name and "v_proj.lora_A" in name))
renamed = {onnx_inputs.input_name(name): value for name, value in converted.items()}
by_hand = onnx_inputs.to_inputs(load_file(desk.path("summary/adapter/adapter_model.safetensors")), r=8, alpha=16)
gap = max(float(np.abs(by_hand[name] - renamed[name]).max()) for name in by_hand)
print(f"largest difference between Olive's file and the one by hand: {gap:.0e}")

# %% [markdown]
# By hand and by Olive it is the same adapter. With no adapter active, the inputs fall back to a default of rank 0, and
# then x A B adds nothing. But a server that chooses an adapter by name wants a name for the base too.
#
# ### Exercise 11.6 · an adapter that is the base · difficulty 1 · 4 minutes
# `weights` is a dict of an adapter's arrays by the names of the graph's inputs. Return a dict of the same names and
# shapes, with which the graph answers as the base alone.

# %%
def zero_adapter(weights):
    ### BEGIN SOLUTION
    return {name: np.zeros_like(value) for name, value in weights.items()}
    ### END SOLUTION


check("zero_adapter", zero_adapter)

# %% [markdown]
# Three files beside one model, in a folder that lab 10's code can serve. Each adapter gets the same two questions about
# one ticket, its tone and then its summary, and nothing is loaded again in between:

# %%
from labkit import data, olive, runs
from labkit.export.adopt import adopt
from labkit.scratch import onnx_inputs

desk = olive.Desk(runs("lab11"))
classifier = olive.read_adapter(desk.path("multi/adapter_weights.onnx_adapter"))
converted = olive.read_adapter(desk.path("converted/summary.onnx_adapter"))
olive.write_adapter({onnx_inputs.input_name(n): v for n, v in converted.items()}, desk.folder / "summary.onnx_adapter")
olive.write_adapter(onnx_inputs.zeros(classifier), desk.folder / "zero.onnx_adapter")
model = adopt(desk.path("multi"), desk.path("base"), desk.folder / "served", {
    "tone": desk.path("multi/adapter_weights.onnx_adapter"), "summary": desk.path("summary.onnx_adapter"),
    "base": desk.path("zero.onnx_adapter")})
ticket = data.ticket_task("tone").test[0]
asked = {"tone": ticket["prompt"], "summary": data.PROMPTS["summary"].replace("{text}", ticket["text"])}
for name in model.adapters:
    print(f"{name:8s}", *(repr(model.generate(prompt, 24, adapter=name)) for prompt in asked.values()), sep="\n   ")

# %% [markdown]
# Look at the form first: after so few steps an adapter's answer to its own question need not make sense yet. Then see
# what each makes of the other's question, and whether `base` differs from both. Do they answer as they did in PyTorch?
# Letter by letter, on tickets that neither has seen:

# %%
from labkit import adapters, evaluation, models
from labkit.tables import table

base, tokenizer = models.load()
rows = []
for name, folder in (("tone", "masked"), ("summary", "summary"), ("base", None)):
    held = data.spread(data.ticket_task("tone" if name == "base" else name).test, 12)
    torch_model = adapters.load(models.load()[0], desk.path(f"{folder}/adapter")) if folder else base
    wanted = evaluation.generate(torch_model, tokenizer, held["prompt"], max_new_tokens=24)
    said = model.generate(list(held["prompt"]), 24, adapter=name)
    rows.append({"adapter": name, "tickets": len(held), "same text as PyTorch": sum(map(str.__eq__, wanted, said))})
none = model.generate(list(held["prompt"]), 24)  # no adapter at all
rows.append({"adapter": "(none)", "tickets": len(held), "same text as PyTorch": sum(map(str.__eq__, wanted, none))})
table(*rows)

# %% [markdown]
# And this is what you hand on: the graph with the base in it, once, and a file for every task.

# %%
files = sorted(model.folder.rglob("*"), key=lambda file: -file.stat().st_size)
table(*({"file": file.name, "bytes": file.stat().st_size} for file in files[:5] if file.is_file()))

# %% [markdown]
# ## What older tutorials say
# Olive has changed much in few releases, and old pages stay online. Every row below was tried: what a page says, what
# Olive answers, what works today. `python data/try_olive.py` tries them again, on your versions.

# %%
from labkit import olive

olive.tried()

# %% [markdown]
# `finetune` hands options that it does not know to transformers, so an old name is refused there, not by Olive. And an
# extra of the package, as in `pip install olive-ai[gpu]`, is no promise of a feature: this is what each would install.

# %%
olive.tried_extras()

# %% [markdown]
# ### Exercise 11.7 · mend an old command · difficulty 2 · 8 minutes
# An older page has `olive generate-adapter --base_model_path base --adapter_paths tone/adapter --use_ort_genai`. Give a
# list of the two commands, as strings, that do the same today, in fp32: from `base` and `tone/adapter` into `captured`,
# and from there into `multi`.

# %%
from labkit import check

commands = ...
### BEGIN SOLUTION
commands = [
    "capture-onnx-graph -m base -a tone/adapter --use_model_builder --use_ort_genai --precision fp32 -o captured",
    "generate-adapter -m captured -o multi",
]
### END SOLUTION

check("mended_commands", commands)

# %% [markdown]
# ## Other hardware, and the cloud
# `--provider` names what will run the model, `--device` the kind of chip. None of these is run: `--dry_run` writes down
# what *would* be done for each target, on a machine that has it. What this lab really runs needs only a CPU.

# %%
from labkit import olive, runs
from labkit.tables import table

desk, plans = olive.Desk(runs("lab11")), []
targets = {"CPU": "optimize --provider CPUExecutionProvider --device cpu",
           "GPU (NVIDIA)": "optimize --provider CUDAExecutionProvider --device gpu",
           "GPU (DirectML)": "auto-opt --use_model_builder --provider DmlExecutionProvider --device gpu",
           "NPU (Qualcomm)": "optimize --provider QNNExecutionProvider --device npu",
           "NPU (AMD)": "optimize --provider VitisAIExecutionProvider --device npu",
           "NPU (Intel)": "optimize --provider OpenVINOExecutionProvider --device npu"}
for i, (name, command) in enumerate(targets.items()):
    desk.run(f"{command} -m base --precision int4 --save_config_file --dry_run -o plans/{i}")
    plans.append({"target": name, "command": command} | olive.planned(desk.read(f"plans/{i}/config.json")))
table(*plans)

# %% [markdown]
# `optimize` no longer knows DirectML, `auto-opt` still does. The chips differ most in what is done around the export:
# the NPUs' rows (NPU: a chip for neural networks) have passes that fix the shapes beforehand (StaticLLM) or rotate
# outliers away before quantising (QuaRot), or OpenVINO's own. In a workflow file the same choice is called a system,
# and the passes run for its accelerator:

# %%
import json

print(json.dumps({key: desk.read("plans/1/config.json")[key] for key in ("systems", "target")}, indent=1))

# %% [markdown]
# There is no system for a cloud any more: in the cloud you rent a machine and type `olive` there. Two things are left
# of it: a model's address (`-m azureml://registries/NAME/models/NAME/versions/1`, with the extra `azureml`) and a cache
# that several machines share (`--account_name` and `--container_name`, of an Azure storage). Neither was run here.
#
# ## On a real model
# With `LABKIT_PROFILE=small` this notebook runs on SmolLM2, the same chain with the same commands, in about half an
# hour. What it measured, beside what you have just seen:

# %%
from labkit import measured

measured.beside("11_olive")

# %% [markdown]
# So few steps teach SmolLM2 little: guessing is right once in six. But compare the lines of labkit and of Olive's
# workflow, which had the same rows and the same mask: in the record as on tiny-base it makes no difference which of the
# two trained. As to the text that is joined and chopped: is it ahead in both columns, or behind in both? Where the
# intervals overlap, these steps do not say which way is better.
#
# ## When to take which
# Take `olive` if somebody else must type the recipe, if it runs on a build server, or if it ends on a chip whose passes
# you do not want to learn. Take Python where you need to see what counts in the loss, and where you measure. They mix:
# a folder with an adapter is the same for both.
#
# ## What you can do now
# You can train an adapter by a command and say what it trained on, write a workflow that trains, exports and searches,
# put two adapters into one ONNX model, and mend an old tutorial.
#
# **Quiz.** Answer each in your head, then open it.
#
# <details><summary>1. `olive finetune` on ten short rows stops: it has nothing to train on. What happened?</summary>
# Joined, they have fewer tokens than one piece of `--max_seq_len`, which is 1,024 if you do not give it. They do not
# fill a piece, so they are dropped. Take shorter pieces, or a workflow that goes line by line.
# </details>
#
# <details><summary>2. You mend a label in `tone.jsonl` and run the workflow again. It takes no time. Why?</summary>
# Olive looks into `.olive-cache` to see whether it has run this pass with these settings on this model before. The data
# file's name is among the settings, its content is not. Clear the cache (labkit does, before each command).
# </details>
#
# <details><summary>3. Why does one graph take adapters of rank 8 and of rank 16?</summary>
# The rank is an axis of the inputs A and B that the graph leaves open: nothing else depends on it, since x A goes
# straight into B. At int4 it is not open: the adapter's weights are packed too, and a packed matrix has a fixed size.
# </details>
#
# **Next:** lab 12 trains on several processes and machines. How far you are:

# %%
from labkit import progress

progress("11")
