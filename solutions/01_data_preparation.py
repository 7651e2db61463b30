# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 01 · Data preparation: rows that deserve training on
# **You will** read a file without guessing, find what is wrong with it, mend it, and turn what is left into tokens, of
# which you know which count. You will also measure what masks, splits, more rows and right labels are worth.
#
# *60 minutes. You need: Python. No GPU, no network, no account.*
#
# Tatra Trail has exported its letters from the old system. Somebody wants to train on the file this afternoon. Here are
# five of its rows. **Predict**: in how many rows of a hundred is something wrong?

# %%
from labkit import data
from labkit.tables import table

export, held = data.read("messy_tickets/export", columns=()), data.read("messy_tickets/test")
table(*({"line": row["line"], "label": row["label"], "text": row["text"][:90]} for row in export.select(range(40, 45))))

# %%
prediction = ...  # a number between 0 and 100

# %% [markdown]
# ## One reader for every format
# Files come as JSON, JSONL, CSV, TSV or Parquet. `data.read` gives the same records from each, with the line that a
# record stood in (in JSON and Parquet its number), so that whatever is said about it later can be found again.

# %%
import contextlib
import tempfile
from pathlib import Path

import pandas as pd

from labkit import LabError, data
from labkit.tables import table

folder = Path(tempfile.mkdtemp())
frame = pd.DataFrame({"text": ["Where is it?", "Grüße!", "Money back."], "label": ["neutral", "joy", "anger"]})
frame.to_json(folder / "rows.json", orient="records")
frame.to_json(folder / "rows.jsonl", orient="records", lines=True)
frame.to_csv(folder / "rows.csv", index=False)
frame.to_csv(folder / "rows.tsv", index=False, sep="\t")
frame.to_parquet(folder / "rows.parquet", index=False)
table(*({"file": file.name, "rows": len(data.read(file)), "second text": data.read(file)[1]["text"]}
        for file in sorted(folder.iterdir())))

# %% [markdown]
# It refuses what it would have to guess. Windows-1252 and UTF-8 write ü as other bytes, and a reader that picks one in
# silence is how broken letters come about:

# %%
(folder / "old.csv").write_bytes(frame.to_csv(index=False).encode("cp1252"))
try:
    with contextlib.chdir(folder):  # so that the sentence has no long path in it
        data.read("old.csv")
except LabError as error:
    print(error)

# %% [markdown]
# A row that cannot be read stops it too, unless you give it a list to put such rows into. None disappears unnamed:

# %%
(folder / "cut.jsonl").write_text('{"text": "Where is it?", "label": "neutral"}\n{"text": "Money ba\n')
left_out = []
kept = data.read(folder / "cut.jsonl", left_out=left_out)
print(len(kept), "row kept;", left_out)

# %% [markdown]
# The same call reads a dataset of the Hugging Face hub: `hub:owner/name`, which is its split *train*, or
# `hub:owner/name/test`. This cell does not ask the hub unless you let it. **Predict** what it says instead.

# %%
import datasets

ask_the_hub = False  # True, where you have a network: a thousand film reviews
datasets.config.HF_HUB_OFFLINE = not ask_the_hub
try:
    reviews = data.read("hub:cornell-movie-review-data/rotten_tomatoes/test")
    print(len(reviews), "rows with", ", ".join(reviews.column_names))
except LabError as error:
    print(error)

# %% [markdown]
# What was asked for, why it did not come, and what to do. What the hub does send is kept as a Parquet file and read as
# the one above was. labkit runs no code that a dataset brings along: it refuses such a dataset, and says so.
#
# ### Exercise 1.1 · undo a wrong encoding · difficulty 2 · 6 minutes
# In the export stands `cafÃ©`: bytes that were UTF-8 and were read as Windows-1252 (`cp1252`). Write
# `mend_mojibake`: give the text as it was. A text that is sound comes back unchanged.

# %%
from labkit import check, hint, solution


def mend_mojibake(text):
    ### BEGIN SOLUTION
    try:
        return text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return text
    ### END SOLUTION


check("mend_mojibake", mend_mojibake)

