# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 07 · Evaluation: prove that it got better
# **You will** write the field's metrics, say how far each can be trusted, find test rows that training has seen, and
# build a gate that lets a better model pass and stops a worse one.
#
# *105 minutes. You need: Python and a little numpy; lab 03 helps. No GPU, no network, no account.*
#
# Tatra Trail routes tickets to eight teams. A new model is right more often than the old one in the list below, and
# a colleague wants it in production by noon. Would you agree?

# %% tags=["reproducible"]
from labkit.tables import table

table({"model": "in use", "right": "17 of 20"}, {"model": "new", "right": "18 of 20"})

# %% [markdown]
# **Predict.** Both models are tried again on twenty other tickets. How probable is it that the order is turned round,
# if they are in truth equally good? The section on luck answers it; write your guess down.

# %%
prediction = ...  # a share between 0 and 1

# %% [markdown]
# ## Counting right answers
# Accuracy is the share of right answers. Where one class is rare, it hides that the class is never found. Precision,
# recall and F1 look at one class: of what was called so, how much is so; of what is so, how much was called so.
#
# ### Exercise 7.1 · F1 of one class · difficulty 1 · 6 minutes
# `truth` and `said` are lists of labels. Give the F1 of `label`, and 0 where it neither occurs nor is said.

# %%
from labkit import check


def class_f1(truth, said, label):
    ### BEGIN SOLUTION
    hits = sum(a == b == label for a, b in zip(truth, said))
    both = truth.count(label) + said.count(label)
    return 2 * hits / both if both else 0.0
    ### END SOLUTION


check("class_f1", class_f1)

# %% [markdown]
# Ninety tickets are about delivery, ten about a warranty, and a model calls all of them delivery. **Predict** its
# accuracy, its micro-F1 (counts of all classes together) and its macro-F1 (the mean over classes):

# %% tags=["reproducible"]
from labkit.scratch import metrics
from labkit.tables import table

teams, called = ["delivery"] * 90 + ["warranty"] * 10, ["delivery"] * 100
table(accuracy=metrics.accuracy(teams, called), micro_F1=metrics.micro(teams, called)["f1"],
      macro_F1=metrics.macro(teams, called)["f1"])

# %% [markdown]
# With one answer a ticket, micro-F1 *is* accuracy; macro-F1 shows the class that is lost. Now the same by scikit-learn:

# %% tags=["reproducible"]
from sklearn.metrics import confusion_matrix, f1_score

theirs = f1_score(teams, called, average="macro", zero_division=0)
print("confusion, by hand:", metrics.confusion(teams, called))
print("scikit-learn agrees:", metrics.confusion(teams, called) == confusion_matrix(teams, called).tolist())
print("macro-F1 equal to 1e-9:", abs(metrics.macro(teams, called)["f1"] - theirs) < 1e-9)

# %% [markdown]
# Hugging Face's `evaluate` gives all metrics one form, and `evaluate.combine` asks several at once.
# `evaluate.load("accuracy")` would download code from the hub; `labkit.evaluation.modules` has modules of the same
# form made here, over the same libraries. Its `f1` gives precision and recall too, all three as macro means.

# %% tags=["reproducible"]
import evaluate

from labkit.evaluation.modules import load

both = evaluate.combine([load("accuracy"), load("f1")])
print(both.compute(predictions=called, references=teams))

# %% [markdown]
# ## Texts: which words, in which order
# For a summary or a reply there is no single right answer. BLEU asks which share of an answer's runs of 1, 2, 3 and 4
# words the reference has, takes the geometric mean of the four shares, and lowers it where answers are too short.
# ROUGE-1 and -2 are the F1 of shared words and shared pairs, ROUGE-L is that of the longest row of words that both have
# in the same order, gaps allowed.
#
# ### Exercise 7.2 · the precision of BLEU · difficulty 2 · 8 minutes
# `reference` and `answer` are lists of words. Which share of the answer's runs of n words does the reference have? A
# run that the answer repeats counts at most as often as the reference has it. An answer without runs has 0.

# %%
from collections import Counter

from labkit import check


def clipped_precision(reference, answer, n):
    ### BEGIN SOLUTION
    a, b = (Counter(zip(*(words[i:] for i in range(n)))) for words in (reference, answer))
    return (a & b).total() / max(1, b.total())
    ### END SOLUTION


check("clipped_precision", clipped_precision)

# %% [markdown]
# Now real texts: the reply of the training ticket with the most similar words stands for a model. By hand and by
# library; the last column says whether they agree:

# %%
import sacrebleu

from labkit import data, evaluation
from labkit.evaluation.modules import load
from labkit.scratch import metrics
from labkit.tables import table

task = data.ticket_task("reply")
written = list(task.test["completion"])
copied = evaluation.nearest_answer(task.train["text"], task.train["completion"], task.test["text"])
by_library = {"BLEU": sacrebleu.corpus_bleu(copied, [written]).score,
              "ROUGE-L": load("rouge").compute(predictions=copied, references=written)["rougeL"]}
by_hand = {"BLEU": metrics.bleu(written, copied),
           "ROUGE-L": sum(metrics.rouge_l(a, b) for a, b in zip(written, copied)) / len(written)}
table(*({"": name, "by hand": by_hand[name], "by library": by_library[name],
         "equal to 1e-9": abs(by_hand[name] - by_library[name]) < 1e-9} for name in by_hand))

# %% [markdown]
# Equal; `tests/` says so for thousands of generated texts, empty ones and emoji among them. BLEU runs from 0 to 100.
#
# **Predict.** Which of these three answers has the highest ROUGE-L, and which would you send to a customer?

# %% tags=["reproducible"]
reference = "we are sending the Vintar axe of order 30291 back to you today"
for answer in ("we are sending the Vintar axe of order 30297 back to you today",
               "your axe (order 30291) goes out this afternoon",
               "we are not sending the Vintar axe of order 30291 back to you today"):
    print(f"{metrics.rouge_l(reference, answer):.2f}  {answer}")

# %% [markdown]
# Shared words are not shared meaning: a wrong order number and a *not* cost next to nothing, and the good answer comes
# last. That is why entities are scored field by field, and replies are also read by people, further down.
#
# ## Surprise, a token and a byte
# A language model can be scored on any text without answers: how likely does it find it? Perplexity is exp of the mean
# loss a token, but a token is another piece of text in each tokenizer. A byte is a byte.
#
# ### Exercise 7.3 · perplexity a byte · difficulty 1 · 4 minutes
# `log_likelihoods` has one number a token, in nats; `text` is the text that the tokens make.

# %%
import math

from labkit import check


def byte_perplexity(log_likelihoods, text):
    ### BEGIN SOLUTION
    return math.exp(-sum(log_likelihoods) / len(text.encode()))
    ### END SOLUTION


check("byte_perplexity", byte_perplexity)

# %% [markdown]
# A text longer than the model's window is read in windows, and the first tokens of each know little of what came
# before. Windows that overlap, and count only their last `stride` tokens, give every token more context.
# **Predict**: what does a smaller stride do to perplexity, and to the time?

# %%
import time

from labkit import data, evaluation, models
from labkit.scratch import metrics
from labkit.tables import table

base, texts, rows = models.load(), data.read("tickets/test")["text"][:16], []
for stride in (31, 16, 4):
    started = time.perf_counter()
    each = evaluation.token_log_likelihoods(*base, texts, width=32, stride=stride)
    values = [value for ticket in each for value in ticket]
    rows.append({"stride": stride, "perplexity a token": metrics.perplexity(values),
                 "a byte": metrics.byte_perplexity(values, "".join(texts)),
                 "seconds": round(time.perf_counter() - started, 2)})
table(*rows, caption=f"{len(texts)} tickets, {len(values)} tokens, windows of 32 tokens")

# %% [markdown]
# Same model, same texts, three figures; and the smaller the stride, the more windows there are to read. In a model that
# makes use of what stands far back, perplexity falls with the stride, so whoever reports it can choose. A perplexity
# without its window and stride is half a figure: compare models at the same ones.
#
# ## One call that scores a model
# Train a router on the tickets: LoRA, as in lab 03; on 640 letters, whatever the batch of the profile; with `tiny`
# half a minute or less, with a real model some minutes.

# %%
from labkit import current, data, evaluation, finetune, plots, runs
from labkit.scratch import metrics