# %% [markdown]
# ## What is wrong with the export
# Texts that are there twice are a common fault, and the most flattering one when the second is in the test. Equal
# texts are easy to find. Two that differ in a word need a measure of how much they share.
#
# ### Exercise 1.2 · how much two texts share · difficulty 1 · 5 minutes
# Write the Jaccard similarity of two texts: of all the different word n-grams in either, the share that is in both. A
# gram is n words in a row, in small letters; a text of fewer than n words is one gram.

# %%
from labkit import check


def jaccard(a, b, n=2):
    ### BEGIN SOLUTION
    def grams(text):
        words = text.lower().split()
        return {tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))}

    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))
    ### END SOLUTION


check("jaccard", jaccard)

# %% [markdown]
# ### Exercise 1.3 · test texts that stand in train · difficulty 1 · 4 minutes
# `train` and `test` are lists of texts. Give the positions in `test` of the texts that are in `train` too, whatever
# their case and spacing.

# %%
def leaked(train, test):
    ### BEGIN SOLUTION
    def key(text):
        return " ".join(text.lower().split())

    seen = {key(text) for text in train}
    return [i for i, text in enumerate(test) if key(text) in seen]
    ### END SOLUTION


check("leaked", leaked)

# %% [markdown]
# ### Exercise 1.4 · mask e-mail addresses · difficulty 2 · 7 minutes
# What a model has read it can repeat to a stranger. Put `[email]` in the place of every address, and leave the rest of
# the text as it is.

# %%
import re