task = data.ticket_task("intent")
run = finetune(task.train, steps=640 // current().batch_size, out=runs("lab07"), reuse=True)

# %% [markdown]
# `evaluate_model` does what such a function should: rows in batches, the likeliest label (for a task with free text a
# greedy answer), the metrics of the task, an interval on each, and the time a row took. The interval knows that tickets
# come in *families*: the same letter, filled in with other names.

# %%
router = evaluation.evaluate_model(run, task, name="LoRA", reuse=True)
router.table()

# %% [markdown]
# An average hides who pays for it. The same by team, the worst first:

# %%
router.slice_table("label")

# %% [markdown]
# Where a team has every row right, drawing its families gives 100 % each time, which would claim certainty; there the
# interval is Wilson's, a formula for shares, with one vote a family.
#
# Where do the lost tickets go? A row is a true team, a column what was said.

# %%
labels = list(task.labels)
counts = metrics.confusion(router.truth, router.answers, labels)
worst, a, b = max((counts[i][j], a, b) for i, a in enumerate(labels) for j, b in enumerate(labels) if i != j)
figure, axes = plots.new(f"No mistake is commoner: {a} called {b}, {worst} times", "said", "true team", 6.5, 5)
axes.imshow(counts, cmap="Blues")
for i, row in enumerate(counts):
    for j, n in enumerate(row):
        axes.text(j, i, n or "", ha="center", va="center", color="white" if n > max(map(max, counts)) / 2 else "black")
axes.set_xticks(range(len(labels)), labels, rotation=40)
axes.set_yticks(range(len(labels)), labels)
axes.grid(visible=False)
plots.show(figure, alt=f"Confusion matrix of eight teams; no mistake is commoner: {a} called {b}, {worst} times")

# %% [markdown]
# Then read. The rows that the model got wrong and was surest of say most: is it the model, the label, or the question?
# One row a family is shown; `alike` counts the others of it that went as badly.

# %%
router.worst(10)

# %% [markdown]
# ## The same model, two scores
# Prompts in a batch have different lengths, so the shorter ones are filled up. A forward pass does not warn you when
# the filling is read as if it were the prompt.
#
# ### Exercise 7.4 · the answer of a padded prompt · difficulty 2 · 8 minutes
# `logits` is (batch, seq, vocabulary), `mask` (batch, seq) is 1 where a token is real. Give the logits at each row's
# last real token, (batch, vocabulary), wherever the padding stands.

# %%
import torch

from labkit import check


def last_real_logits(logits, mask):
    ### BEGIN SOLUTION
    ends = (mask * torch.arange(mask.shape[1])).argmax(-1)
    return logits[torch.arange(len(mask)), ends]
    ### END SOLUTION


check("last_real_logits", last_real_logits)

# %% [markdown]
# First the mistake, live: prompts padded on the right, and the answer read off the last *position*. **Predict** the
# accuracy at batch size 1, and at 32.

# %%
from labkit import current, data, evaluation, finetune, models, runs
from labkit.data.encode import encode_prompt, pad_id
from labkit.tables import table

task = data.ticket_task("intent")
run = finetune(task.train, steps=640 // current().batch_size, out=runs("lab07"), reuse=True)
ninth, (model, tokenizer) = task.test.select(range(0, len(task.test), 9)), run.loaded
first = [tokenizer(label)["input_ids"][0] for label in task.labels]


def careless(size):
    right = 0
    for start in range(0, len(ninth), size):
        part = ninth[start : start + size]
        asked = [encode_prompt(tokenizer, p) for p in part["prompt"]]
        ids, mask = (x.to(model.device) for x in evaluation.padded(asked, pad_id(tokenizer), "right"))
        with torch.no_grad(), models.quiet():
            said = model(input_ids=ids, attention_mask=mask).logits[:, -1, first].argmax(-1)
        right += sum(task.labels[i] == answer for i, answer in zip(said, part["completion"]))
    return right / len(ninth)


table(*({"batch size": size, "accuracy, last position": f"{careless(size):.0%}"} for size in (1, 32)))

# %% [markdown]
# Same weights, same rows, no error, no warning. Now with the last real token, a mask, and positions counted from the
# first real one. Does a log-likelihood differ from that at batch size 1 by 0.001 nats or more, does an answer?

# %%
prompts = ninth["prompt"][:24]
alone = evaluation.score_labels(*run.loaded, prompts, task.labels, batch_size=1)
for size, side in ((24, "left"), (24, "right"), (7, "right")):
    found = evaluation.score_labels(*run.loaded, prompts, task.labels, size, side)
    same = bool((found.argmax(-1) == alone.argmax(-1)).all())
    near = float((found - alone).abs().max()) < 1e-3
    print(f"batch {size:2}, padding {side:5}: differs by less than 0.001 nats: {near}, same answers: {same}")

# %% [markdown]
# Sums in another order differ in their last digits, which can turn an answer only where two labels are all but tied.
# `finetune` compares batch sizes after every training, and `score_labels` takes either side.
#
# ## How much of it is luck
# Six tickets of one family are nearly the same ticket. An interval that takes them for six pieces of evidence promises
# too much.
#
# ### Exercise 7.5 · an interval that knows families · difficulty 3 · 12 minutes
# `values` and `families` are arrays of the same length. Draw families with replacement from `rng`, as many as there
# are, each with all its rows; take the mean; do so `draws` times; give the 2.5 % and 97.5 % quantiles of the means.

# %%
import numpy as np

from labkit import check


def family_interval(values, families, draws, rng):
    ### BEGIN SOLUTION
    rows = {family: values[families == family] for family in np.unique(families)}
    means = [np.concatenate([rows[f] for f in rng.choice(list(rows), len(rows))]).mean() for _ in range(draws)]
    return tuple(np.quantile(means, [0.025, 0.975]))
    ### END SOLUTION


check("family_interval", family_interval)

# %% [markdown]
# Is the fine-tuned router better than a bag of words, which costs nothing? First the two intervals:

# %%
from labkit import current, data, evaluation, finetune, runs
from labkit.tables import table

task = data.ticket_task("intent")
run = finetune(task.train, steps=640 // current().batch_size, out=runs("lab07"), reuse=True)
router = evaluation.evaluate_model(run, task, name="LoRA", reuse=True)
words = evaluation.bag_of_words(task.train["text"], task.train["label"], task.test["text"])
table({"": "bag of words", "accuracy": str(evaluation.accuracy(router.truth, words, router.groups))},
      {"": "LoRA", "accuracy": str(router.main)}, caption=f"{len(words)} tickets, {len(set(router.groups))} families")

# %% [markdown]
# Overlapping intervals settle nothing, and they throw something away: both models read the *same* tickets, and what is
# hard for one is often hard for the other.
#
# ### Exercise 7.6 · two models on the same rows · difficulty 2 · 8 minutes
# `a` and `b` say of each row whether the model was right. Give the p of McNemar's exact test: of the rows on which
# exactly one is right, how unlikely is so uneven a split if a fair coin made it? `binomtest(k, n).pvalue` is a fair
# coin's two-sided p. Where no row differs, p is 1.

# %%
from scipy.stats import binomtest


def mcnemar_p(a, b):
    ### BEGIN SOLUTION
    only_a = sum(x and not y for x, y in zip(a, b))
    only_b = sum(y and not x for x, y in zip(a, b))
    return binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    ### END SOLUTION


check("mcnemar_p", mcnemar_p)

# %% [markdown]
# McNemar's test wants independent rows, so it gets one ticket of each family; the paired bootstrap draws families and
# takes all rows. Do the two agree?

# %%
by_words = [float(a == b) for a, b in zip(router.truth, words)]
of_each = [router.groups.index(family) for family in dict.fromkeys(router.groups)]
only_words, only_lora, p = evaluation.mcnemar([by_words[i] for i in of_each], [router.values[i] for i in of_each])
print(f"one row a family: only the bag of words right {only_words}, only LoRA right {only_lora}, p = {p:.3f}")
print("all rows, paired by family: LoRA minus bag of words", evaluation.paired_bootstrap(by_words, router.values,
                                                                                          router.groups))

# %% [markdown]
# If the whole interval lies above zero, you may write "better"; if zero is inside, write what you saw and how many
# families there were. Where the two disagree (p below 0.05, and zero inside the interval), trust the one that has read
# all rows: McNemar saw one of each family.
#
# **Predict**: how many independent test rows does it take to see a difference of two points between 90 % and 92 %,
# four times in five, by a two-sided test at 5 %?

# %% tags=["reproducible"]
from labkit.evaluation import rows_needed
from labkit.tables import table

table(*({"difference": f"{d:.0%}", "two test sets, rows each": rows_needed(d, 0.90),
         "same rows (the models differ on 8 %)": rows_needed(d, 0.90, differ=0.08)} for d in (0.05, 0.02, 0.01)))

# %% [markdown]
# Thousands; and where both models read the same rows and seldom differ, about half as many will do, and one set of them
# in place of two. Now your prediction from the start: two equally good models on twenty tickets, tried 10,000 times.

# %% tags=["reproducible"]
import numpy as np

rng = np.random.default_rng(0)
one, two = rng.binomial(20, 0.875, (2, 10_000))
table({"first ahead": f"{(one > two).mean():.0%}", "equal": f"{(one == two).mean():.0%}",
       "second ahead": f"{(two > one).mean():.0%}"})

# %% [markdown]
# One ticket in twenty is no news: two equally good models change places in about two of five tries. The opposite
# mistake is to look often: twenty candidates, all equal to the baseline, each tested once. Holm's correction asks more
# of the smallest p the more of them there are. A hundred such series:

# %% tags=["reproducible"]
from labkit.evaluation import holm, mcnemar


def series(rng):
    baseline = rng.random(300) < 0.9
    others = (np.where(rng.random(300) < 0.2, rng.random(300) < 0.9, baseline) for _ in range(20))
    return [mcnemar(baseline, other)[2] for other in others]


many = [series(np.random.default_rng(seed)) for seed in range(100)]
print("series with a p below 0.05:", sum(min(p) < 0.05 for p in many))
print("the same after Holm:", sum(min(holm(p)) < 0.05 for p in many))

# %% [markdown]
# None of them is better than the baseline, by construction. Whoever tries twenty settings and reports the best must
# either correct, or keep a test set that was not used for choosing.
#
# ## Rows that training has seen
# A benchmark that is on the web may be in the next model's training data. Then the score measures memory.
#
# ### Exercise 7.7 · find the test rows that training has seen · difficulty 2 · 10 minutes
# Give the numbers (from 0 on) of the texts in `test` of whose runs of `n` words at least `share` stand somewhere in
# `train`. Compare in lower case, split at spaces; a text shorter than n words cannot be judged and is left out.

# %%
from labkit import check


def leaked_rows(train, test, n, share):
    ### BEGIN SOLUTION
    def runs_of(text):
        words = text.lower().split()
        return set(zip(*(words[i:] for i in range(n))))

    seen = set().union(*map(runs_of, train))
    return [i for i, text in enumerate(test) if (own := runs_of(text)) and len(own & seen) / len(own) >= share]
    ### END SOLUTION


check("leaked_rows", leaked_rows)

# %% [markdown]
# Now do it to a model on purpose: sixteen tickets to learn from, and beside them, by accident, one ticket each of
# sixteen test families. Nothing is taken out of the test set: it holds these sixteen themselves, and the other tickets
# of their families, the same letters with other names.

# %%
from datasets import Dataset

from labkit import current, data, evaluation, finetune, runs
from labkit.tables import table

task = data.ticket_task("intent")
families = list(dict.fromkeys(task.test["family"]))[::6]
place = [task.test["family"].index(family) for family in families]
every = range(0, len(task.train), len(task.train) // 16)
mixed = Dataset.from_list([*task.train.select(every), *task.test.select(place)])
overlaps = evaluation.ngram_overlap(mixed["text"], task.test["text"], n=8)
seen = [o.share >= 0.2 for o in overlaps]
print(f"{sum(seen)} of {len(seen)} test tickets share a fifth or more of their runs of 8 words with the training set")

# %% [markdown]
# **Predict** the accuracy on test tickets that were seen in this way, and on the others, of two learners: a bag of
# words, and the base with an adapter. The rows `without` ask models that saw none of them: perhaps those tickets are
# only easier.

# %%
leaky = finetune(mixed, steps=24, batch_size=8, out=runs("lab07-leaky"), reuse=True)
clean = finetune(task.train, steps=640 // current().batch_size, out=runs("lab07"), reuse=True)
families, right = evaluation.groups_of(task.test), {}
for name, rows in (("with the leak", mixed), ("without", task.train)):
    said = evaluation.bag_of_words(rows["text"], rows["label"], task.test["text"])
    right[f"bag of words, {name}"] = [float(a == b) for a, b in zip(said, task.test["label"], strict=True)]
for name, run in (("with the leak", leaky), ("without", clean)):
    right[f"adapter, {name}"] = evaluation.evaluate_model(run, task, name=name, reuse=True).values
groups = {"seen": [i for i, s in enumerate(seen) if s], "not seen": [i for i, s in enumerate(seen) if not s]}
table(*({"trained": name} | {f"{kind} ({len(rows)})": str(evaluation.mean_score(
    "accuracy", [values[i] for i in rows], [families[i] for i in rows])) for kind, rows in groups.items()}
        for name, values in right.items()), caption="accuracy on the test tickets, in brackets how many")

# %% [markdown]
# Both leaky models have learnt from thirty-two tickets. What they score on the others is what they can do with unknown
# letters; what they score on the seen ones is what their report would claim if the whole benchmark had leaked. As far
# as the models without the leak differ there too, one kind is easier, or it is luck with sixteen families; what the gap
# has beyond that is memory. The bag of words shows it bare: it knew nothing, so all that it has on those letters is
# memory. How much is it for the adapter? A model that nearly knows the answer gains little by having seen it, so a
# leak flatters most where a model knows least, and no score alone shows it.
# `labkit inspect --test` and the tripwire `no_leak` look for rows that stand in both sets, nearly word for word.
#
# ## How sure, and how right
# The router gives every team a probability. If it says 90 % a hundred times, is it right ninety times?
#
# ### Exercise 7.8 · how far confidence is from accuracy · difficulty 2 · 10 minutes
# `confidence` and `right` are arrays; `right` holds 0 and 1. Sort the rows into `bins` bins of equal width from 0 to 1
# by confidence (1.0 belongs into the last), and give the gap |mean confidence - share right| of each bin, averaged over
# *rows*: the expected calibration error, ECE.

# %%
import numpy as np

from labkit import check


def calibration_error(confidence, right, bins):
    ### BEGIN SOLUTION
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs((confidence - right)[place == k].mean()) * (place == k).mean() for k in np.unique(place)]
    return sum(gaps)
    ### END SOLUTION


check("calibration_error", calibration_error)

# %% [markdown]
# The same as a picture: a dot below the line was surer than right. **Predict** on which side a model stands after a
# short fine-tuning.

# %%
from labkit import current, data, evaluation, finetune, plots, runs
from labkit.scratch import metrics

task = data.ticket_task("intent")
run = finetune(task.train, steps=640 // current().batch_size, out=runs("lab07"), reuse=True)
router = evaluation.evaluate_model(run, task, name="LoRA", reuse=True)
sure, right = [max(row) for row in router.probabilities], [value == 1 for value in router.values]
error = metrics.calibration_error(sure, right)
plots.show(evaluation.reliability(sure, right, "The router"),
           alt=f"Accuracy over confidence in ten bins; the expected calibration error is {error:.3f}")

# %% [markdown]
# Dividing all log-likelihoods by one number, the *temperature*, changes confidence and no answer. It is chosen on
# validation tickets, never on those that are reported. Does it help here?

# %%
held = task.validation
said = evaluation.score_labels(*run.loaded, held["prompt"], task.labels)
t = evaluation.temperature(said, [task.labels.index(label) for label in held["label"]])
logs = np.log(np.clip(router.probabilities, 1e-12, 1)) / t
warm = np.exp(logs) / np.exp(logs).sum(-1, keepdims=True)
after = metrics.calibration_error(warm.max(-1).tolist(), right)
print(f"temperature {t:.2f}: ECE on test {error:.3f} before, {after:.3f} after")

# %% [markdown]
# ## Money a week
# A ticket at the wrong team costs the shop twelve euros, one about a warranty that lands at delivery thirty, since a
# deadline may pass. A person who reads and routes it costs two. These prices are made up; ask for yours before the
# next meeting, not for a percentage.
#
# ### Exercise 7.9 · the threshold that costs least · difficulty 2 · 10 minutes
# `confidence` and `price` are arrays with one number a ticket; `price` is what it costs if the model's answer is taken.
# Below the threshold a person reads it, for `by_hand`. Which of the list `thresholds` costs least?

# %%
import numpy as np

from labkit import check


def best_threshold(confidence, price, by_hand, thresholds):
    ### BEGIN SOLUTION
    return min(thresholds, key=lambda t: np.where(confidence < t, by_hand, price).mean())
    ### END SOLUTION


check("best_threshold", best_threshold)

# %% [markdown]
# With the router, at 1,500 tickets a week, and its confidence as it is: a threshold that is picked by what it costs
# needs no calibration. With calibrated confidence, and every mistake at twelve euros, the prices alone would give it,
# 1 - 2 / 12 = 0.83. It is chosen on validation tickets, and the bill is that of the test tickets:

# %%
from labkit import current, data, evaluation, finetune, plots, runs
from labkit.tables import table

task = data.ticket_task("intent")
run = finetune(task.train, steps=640 // current().batch_size, out=runs("lab07"), reuse=True)
router = evaluation.evaluate_model(run, task, name="LoRA", reuse=True)
costs = evaluation.cost_matrix(task.labels, wrong=12, special={("warranty", "delivery"): 30})


def plans(labels, chances):
    return evaluation.money([task.labels.index(x) for x in labels], chances, costs, by_hand=2, a_week=1500)


held = evaluation.score_labels(*run.loaded, task.validation["prompt"], task.labels).softmax(-1)
chosen = evaluation.cheapest(plans(task.validation["label"], held))
paid = {plan.threshold: plan for plan in plans(router.truth, router.probabilities)}
table(*({"": name, "threshold": t, "to a person": f"{paid[t].by_hand:.0%}", "euros a week": round(paid[t].a_week)}
        for name, t in (("model alone", 0.0), ("chosen", chosen.threshold), ("people alone", 1.01))))

# %% [markdown]
# The whole curve, on the test tickets; the dashed line is the threshold that the validation tickets chose, and need not
# meet its lowest point. Compare that point with both ends. On which side of it does being a little off cost little?

# %%
each = [plan for plan in paid.values() if plan.threshold <= 1]
title = f"A person reads what is below {chosen.threshold:.2f}: {paid[chosen.threshold].a_week:,.0f} euros a week"
figure, axes = plots.new(title, "threshold on the confidence", "euros a week")
axes.plot([p.threshold for p in each], [p.a_week for p in each], color=plots.COLOURS["blue"])
axes.axvline(chosen.threshold, linestyle="--", color=plots.COLOURS["orange"])
axes.set_ylim(bottom=0)
plots.show(figure, alt=f"Cost a week over the threshold; {paid[0.0].a_week:,.0f} euros with the model alone, "
                       f"{paid[chosen.threshold].a_week:,.0f} at the chosen threshold")

# %% [markdown]
# ## Ask people, blindly
# Whether a reply is good, people must say. They prefer the model that they hope will win, so names are hidden and sides
# drawn anew. Two people agree only in part; Cohen's kappa says how much more than by habit.
#
# ### Exercise 7.10 · agreement beyond chance · difficulty 2 · 7 minutes
# `first` and `second` are two raters' choices on the same pairs. kappa = (seen - chance) / (1 - chance), where chance
# comes from how often each of the two makes each choice.

# %%
from labkit import check


def cohens_kappa(first, second):
    ### BEGIN SOLUTION
    n = len(first)
    seen = sum(a == b for a, b in zip(first, second)) / n
    chance = sum(first.count(choice) * second.count(choice) for choice in set(first)) / n**2
    return (seen - chance) / (1 - chance)
    ### END SOLUTION


check("cohens_kappa", cohens_kappa)

# %% [markdown]
# Two repliers: one copies the reply to the most similar ticket, one looks only among tickets on the same kind of
# product. Rate a few: by button, or click into the box and type *a* (left), *b* (right), *t* (tie). Ratings are kept in
# a file; restart the kernel, and you go on where you were.

# %%
from labkit import data, evaluation, runs
from labkit.evaluation.rating import Ratings, agreement
from labkit.widgets.rating import RatingBox

tickets, known = data.read("tickets/test").select(range(0, 576, 18)), data.read("tickets/train")
nearest = evaluation.nearest_answer(known["text"], known["reply"], tickets["text"])
letters, answers = list(known["text"]), list(known["reply"])
kinds = [e["product"].split()[-1] for e in known["entities"]]
same_kind = []
for ticket in tickets:
    among = [i for i, kind in enumerate(kinds) if kind == ticket["entities"]["product"].split()[-1]]
    texts, replies = ([column[i] for i in among] for column in (letters, answers))
    same_kind += evaluation.nearest_answer(texts, replies, [ticket["text"]])
replies = {"any ticket": nearest, "same kind of product": same_kind}
ratings = Ratings(tickets["text"], replies, rater="you", file=runs("lab07-ratings.jsonl"))
RatingBox(ratings)

# %% [markdown]
# So that there is something to count at once, two stand-ins rate all pairs: one likes the longer reply, the other the
# one with the higher ROUGE-L. Where both repliers found the same reply, both must say *tie*. Look at kappa before you
# look at who won.

# %%
import tempfile
from pathlib import Path

from labkit.scratch import metrics

folder, reference = Path(tempfile.mkdtemp()), dict(zip(tickets["text"], tickets["reply"]))
tastes = {"Longer": lambda pair, reply: len(reply),
          "Reader": lambda pair, reply: metrics.rouge_l(reference[pair.prompt], reply)}
raters = []
for name, taste in tastes.items():
    rater = Ratings(tickets["text"], replies, rater=name, file=folder / "ratings.jsonl")
    while pair := rater.pair():
        left, right = taste(pair, pair.left), taste(pair, pair.right)
        rater.choose("tie" if left == right else "left" if left > right else "right")
    raters.append(rater)
kappa, pairs = agreement(*raters)
print(f"kappa of the two on {pairs} pairs: {kappa:.2f}")
print(*(f"{r.rater}: {r.wins().metric} in {r.wins()} of the pairs that are no tie" for r in raters), sep="\n")

# %% [markdown]
# Where a pair shows one reply twice, two ties agree by force, and kappa flatters: rate pairs that differ. Where kappa
# is near zero (and the choices are not nearly all the same), the two were not rating the same thing, and no share of
# wins means anything: write down what "better" is, and rate again. `ratings.export("ratings.csv")` is for a
# spreadsheet.
#
# ## A gate that stops a worse model
# A colleague has trained a candidate on a new export, on 512 letters in place of 640. Nobody noticed that the
# export files returns under *warranty*. **Predict** what a gate must look at to say which team was lost.

# %%
from labkit import current, data, evaluation, finetune, runs

task = data.ticket_task("intent")
returns = [label == "return" for label in task.train["label"]]
wrong = task.train.remove_columns(["completion", "label"])
for column in ("completion", "label"):
    wrong = wrong.add_column(column, ["warranty" if r else label for r, label in zip(returns, task.train["label"])])
good = finetune(task.train, steps=640 // current().batch_size, out=runs("lab07"), reuse=True)
other = finetune(wrong, steps=512 // current().batch_size, out=runs("lab07-candidate"), reuse=True)
baseline = evaluation.evaluate_model(good, task, name="in use", reuse=True)
candidate = evaluation.evaluate_model(other, task, name="candidate", reuse=True)
evaluation.compare([baseline, candidate])

# %% [markdown]
# A rule says who has to prove what. `no_drop` asks the candidate: the lower end of the interval of the difference, row
# by row, must not lie below minus this much. `no_proven_drop` asks the gate: it stops what is worse beyond doubt, which
# is all that a slice of a few families allows; its level is corrected for the number of slices.

# %%
rules = [{"metric": "accuracy", "at_least": 0.75},
         {"metric": "accuracy", "no_drop": 0.03},
         {"metric": "accuracy", "slice": "label", "no_proven_drop": 0}]
verdict = evaluation.gate(candidate, baseline, rules)
verdict

# %% [markdown]
# The last rule names the team that was lost, and with it any other whose loss is beyond doubt. One team of eight can
# cost 12.5 points at most; what others lose may come from the shorter training, or from the same wrong labels, by
# which *warranty* was seen twice as often. The model in use, held against itself, must pass:

# %%
print("candidate passes:", bool(verdict))
print("the model in use against itself passes:", bool(evaluation.gate(baseline, baseline, rules)))

# %% [markdown]
# In CI the same is one command, and its exit code stops the build. The scores lie beside the runs, the rules in a
# file. What does the last line say, and what would it say if the candidate were good?

# %%
import json
import subprocess
import sys
import tempfile
from pathlib import Path

file = Path(tempfile.mkdtemp()) / "rules.json"
file.write_text(json.dumps(rules))
command = [sys.executable, "-m", "labkit", "gate", runs("lab07-candidate"), runs("lab07"), "--rules", file]
done = subprocess.run(command, capture_output=True, text=True)
print(done.stdout.splitlines()[0])
print("exit code", done.returncode)

# %% [markdown]
# Exit code 1 stops the build; a good candidate ends with 0. What passes the gate goes out with a card. It is written
# from the Run and the scores, in the form that the hub reads: the figures stand in its head, where leaderboards look,
# and below for people. This is its beginning:

# %%
from labkit.training import Run

card = evaluation.model_card(Run.read(runs("lab07")), baseline, title="tatra-router",
                             intended="Routes a ticket of Tatra Trail to one of eight teams.")
print(card[:1400].rsplit("\n", 1)[0])

# %% [markdown]
# ## The field's harness says the same
# Papers report figures of `lm-eval`, the harness of EleutherAI, with its hundreds of tasks. A task of your own is a
# small dict: what is asked, the choices, the right one. The harness compares the choices' log-likelihoods, as we do.
# **Predict**: will its accuracy equal ours to the last row?

# %%
from labkit import current, data, evaluation, finetune, runs
from labkit.evaluation.harness import harness_accuracy, task_config

task = data.ticket_task("intent")
run = finetune(task.train, steps=640 // current().batch_size, out=runs("lab07"), reuse=True)
rows = task.test.select(range(0, len(task.test), 24))
print({k: v for k, v in task_config(rows, run.tokenizer, task.labels, "tickets").items() if isinstance(v, str)})
theirs, chosen = harness_accuracy(*run.loaded, rows, task.labels)
ours = evaluation.evaluate_model(run, rows, "intent", labels=task.labels, progress=False)
print(f"lm-eval {theirs:.4f}, ours {ours.main.value:.4f}; same answer in every row:",
      [task.labels[i] for i in chosen] == ours.answers)

# %% [markdown]
# Two such figures are equal only if three things are that often are not: the rendered prompt with its special tokens,
# the end of turn behind each choice, and no space between prompt and choice. Change one, and two honest figures of one
# model can differ.
#
# ## On a real model
# Keep your figures, and see what SmolLM2 measured with this notebook, if it was recorded:

# %%
from labkit import current, data, evaluation, finetune, measured, runs

task = data.ticket_task("intent")
run = finetune(task.train, steps=640 // current().batch_size, out=runs("lab07"), reuse=True)
router = evaluation.evaluate_model(run, task, name="LoRA", reuse=True)
words = evaluation.bag_of_words(task.train["text"], task.train["label"], task.test["text"])
measured.note("07_evaluation", bag_of_words=evaluation.accuracy(router.truth, words, router.groups), LoRA=router.main,
              macro_F1=router.metrics["macro-F1"], ms_a_row=1000 * router.latency)
measured.beside("07_evaluation")

# %% [markdown]
# The larger model does not win by itself. SmolLM2's run in the record saw a part of the training letters, once each,
# and the bag of words counted them all. Where their intervals do not touch: which of the two would you ship, or how
# much longer would you train? Without the row of the bag of words, the other would have looked like a fair beginning.
#
# ## The same by command line
# `labkit evaluate RUN --task intent` scores a run and keeps the scores beside it; `labkit gate NEW OLD --rules
# rules.yml` passes or says which rule failed. `lm_eval --model hf --model_args pretrained=...` runs the harness.
#
# ## What you can do now
# You can write the field's metrics, put an honest interval on each, compare two models on the same rows, find leaked
# rows, price mistakes, ask people blindly, and stop a worse model by a rule.
#
# **Quiz.** Answer each in your head, then open it.
#
# <details><summary>1. Two intervals overlap. Are the models equally good?</summary>
# Not known. Both answered the same rows: look at the interval of the paired difference, which can leave zero out where
# the two overlap.
# </details>
#
# <details><summary>2. A candidate gains a point; one team, 5 % of the tickets, loses forty. What tells you?</summary>
# Neither accuracy nor its interval; the table by slice does, and a rule of the gate on each slice.
# </details>
#
# <details><summary>3. Why is the threshold chosen on validation tickets?</summary>
# Because it is chosen. The least of a hundred costs on the test set is partly luck, and the report would contain it.
# </details>
#
# **Next:** lab 08 looks at training while it runs, and mends five runs that are really broken. How far you are:

# %%
from labkit import progress

progress("07")