def mask_emails(text):
    ### BEGIN SOLUTION
    return re.sub(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", "[email]", text)
    ### END SOLUTION


check("mask_emails", mask_emails)

# %% [markdown]
# `data.inspect` looks for all of this and more: for near duplicates by MinHash (it finds likely pairs without comparing
# every text with every other; your Jaccard is then counted on those), by ftfy for broken letters. What only the shop
# knows it is told: the six labels, the names of its customers, the most tokens that a row may have, all from
# `key.json`. It changes nothing. **Predict** which of its findings is the largest.

# %%
import json

from labkit import data, models
from labkit.profiles import COURSE
from labkit.tables import table

export, held = data.read("messy_tickets/export", columns=()), data.read("messy_tickets/test")
key = json.loads((COURSE / "data" / "messy_tickets" / "key.json").read_text(encoding="utf-8"))
_, tokenizer = models.load("tiny")
report = data.inspect({"train": export, "test": held}, labels=key["labels"], names=key["names"],
                      tokenizer=tokenizer, max_tokens=key["max_tokens"])
report

# %% [markdown]
# Every finding names its rows, or it could not be acted on. Here is one letter that stands there twice, nearly: the row
# that was found, and the row that it is like.

# %%
near = report.finding("near duplicate", "train")
for row in (near.rows[1], near.notes[1]["like"]):
    print(f"line {export[row]['line']}: {export[row]['text']}\n")
print(f"{near.notes[1]['share']:.0%} of their word pairs are in both")

# %% [markdown]
# The faults were planted, and `key.json` records each one. So the report itself can be marked, like any classifier:
# **precision**, how much of what it found is a fault; **recall**, how many of the faults it found.

# %%
planted = {(fault["kind"], fault["row"]) for fault in key["faults"]}
found = {(finding.kind, row) for finding in report.findings if finding.split == "train" for row in finding.rows}
found = {pair for pair in found if pair[0] in key["counts"]}
print(f"{100 * len({row for _, row in planted}) / len(export):.0f} rows of a hundred have a fault")
table(planted=len(planted), found=len(found), precision=len(found & planted) / len(found),
      recall=len(found & planted) / len(planted))

# %% [markdown]
# On real exports it will be less than 1 on both: nobody has the list of all names, and a label that is plainly wrong
# looks like any other. What the report gives you there is the rows to read.
#
# `data.clean` mends, masks and drops, and logs every row that it touched; here are the log's counts. A row that is
# dropped is not mended as well, so some counts are lower than in the report. What needs a person it leaves in: very
# short texts, over-long ones, other languages.

# %%
cleaned, log = data.clean({"train": export, "test": held}, report)
log

# %% [markdown]
# ## From a record to what the model sees
# A record has columns; a model sees text. Between them stands a template.
#
# ### Exercise 1.5 · fill a template · difficulty 1 · 6 minutes
# Put the value of each `{field}` of the template in its place. A field that the record lacks is a `KeyError` that names
# it. Braces inside a value are only text.

# %%
from labkit import check


def fill_template(template, record):
    ### BEGIN SOLUTION
    return template.format_map(record)
    ### END SOLUTION


check("fill_template", fill_template)

# %% [markdown]
# A typing mistake in a template would be a hole in a thousand prompts. `data.fill` says which field it is, and what you
# may have meant:

# %%
from labkit import LabError, data, models

ticket = data.read("tickets/train")[9]
try:
    data.fill("Which tone has this ticket?\n\n{txt}", ticket)
except LabError as error:
    print(error)

# %% [markdown]
# `recognise` tells three forms apart: a text and its label; a prompt and its completion, whatever the two are called
# (`input` and `output`, `question` and `answer`); and chats (`messages`). `examples` makes two columns of each,
# `prompt` and `completion`. **Predict** what becomes the prompt of a chat of three turns.

# %%
import json
import tempfile
from pathlib import Path

from labkit.tables import table

chat = [{"role": "system", "content": "You are a shop."}, {"role": "user", "content": "Do you mend tents?"},
        {"role": "assistant", "content": "Yes, poles and zips."}]
made = []
for row in ({"input": "Do you mend tents?", "output": "Yes, poles and zips."}, {"messages": chat}):
    file = Path(tempfile.mkdtemp()) / "row.jsonl"
    file.write_text(json.dumps(row) + "\n")
    records = data.read(file)
    form = data.recognise(records)
    made.append({"columns": ", ".join(row), "form": form.kind} | data.examples(records, form)[0])
table(*made)

# %% [markdown]
# A prompt is text, or the list of all turns before the last; the answer is text in both. (`line` came from the reader.)
# And every model has a *chat template* that wraps them. What the model is really given:

# %%
_, tokenizer = models.load()
task = data.ticket_task("tone")
print(data.render(tokenizer, task.train[0]["prompt"]))

# %% [markdown]
# The marks are the model's own, from its training. Another template, a second beginning-of-text token, a space too
# many: the model still answers, worse, and nothing says why. Hence one function, `render`, for training and serving.
#
# ## Which tokens count
# Here labels are token ids, one for each token of the row; where a label is -100, the loss leaves the token out. Only
# the answer and its end may count: else the model spends its few steps on learning to write letters.
#
# ### Exercise 1.6 · which tokens count · difficulty 1 · 5 minutes
# Give `(input_ids, labels)` for one row: prompt, answer and end, with the prompt masked.

# %%
from labkit import check


def mask_prompt(prompt_ids, answer_ids, end):
    ### BEGIN SOLUTION
    return prompt_ids + answer_ids + [end], [-100] * len(prompt_ids) + answer_ids + [end]
    ### END SOLUTION


check("mask_prompt", mask_prompt)

# %% [markdown]
# ### Exercise 1.7 · rows of one length · difficulty 2 · 8 minutes
# A batch is a rectangle. `rows` are pairs (input_ids, labels). Pad all on the right, up to the longest, and give
# `{"input_ids", "attention_mask", "labels"}`, each a list of lists. No padding may count, or be looked at.

# %%
def pad_batch(rows, pad):
    ### BEGIN SOLUTION
    width = max(len(ids) for ids, _ in rows)
    batch = {"input_ids": [], "attention_mask": [], "labels": []}
    for ids, labels in rows:
        gap = width - len(ids)
        batch["input_ids"].append(ids + [pad] * gap)
        batch["attention_mask"].append([1] * len(ids) + [0] * gap)
        batch["labels"].append(labels + [-100] * gap)
    return batch
    ### END SOLUTION


check("pad_batch", pad_batch)

# %% [markdown]
# One real row, as the course encodes it. Grey tokens are read only; the underlined ones count. **Predict** how many do.

# %%
from labkit import data, models
from labkit.data.encode import encode
from labkit.widgets.tokens import TokenView

_, tokenizer = models.load()
task = data.ticket_task("tone")
encoded = encode(task.train.select(range(64)), tokenizer)
TokenView(tokenizer, encoded[0])

# %% [markdown]
# Few of a hundred, and the last of them is the end of turn. If that one is masked, a model that cannot stop yet never
# learns to, and nothing in the loss curve says so.
#
# ## Failures that print nothing
# Here are four ways to spoil encoded rows that people really have met. Each trains without a word. **Predict** for each
# whether it costs right answers.

# %%
from datasets import Dataset

from labkit import data, models
from labkit.data.encode import encode, encode_completion

_, tokenizer = models.load()
task = data.ticket_task("intent")
sound = encode(task.train.select(range(0, len(task.train), 5)), tokenizer)


def changed(change):
    return Dataset.from_list([row | change(row) for row in sound])


def without_template(row):
    asked = tokenizer(row["prompt"])["input_ids"]
    answer = encode_completion(tokenizer, row["completion"])
    return {"input_ids": asked + answer, "labels": [-100] * len(asked) + answer}


# %%
spoilt = {
    "sound": sound,
    "the prompt counts too": changed(lambda row: {"labels": row["input_ids"]}),
    "the end is masked": changed(lambda row: {"labels": row["labels"][:-1] + [-100]}),
    "only the end counts": changed(lambda row: {"labels": [-100] * (len(row["labels"]) - 1) + row["labels"][-1:]}),
    "trained without the template": changed(without_template),
}

# %% [markdown]
# All get the same steps, with the tripwires off: the checks that `finetune` makes of its rows before it trains. An
# answer is right if the model writes the team's name and stops. The tickets are of families that no training has seen.

# %%
from labkit import evaluation, finetune, runs
from labkit.tables import table

held = task.validation.select(range(0, len(task.validation), 6))


def cost(rows):
    run = finetune(rows, steps=32, batch_size=8, guard=False, out=runs("lab01-spoilt"))
    said = evaluation.generate(*run.loaded, held["prompt"], max_new_tokens=6)
    right = evaluation.accuracy(held["label"], said, evaluation.groups_of(held))
    return {"loss at the end": run.curve[-1]["loss"], "right answers": str(right), "first answer": said[0]}


table(*({"rows": name, **cost(rows)} for name, rows in spoilt.items()))

# %% [markdown]
# The lowest loss is not the best model: a loss says how well the *counted* tokens are guessed, and three of the four
# count others than the sound rows do. Where two brackets overlap, so few tickets do not say which mistake is the worse.
# Look at the row whose end is masked: if it is right about as often as the sound one, its mistake costs nothing
# *today*, since the base learnt to stop long before. A model that has not would go on and on.
#
# Now the same rows with the tripwires on, as `finetune` has them unless you turn them off:

# %%
from labkit import LabError

for name, rows in spoilt.items():
    try:
        finetune(rows, steps=2, out=runs("lab01-spoilt"))
        print(f"{name}: no objection\n")
    except LabError as error:
        print(f"{name}: {error}\n")

# %% [markdown]
# ## A split that keeps families together
# Tickets of one family are one letter with other names in it. So are the reports of one patient, the photos of one
# street, the mails of one thread. What belongs together must land on one side.
#
# ### Exercise 1.8 · a test part of whole groups · difficulty 2 · 8 minutes
# `groups` names each row's group. Give the sorted row numbers of a test part: whole groups, drawn by `seed`, one after
# the other until the part has at least `share` of all rows.

# %%
from labkit import check


def split_by_group(groups, share, seed):
    ### BEGIN SOLUTION
    import random

    names = sorted(set(groups))
    random.Random(seed).shuffle(names)
    test = []
    for name in names:
        if len(test) < share * len(groups):
            test += [row for row, group in enumerate(groups) if group == name]
    return sorted(test)
    ### END SOLUTION


check("split_by_group", split_by_group)

# %% [markdown]
# `data.split` does it for three parts (`by`), 80/10/10 unless you say otherwise, and can keep the share of every label
# alike (`stratify`). Four ways to cut the letters of a shop that is new: 1,116 letters of 279 families. **Predict** in
# which of them families stand on both sides, and in which the shares differ most.

# %%
from labkit import data
from labkit.tables import table

tickets = data.ticket_examples(data.read("tickets/train"), "tone")
few = set(sorted(set(tickets["family"]))[::5])
tickets = tickets.select([i for i, family in enumerate(tickets["family"]) if family in few])
ways = {"at random": {}, "stratified": {"stratify": "label"}, "by group": {"by": "family"},
        "both": {"by": "family", "stratify": "label"}}
cuts, compared = {name: data.split(tickets, **how) for name, how in ways.items()}, []
for name, parts in cuts.items():
    gaps = [abs(row["train"] - row["test"]) for row in data.label_shares(parts, "label")]
    shared = set(parts["train"]["family"]) & set(parts["test"]["family"])
    compared.append({"split": name, "rows": " / ".join(str(len(part)) for part in parts.values()),
                     "a share differs by": f"{max(gaps):.1%}", "families on both sides": len(shared)})
table(*compared, caption="train against test: the largest difference of a label's share, and families in both")

# %% [markdown]
# Stratifying mends the shares and leaves families torn apart; grouping does the reverse, since a family has one label
# and moves as a whole. Both at once keeps families together and brings the shares nearer than grouping alone, but not
# as near as stratifying alone: in a test part of 112 letters, four to a family, one family more or less is a large
# step. The shares of "both", by label:

# %%
by_family = cuts["both"]
table(*({name: f"{share:.1%}" if name != "label" else share for name, share in row.items()}
        for row in data.label_shares(by_family, "label")))

# %% [markdown]
# **Predict**: the same rows, split at random (stratified). Do the test scores rise or fall, and by how much? Each model
# is scored on its own test part: a bag of words (a linear classifier that sees which words and pairs of words occur),
# and the base model with a LoRA adapter (a small trained addition, lab 03).

# %%
from labkit import evaluation
from labkit.search import trial

splits, by_split = {"by family": by_family, "at random": cuts["stratified"]}, []
for name, parts in splits.items():
    train, test = parts["train"], parts["test"]
    said = evaluation.bag_of_words(train["text"], train["label"], test["text"])
    words = evaluation.accuracy(test["label"], said, test["family"])
    tuned = trial(train, test, data.LABELS["tone"], steps=140, batch_size=8).accuracy
    by_split.append({"split": name, "test rows": len(test), "bag of words": words, "LoRA": tuned})
table(*({name: value if isinstance(value, int) else str(value) for name, value in row.items()} for row in by_split))

# %% [markdown]
# Nothing became better: the same models, on the same kind of letters. The random split asks for letters that training
# has seen with another name in them, and the score flatters. On the day that a customer writes a *new* letter, the
# lower figure is the true one. Keep both; at the end they stand beside those of a real model, once it was measured.

# %%
from labkit import measured

measured.note("01_data_preparation", **{f"{who.replace(' ', '_')}_split_{row['split'].replace(' ', '_')}": row[who]
                                        for row in by_split for who in ("bag of words", "LoRA")})

# %% [markdown]
# ## More rows from few
# Say that the shop has only begun to note *fear*: a fifth of the rows that it has of each other tone. Three honest ways
# to make more of them, each from training rows only:

# %%
import random

from labkit import data, evaluation
from labkit.tables import table

tickets, rng = data.read("tickets/train").to_list(), random.Random(0)
rare = [t for t in tickets if t["tone"] == "fear"][::10]
others = [t for t in tickets if t["tone"] != "fear"][::2]


def noise(ticket):  # one word in ten is left out
    words = [word for word in ticket["text"].split() if rng.random() > 0.1]
    return ticket | {"text": " ".join(words)}


def reframe(ticket):  # a greeting or a closing put around the same letter
    frame = rng.choice(["Hello, {}", "{} Thank you.", "Dear team, {} Regards", "I am writing again. {}"])
    return ticket | {"text": frame.format(ticket["text"])}


# %%
def back_fill(ticket):  # another product, order, place and date in the same letter
    text, donor = ticket["text"], rng.choice(others)["entities"]
    for field, value in ticket["entities"].items():
        if value and donor[field]:
            text = text.replace(value, donor[field])
    return ticket | {"text": text}


ways = {"copies": dict, "word noise": noise, "greeting added": reframe, "back-fill": back_fill}
made = {"none": []} | {name: [way(t) for t in rng.choices(rare, k=4 * len(rare))] for name, way in ways.items()}

# %% [markdown]
# **Predict**: which one finds most of the fearful tickets, in families that are new? Copying the rare rows is the
# fourth way, and costs nothing. To compare ways one needs many trainings, so the learner is a bag of words, which
# takes a blink. What is seen here holds for it; a language model may gain more or less.

# %%
new = data.read("tickets/test").to_list() + data.read("tickets/validation").to_list()
fearful = [i for i, ticket in enumerate(new) if ticket["tone"] == "fear"]
families = [new[i]["family"] for i in fearful]
hits, alarms = {}, {}
for name, more in made.items():
    rows = others + rare + more
    said = evaluation.bag_of_words([t["text"] for t in rows], [t["tone"] for t in rows], [t["text"] for t in new])
    hits[name] = [float(said[i] == "fear") for i in fearful]
    alarms[name] = said.count("fear") - round(sum(hits[name]))

# %% [markdown]
# All were asked about the same tickets, so compare them ticket by ticket: the mean of the *differences* has as a rule a
# narrower interval than two means beside each other. A gain is one whose interval lies above 0.

# %%
def gain(name, over):
    differences = [mine - theirs for mine, theirs in zip(hits[name], hits[over])]
    return "-" if name == over else str(evaluation.mean_score("gain", differences, families))


table(*({"rows made": name, "how many": len(made[name]), "found": f"{sum(hit) / len(hit):.1%}",
         "gain over none": gain(name, "none"), "gain over copies": gain(name, "copies") if made[name] else "-",
         "false alarms": alarms[name]} for name, hit in hits.items()),
      caption=f"{len(fearful)} fearful tickets of {len(set(families))} new families, {len(new) - len(fearful)} others")

# %% [markdown]
# The first column of gains says whether showing the class more often helps at all; the second whether the kind of
# change adds anything to that, or whether copies would have done (a bound of 0.0% is no gain). It is one draw of rows:
# another seed may change the order of ways that lie close together. See also how many are missed all the same: what
# was never written cannot be made up; for that it takes new letters of the rare class.
#
# ## Quality over quantity
# A row costs money, and a right label costs more. **Predict**: what do you take, 800 rows with right labels, or twice
# as many of which four in ten are wrong? (The learner is the bag of words again.)

# %%
import random

from labkit import data, evaluation, plots

task, rng = data.ticket_task("intent"), random.Random(0)
rows = rng.sample(task.train.to_list(), 1600)
texts, right = [row["text"] for row in rows], [row["label"] for row in rows]
wrong = [rng.choice(task.labels) if rng.random() < 0.45 else label for label in right]
sizes, lines = (50, 200, 800, 1600), {}
for name, labels in {"right labels": right, "four in ten wrong": wrong}.items():
    said = [evaluation.bag_of_words(texts[:n], labels[:n], task.test["text"]) for n in sizes]
    lines[name] = [evaluation.accuracy(task.test["label"], s, evaluation.groups_of(task.test)) for s in said]
print(f"wrong labels: {sum(a != b for a, b in zip(wrong, right)) / len(right):.0%}")

# %%
fewer, more = lines["right labels"][2], lines["four in ten wrong"][3]
figure, axes = plots.new(f"800 right labels: {fewer.value:.0%}; 1,600 with four in ten wrong: {more.value:.0%}",
                         "training rows", "accuracy (%), with 95 % interval")
for (name, scores), colour in zip(lines.items(), ("blue", "orange")):
    values = [100 * s.value for s in scores]
    reach = [[100 * (s.value - s.low) for s in scores], [100 * (s.high - s.value) for s in scores]]
    axes.errorbar(sizes, values, yerr=reach, marker="o", capsize=3, color=plots.COLOURS[colour], label=name)
axes.set_xscale("log")
axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
axes.minorticks_off()
axes.set_ylim(0, 100)
axes.legend(frameon=False)
plots.show(figure, alt="; ".join(f"{name}: {', '.join(map(str, scores))}" for name, scores in lines.items()))

# %% [markdown]
# More rows help both. Follow the upper line until it is as high as the last point of the lower one: so few rows with
# right labels are worth that whole pile. Hours spent on reading labels are seldom wasted.
#
# ## Packing: pay for tokens, not for padding
# A batch is as wide as its longest row, and whatever is not text is computed all the same.
#
# ### Exercise 1.9 · pack rows together · difficulty 3 · 10 minutes
# Put rows into packs of at most `room` tokens, by *first-fit decreasing*: the longest first (of equal ones the first),
# each into the first pack that has room for it. Give the packs as lists of row numbers.

# %%
from labkit import check


def first_fit(lengths, room):
    ### BEGIN SOLUTION
    packs = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        for members in packs:
            if sum(lengths[j] for j in members) + lengths[i] <= room:
                members.append(i)
                break
        else:
            packs.append([i])
    return packs
    ### END SOLUTION


check("first_fit", first_fit)

# %% [markdown]
# `labkit.data.encode.pack` does this to real rows. Its packs carry positions that begin at 0 with each row; from these
# `collate_packed` makes a mask by which no row sees its neighbours. **Predict** the share of real tokens before and
# after.

# %%
from labkit import current, data, models
from labkit.data.encode import collate, collate_packed, encode, pack, pad_id, token_efficiency
from labkit.tables import table

model, tokenizer = models.load()
at_once = current().batch_size  # rows in a batch; a pack of 1,024 tokens holds a handful of them
rows = encode(data.ticket_task("reply").train.select(range(6 * at_once)), tokenizer)
packs = pack(rows, 1024)
table({"": "padded", "rows": len(rows), "real tokens": f"{token_efficiency(rows, at_once):.1%}"},
      {"": "packed", "rows": len(packs), "real tokens": f"{token_efficiency(packs, at_once // 8):.1%}"})

# %% [markdown]
# Fewer, fuller rows must not change what is learnt. The loss of the same rows, and how fast each way gets through
# them:

# %%
import time

from labkit.trainer import sparse_loss


def once(rows, collator, size):
    total = counted = 0
    started = time.perf_counter()
    for start in range(0, len(rows), size):
        batch = collator([rows[i] for i in range(start, min(start + size, len(rows)))], pad_id(tokenizer))
        n = int((batch["labels"][:, 1:] != -100).sum())
        loss = sparse_loss(model, {k: v.to(model.device) for k, v in batch.items()})
        loss.backward()
        total, counted = total + n * loss.item(), counted + n
    tokens = sum(map(len, rows["input_ids"]))
    return {"loss (nats)": round(total / counted, 4), "tokens a second": int(tokens / (time.perf_counter() - started))}


once(rows.select(range(at_once)), collate, at_once)  # the first pass warms up, on a GPU for a second or so
table({"": "padded", **once(rows, collate, at_once)}, {"": "packed", **once(packs, collate_packed, at_once // 8)})

# %% [markdown]
# The same loss, up to rounding. Nearly all tokens that are computed for nothing are gone; whether that is felt in
# time depends on how uneven the rows are, and on what a long pack costs in attention, which grows with its length
# squared. On short, even rows like these on a CPU packing may well be the slower one: measure it on your own rows.
#
# ## On a real model
# What was measured on SmolLM2 in this lab, if it has been recorded, beside your own figures:

# %%
from labkit import measured

measured.beside("01_data_preparation")

# %% [markdown]
# Who gains most from the leak? A bag of words learns letters by heart, and is asked for the same letters again. A model
# that is large and trained briefly has learnt few of them by heart: compare by how much the random split flatters each.
#
# ## The same by command line
# `labkit inspect FILE` prints this report for any file, and `--html` writes it as a page. `labkit finetune FILE` does
# the reading, the splitting and the tripwires by itself.
#
# ## What you can do now
# You can say of a file what is wrong with it and in which rows, mend it, and know which of its tokens a model learns.
#
# **Quiz.** Answer each in your head, then open it.
#
# <details><summary>1. A colleague's model scores 99 % on a random split. What do you ask first?</summary>
# What belongs together in this data, and whether it was kept together: by family, patient, thread, author, day.
# </details>
#
# <details><summary>2. Why may padding not be found by comparing ids with the pad id?</summary>
# Because pad may be a real token too. In SmolLM2 it is the end of turn: if its labels are masked by id, the model never
# learns to stop.
# </details>
#
# <details><summary>3. You mask names in the training file. Is the data anonymous now?</summary>
# No. Masking by pattern and list finds what has a form. A person can be known by a story, a place and a date; what is
# left has to be read.
# </details>
#
# **Next:** lab 02 trains all of a model's weights on rows like these. How far you are:

# %%
from labkit import progress

progress("01")
