# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 06 · Custom losses: say what you want, and prove the slope
# **You will** write five losses from their formulas, prove the slope of the first, train with other losses than the
# usual one, and measure what they gained.
#
# *75 minutes. You need: lab 03, and to have met derivatives. No GPU, no network, no account.*
#
# A loss is how a model is told what you want, and "predict the next token" is only one way to say it. Here are two
# letters to Tatra Trail. They differ in tone, in product, in nearly every word. Do they mean the same?

# %%
from labkit import data

pairs = data.read("pairs/train")
row = next(r for r in pairs.to_list() if r["y"] == 0)
print(row["a"], "\n\n---\n\n" + row["b"], "\n\nboth are about:", row["matter_a"])

# %% [markdown]
# What a letter is about is its *matter*: the shop's team, then the issue. Two letters mean the same if their matter is
# the same, and whoever answers the second would like to see what was answered to the first. That is *retrieval*: turn
# each letter into a point, and look for the nearest. `pairs` says which points should be near. Mind its direction:
# **y = 1 for pairs that do *not* mean the same**. `kind` says what the two letters have in common:

# %%
from collections import Counter

from labkit.tables import table

counts = Counter((r["y"], r["kind"]) for r in pairs.to_list())
table(*({"y": y, "the two share": kind, "pairs": n} for (y, kind), n in sorted(counts.items())))

# %% [markdown]
# ## The nearest letter, before any training
# The point of a letter is the mean of its tokens' *states*, their vectors behind the last layer, brought to length 1.
# Each test letter then looks for its matter among the letters of all other *families* (a family is one letter with
# other names and numbers in it). *Recall@1* is how often the nearest is of the same matter, *recall@5* how often one of
# the five nearest is, *MRR* the mean of 1 / place, the place of the first one of the same matter.
#
# **Predict** recall@1 for the base model, and for a bag of words, which compares words and pairs of words and gives
# more weight to rare ones. There are 32 matters: a letter taken at random is right about 3 times in 100.

# %%
prediction = ...  # two shares between 0 and 1

# %%
from sklearn.feature_extraction.text import TfidfVectorizer

from labkit import data, models, similarity
from labkit.tables import table

test, known = similarity.tickets_of(data.read("pairs/test")), similarity.tickets_of(data.read("pairs/train"))
words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(known["text"])
base, tokenizer = models.load()
points = {"bag of words": words.transform(test["text"]).toarray(),
          "base model": similarity.embed(base, tokenizer, test["text"])}
found = {name: similarity.retrieval(p, test["matter"], test["family"]) for name, p in points.items()}
table(*({"": name, **{k: str(v) for k, v in scores.items()}} for name, scores in found.items()),
      caption=f"{len(test['text'])} letters of {len(set(test['family']))} families; 95 % intervals, by family")

# %% [markdown]
# The base model was never told what "near" should mean. A loss can tell it.
#
# ## A distance that breaks at zero
# Such a loss needs d, the Euclidean distance of two points. A letter can meet its own copy, and then d is 0.
# **Predict** the gradient there, then look.

# %% tags=["reproducible"]
import torch

from labkit import check

a = torch.ones(1, 3, requires_grad=True)
d = ((a - torch.ones(1, 3)) ** 2).sum(-1).sqrt()
d.sum().backward()
print("distance:", d.item(), "  gradient:", a.grad.tolist())

# %% [markdown]
# The slope of the root at 0 is infinite, that of the square is 0, and their product is not a number (NaN). One such
# pair in one batch turns every weight that is trained into NaN at the next step.
#
# ### Exercise 6.1 · a distance that can be zero · difficulty 2 · 6 minutes
# Write `safe_distance`: `a` and `b` are tensors (n, width), the answer is (n,), one distance a row. Where a row of `a`
# equals that of `b` the gradient must be 0.

# %%
def safe_distance(a, b):
    ### BEGIN SOLUTION
    return (((a - b) ** 2).sum(-1) + 1e-12).sqrt()
    ### END SOLUTION


check("safe_distance", safe_distance)

# %% [markdown]
# ## Pull together, push apart
# Contrastive loss is mean((1 - y) d² + y max(0, m - d)²). Pairs that mean the same are pulled together; the others are
# pushed until they are m, the *margin*, apart.
#
# ### Exercise 6.2 · the contrastive loss from its formula · difficulty 2 · 10 minutes
# `a` and `b` are (n, width), `y` is (n,) and 1 for pairs that do not mean the same. Give one number, as a tensor, so
# that a gradient can flow back from it; this holds for all losses below.

# %%
import torch

from labkit import check
from labkit.scratch.losses import safe_distance


def contrastive_loss(a, b, y, margin):
    ### BEGIN SOLUTION
    d = safe_distance(a, b)
    return ((1 - y) * d**2 + y * (margin - d).clamp(min=0) ** 2).mean()
    ### END SOLUTION


check("contrastive_loss", contrastive_loss)

# %% [markdown]
# Right values are half of it: training uses only the slope. Check that in two ways: against small steps to both sides
# of every number (*finite differences*), and with torch's `gradcheck`, which does the same with more care. Both need
# double precision.

# %% tags=["reproducible"]
from labkit.scratch import losses as by_hand

torch.manual_seed(0)
a, b = (torch.randn(6, 4, dtype=torch.double) for _ in "ab")
y = torch.tensor([0, 1, 0, 1, 1, 0])
loss = lambda a: by_hand.contrastive_loss(a, b, y, 3.0)  # noqa: E731
a.requires_grad_()
(slope,) = torch.autograd.grad(loss(a), a)
gap = float((slope - by_hand.slope_by_steps(loss, a.detach())).abs().max())
print("autograd and small steps agree to 1e-7:", gap < 1e-7)
print("gradcheck:", torch.autograd.gradcheck(loss, (a,)))

# %% [markdown]
# ### Trap one: the label's direction
# Many datasets write 1 for "similar". Take three points, of which the first two mean the same and the third means
# something else, and train them with the right y and with y turned round. **Predict** who ends near whom.

# %% tags=["reproducible"]
from labkit.tables import table


def after_training(y, steps=200):
    torch.manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(3, 2), dim=-1).requires_grad_()
    for _ in range(steps):
        one, other = points[[0, 0, 1]], points[[1, 2, 2]]
        (slope,) = torch.autograd.grad(by_hand.contrastive_loss(one, other, y, 1.0), points)
        points = (points - 0.2 * slope).detach().requires_grad_()
    return by_hand.safe_distance(points[[0, 0]], points[[1, 2]]).tolist()


for name, y in (("y = 1 means other", [0, 1, 1]), ("turned round", [1, 0, 0])):
    print(name, *(f"{d:.2f}" for d in after_training(torch.tensor(y))))

# %% [markdown]
# Each line has the distance from the first point to the one that means the same, then to the one that does not. Turned
# round, the letter that means something else is the nearer one: retrieval would take it. No error and no warning says
# so. In a training of your own, look at the mean distance of both sorts of pairs after a few steps.
#
# ### Trap two: the margin's scale
# The margin is compared with d, so it must suit the size of your vectors. Those of length 1 are at most 2 apart; raw
# states, as the model gives them, have no such limit. **Predict** at which of the margins 0.1, 1 and 100 any pair of
# raw states is pushed apart.

# %%
from labkit import data, losses, models
from labkit.tables import table

base, tokenizer = models.load()
others = [r for r in data.read("pairs/validation").to_list() if r["y"] == 1]
batch = tokenizer([r[side] for side in "ab" for r in others], padding=True, padding_side="right",
                  return_tensors="pt").to(base.device)
with torch.inference_mode():
    states = base(**batch, output_hidden_states=True).hidden_states[-1]
raw = losses.pool(states, batch["attention_mask"])
unit = torch.nn.functional.normalize(raw, dim=-1)
apart = {name: losses.distance(*v.chunk(2)) for name, v in {"raw states": raw, "of length 1": unit}.items()}
table(*({"": name, "median d": float(d.median()),
         **{f"pushed at margin {m:g}": f"{float((d < m).float().mean()):.0%}" for m in (0.1, 1.0, 100.0)}}
        for name, d in apart.items()))

# %% [markdown]
# Where 0 % are pushed, pairs with y = 1 teach nothing until they are nearer than the margin; until then everything can
# shrink together at no cost. Where the margin is more than any distance can be, as 100 is for length 1, every pair is
# pushed for ever. Bring vectors to length 1 and take a margin near 1, the default of `labkit.losses.contrastive`:
# pushing ends where a pair is 1 apart.
#
# ## Negatives for nothing
# *InfoNCE* asks another question: which of the n letters b in this batch belongs to this a? The n - 1 others are its
# *negatives*, and nobody had to collect them.
#
# ### Exercise 6.3 · pick your partner out of the batch · difficulty 2 · 10 minutes
# `a` and `b` are (n, width), and row i of `a` is the partner of row i of `b`. Bring all rows to length 1, so that
# products are cosines; divide those by the temperature, and give the mean cross-entropy of picking row i of `b` for row
# i of `a`.

# %%
import torch

from labkit import check


def info_nce_loss(a, b, temperature):
    ### BEGIN SOLUTION
    a, b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
    logits = a @ b.T / temperature
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(a)))
    ### END SOLUTION


check("info_nce_loss", info_nce_loss)

# %% [markdown]
# ## Train with it
# `finetune` takes any function of (model, batch, items) as its loss; `items` is how many pairs (or labels) there are in
# all the batches that make one step. Settings such as the margin are fixed with `partial`. The negatives come from the
# batch, so it has 16 pairs on every model. The optimizer is *Muon*. AdamW fits the step of every number by itself; Muon
# takes a matrix as a whole and makes its step equally long in all directions, so that the rare ones are learnt along
# with the common ones. On tiny-base that found as many matters after 90 steps as AdamW did after 120; on other tasks,
# such as tone, the two came out alike. Its learning rate has another scale. InfoNCE gets twice the usual rank, which
# did better on validation letters. The contrastive loss gets a ninth of the steps, enough to see that it runs in the
# Trainer, not to judge it. **Predict** recall@1 after each.

# %%
from functools import partial

from labkit import current, data, finetune, losses, models, runs, similarity

tokenizer = models.load()[1]
rows = similarity.encode_pairs(data.read("pairs/train"), tokenizer)
same = rows.select([i for i, y in enumerate(rows["y"]) if y == 0])  # InfoNCE has no use for the others
usual = current().steps * current().batch_size  # letters that a run of the profile reads
steps = int(0.9 * usual / 16)
setting = dict(batch_size=16, optimizer="muon", learning_rate=6 * current().learning_rate,
               arguments={"adam_beta1": 0.8}, collator=similarity.PairCollator(tokenizer),  # Muon's momentum
               skip=("loss_mask", "end_of_turn"))  # tripwires of language modelling
tuned = {
    "contrastive": finetune(rows, loss=partial(losses.contrastive, margin=1.0), steps=steps // 9,
                            out=runs("lab06-pairs"), **setting),
    "InfoNCE": finetune(same, loss=partial(losses.info_nce, temperature=0.03), steps=steps,
                        rank=2 * current().rank, out=runs("lab06-nce"), **setting),
}

# %% [markdown]
# Two pairs in one batch may be about the same matter. Your function would take their letters for each other's
# negatives; `losses.info_nce` leaves them out, by the column `group`, the number of the matter. It also asks the
# question both ways, b for a too, and takes the mean. Now the same test as before:

# %%
from sklearn.feature_extraction.text import TfidfVectorizer

from labkit.tables import table

test, known = similarity.tickets_of(data.read("pairs/test")), similarity.tickets_of(data.read("pairs/train"))
words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit(known["text"])
points = {"bag of words": words.transform(test["text"]).toarray(),
          "base model": similarity.embed(*models.load(), test["text"])}
points |= {name: similarity.embed(run.model, tokenizer, test["text"]) for name, run in tuned.items()}
found = {name: similarity.retrieval(p, test["matter"], test["family"]) for name, p in points.items()}
table(*({"": name, **{k: str(v) for k, v in scores.items()}} for name, scores in found.items()),
      caption=f"{len(test['text'])} letters of {len(set(test['family']))} families; 95 % intervals, by family")

# %% [markdown]
# "Better than" may be said where two intervals do not touch. Compare InfoNCE with the base, and with the bag of words
# too: is it clear of both? The contrastive loss had fewer steps, so its row says nothing about which of the two losses
# is better. The line below asks whether InfoNCE gained 30 points over the base, which is what we had hoped for; `False`
# says that this short training fell short of it.

# %%
from labkit import measured

gain = found["InfoNCE"]["recall@1"].value - found["base model"]["recall@1"].value
measured.note("06_custom_losses", recall_gain_points=round(100 * gain, 1), seconds_nce=tuned["InfoNCE"].seconds,
              **{f"recall@1_{name.replace(' ', '_')}": scores["recall@1"] for name, scores in found.items()})
print(f"recall@1 rises by {100 * gain:.0f} points; by 30 or more: {gain >= 0.3}")

# %% [markdown]
# ### Look at the room
# Points have as many coordinates as the model is wide; each picture shows the two directions in which its points differ
# most (*principal components*), for five matters of five teams. The percentages in the title are recall@1 from the
# table, of all test letters. **Predict** before you run it: do letters of one matter lie together in the left picture?

# %%
from labkit import plots

chosen = sorted({m.split("/")[0]: m for m in test["matter"]}.values())[:5]
rows_of = [i for i, m in enumerate(test["matter"]) if m in chosen]
panels = {name: similarity.flat(points[name][rows_of]) for name in ("base model", "InfoNCE")}
title = (f"The nearest letter means the same: {found['base model']['recall@1'].value:.0%} before, "
         f"{found['InfoNCE']['recall@1'].value:.0%} after")
plots.show(plots.clouds(panels, [test["matter"][i] for i in rows_of], title),
           alt=f"{title}. Test letters of five matters as points, left of the base model, right after InfoNCE")

# %% [markdown]
# Tight knots are mostly families, one letter with other names in it. On the left, see how far apart knots of one colour
# lie; on the right, which have moved together and which have not. Two directions are not all of them: what overlaps
# here may be apart in the others. The table is the evidence, the picture is an illustration.
#
# ## The loss that you have used all along
# For language modelling each token is a choice among the vocabulary, and only the answer counts.
#
# ### Exercise 6.4 · the loss that the library computes · difficulty 2 · 10 minutes
# `logits` is (batch, seq, vocabulary), `labels` is (batch, seq) with -100 where nothing counts. The logits at place t
# are about the token at t + 1. Give the mean of -log p over all labels that count, and 0 where none does.

# %%
import torch

from labkit import check


def masked_cross_entropy(logits, labels):
    ### BEGIN SOLUTION
    logits, labels = logits[:, :-1], labels[:, 1:]
    counts = labels != -100
    log_p = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    return -(log_p * counts).sum() / counts.sum().clamp(min=1)
    ### END SOLUTION


check("masked_cross_entropy", masked_cross_entropy)

# %% [markdown]
# By hand, by `labkit.losses`, and by transformers itself, on the same eight letters. **Predict** how many digits agree.

# %%
from labkit import data, losses, models
from labkit.data.encode import collate, encode, pad_id
from labkit.scratch import losses as by_hand
from labkit.tables import table

base, tokenizer = models.load()
task = data.ticket_task("tone")
rows = encode(task.train.select(range(16)), tokenizer).to_list()
batch = {name: value.to(base.device) for name, value in collate(rows[:8], pad_id(tokenizer)).items()}
with torch.inference_mode():
    answer = base(**batch)
    mine = by_hand.masked_cross_entropy(answer.logits.float(), batch["labels"])
    values = {"by hand": float(mine), "labkit.losses": float(losses.masked(base, batch)),
              "transformers": float(answer.loss)}
table({name: f"{value:.6f}" for name, value in values.items()})

# %% [markdown]
# ### Trap three: a mean of four means
# With gradient accumulation a batch of 16 comes in four parts. Where answers differ in length, a mean of four means is
# not the mean over the whole batch: one must divide by the number of labels of all four, which is what `items` is for.
# The answers here are summaries, because their lengths differ.

# %%
rows = encode(data.ticket_task("summary").train.select(range(16)), tokenizer).to_list()
parts = [collate(rows[i : i + 4], pad_id(tokenizer)) for i in range(0, 16, 4)]
whole = collate(rows, pad_id(tokenizer))
items = int((whole["labels"][:, 1:] != -100).sum())
with torch.inference_mode():
    to = lambda part: {name: value.to(base.device) for name, value in part.items()}  # noqa: E731
    one = float(losses.masked(base, to(whole)))
    right = sum(float(losses.masked(base, to(part), items)) for part in parts)
    wrong = sum(float(losses.masked(base, to(part))) for part in parts) / 4
print(f"one batch of 16: {one:.5f}   four of 4, by items: {right:.5f}   mean of means: {wrong:.5f}")
print("by items equal:", abs(one - right) < 1e-4, "  mean of means equal:", abs(one - wrong) < 1e-4)

# %% [markdown]
# Every loss in `labkit.losses` divides by `items`. For InfoNCE that is not enough: in a batch of 4 a letter has 3
# negatives, in one of 16 it has 15, so the question itself is another one.
#
# ## When one class is rare
# In a real inbox some classes are rare, and a model that never gives such a class as its answer can still be right most
# of the time. Two remedies: weigh the rare class more, or weigh less what the model knows already.
#
# ### Exercise 6.5 · count less what is known already · difficulty 2 · 8 minutes
# *Focal* loss is the mean of (1 - p)^gamma (-log p), where p is the probability of the right class. `logits` is
# (n, classes), `targets` is (n,), the number of the right class of each row.

# %%
from labkit import check


def focal_loss(logits, targets, gamma):
    ### BEGIN SOLUTION
    log_p = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    return ((1 - log_p.exp()) ** gamma * -log_p).mean()
    ### END SOLUTION


check("focal_loss", focal_loss)

# %% [markdown]
# Now an imbalanced slice: all training letters of five tones, and 36 of the sixth, *fear*. The test letters stay as
# they are. `label_weights` weighs a label by letters / (classes × letters of its class), so that each class has the
# same total:

# %%
from functools import partial

from labkit import current, data, evaluation, finetune, losses, models, runs
from labkit.tables import table

task, rare = data.ticket_task("tone"), "fear"
slice_ = data.with_rare(task.train, rare, keep=36)
weights = losses.label_weights(tokenizer := models.load()[1], slice_["label"])
print({tokenizer.decode([token]).strip(): round(weight, 2) for token, weight in weights.items()})

# %% [markdown]
# Three trainings on the same rows, in the same order, scored on every second test letter: intervals depend on the
# number of families, and nearly all of those stay. **Predict** the F1 of the rare class under each.

# %%
held = task.test.select(range(0, len(task.test), 2))
families = evaluation.groups_of(held)
kinds = {"cross-entropy": None, "class-weighted": partial(losses.class_weighted, weights=weights),
         "focal, gamma 2": partial(losses.focal, gamma=2.0)}
said = {}
for name, loss in kinds.items():
    run = finetune(slice_, optimizer="muon", steps=current().steps * 3 // 10, group_by_length=True, loss=loss,
                   out=runs(f"lab06-{name.split(',')[0]}"))
    said[name] = evaluation.classify(run.model, run.tokenizer, held["prompt"], task.labels)
plain = said["cross-entropy"]
table(*({"": name, f"F1 of {rare}": str(evaluation.class_f1(held["label"], s, rare, families)),
         "gain": str(evaluation.class_f1(held["label"], s, rare, families, before=plain)) if s is not plain else None,
         "macro-F1": str(evaluation.macro_f1(held["label"], s, families))} for name, s in said.items()))

# %% [markdown]
# `gain` is how many points F1 lies above that of plain cross-entropy; its interval compares the two on the same
# letters. Where that lies above 0, the remedy lifts the rare class, with this seed and on this test; if it reaches 0,
# nothing is shown. An interval without width, 0 to 0, is no certainty: the class was never answered rightly, and there
# is nothing to draw from. A remedy may cost elsewhere what it gives here, so look at macro-F1 too, the mean of all
# classes' F1. Focal loss knows nothing of classes: it counts less what is easy, and that can help a rare class only if
# its letters are among the hard ones, and need not even then. It can take the same weights (`focal(..., weights=...)`).
# %%
from labkit import measured

measured.note("06_custom_losses", **{
    f"rare_F1_{name.split(',')[0]}": evaluation.class_f1(held["label"], s, rare, families) for name, s in said.items()})

# %% [markdown]
# ## A small student of a large teacher
# A label names one answer; a teacher's probabilities also say how near the others were. In *distillation* a smaller
# model imitates them, softened by a temperature T.
#
# ### Exercise 6.6 · learn from the teacher's doubt · difficulty 3 · 12 minutes
# `student` and `teacher` are logits, (n, classes); divide both by T before the softmax. KL(teacher || student) of a row
# is the sum over classes of p (log p - log q), p the teacher's and q the student's probability. Give T² times its mean
# over rows. No gradient may reach the teacher.

# %%
from labkit import check


def distillation_loss(student, teacher, temperature):
    ### BEGIN SOLUTION
    log_p = (teacher.detach() / temperature).log_softmax(-1)
    log_q = (student / temperature).log_softmax(-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    ### END SOLUTION


check("distillation_loss", distillation_loss)

# %% [markdown]
# Suppose that you got a tuned model, the teacher, but not the labels that it was tuned on. You have 48 letters that you
# labelled yourself, and many more without labels. A student that learns from labels can use only the 48; the teacher
# can be asked about all. The teacher here is the base with all its weights tuned (lab 02's, if you have it already).

# %%
import torch

from labkit import current, data, evaluation, finetune, models, runs

task = data.ticket_task("tone")
teacher = finetune(task.train, method="full", steps=current().steps // 2, learning_rate=1e-4, group_by_length=True,
                   out=runs("lab02-full"), reuse=True)
letters = task.train.shuffle(seed=0).select(range(1200 // current().test_every))
doubt = evaluation.score_labels(*teacher.loaded, letters["prompt"], task.labels)  # (letters, 6), log-likelihoods
print(letters[0]["text"], "\n")
print({label: f"{p:.0%}" for label, p in zip(task.labels, doubt[0].softmax(-1).tolist(), strict=True)})

# %% [markdown]
# The student is no longer a language model. It takes the base's vector of each token, the mean of these over a letter,
# and one layer that turns the mean into six numbers. All of it is trained.

# %%
class Student(torch.nn.Module):
    def __init__(self, base, classes):
        super().__init__()
        vectors = base.get_input_embeddings().weight.detach().float().cpu().clone()  # (vocabulary, width)
        self.words = torch.nn.EmbeddingBag.from_pretrained(vectors, freeze=False)  # the mean over a letter
        self.out = torch.nn.Linear(vectors.shape[1], classes)

    def forward(self, tokens, starts):  # all letters in a row, and where each begins; gives (letters, classes)
        return self.out(self.words(tokens, starts))


def in_a_row(texts):
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    starts = torch.tensor([0] + [len(letter) for letter in ids[:-1]]).cumsum(0)
    return torch.tensor([token for letter in ids for token in letter]), starts


# %% [markdown]
# Five students, with the same start and the same steps. One has your 48 labels. Three have no label, only the teacher:
# its *pick* for each letter, or its doubt at two temperatures. The last has the true labels of all letters, which you
# do not have: it shows what labelling them all would have gained. **Predict** their order.

# %%
from functools import partial

from labkit.scratch import losses as by_hand

base, tokenizer = models.load()
few, all_of_them = in_a_row(letters["text"][:48]), in_a_row(letters["text"])
right, plain = torch.tensor([task.labels.index(label) for label in letters["label"]]), torch.nn.functional.cross_entropy
kinds = {
    "48 labels": (few, partial(plain, target=right[:48])),
    "teacher's picks": (all_of_them, partial(plain, target=doubt.argmax(-1))),
    "doubt, T = 1": (all_of_them, partial(by_hand.distillation_loss, teacher=doubt, temperature=1.0)),
    "doubt, T = 4": (all_of_them, partial(by_hand.distillation_loss, teacher=doubt, temperature=4.0)),
    "all labels": (all_of_them, partial(plain, target=right)),
}

# %%
students = {}
for name, (seen, loss) in kinds.items():
    torch.manual_seed(0)
    student = students[name] = Student(base, len(task.labels))
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss(student(*seen)).backward()
        optimizer.step()

# %% [markdown]
# Teacher and students on letters of families that none of them has seen. `gain` is how many points of accuracy each has
# more than the student of 48 labels, on the same letters. The caption says how long the teacher and one student take
# for them.

# %%
import time

from labkit.tables import table

held = task.test.select(range(0, len(task.test), 2))
families, seconds = evaluation.groups_of(held), [time.perf_counter()]
by_model = {"teacher": evaluation.classify(*teacher.loaded, held["prompt"], task.labels)}
seconds.append(time.perf_counter())
with torch.inference_mode():
    for name, student in students.items():
        by_model[f"student, {name}"] = [task.labels[i] for i in student(*in_a_row(held["text"])).argmax(-1)]
        seconds.append(time.perf_counter())

# %%
hits = {name: [float(a == b) for a, b in zip(held["label"], answers, strict=True)]
        for name, answers in by_model.items()}
own = hits["student, 48 labels"]
sizes = [models.count_parameters(model).total for model in (teacher.model, *students.values())]
table(*({"": name, "parameters": size, "accuracy": str(evaluation.accuracy(held["label"], by_model[name], families)),
         "gain": "-" if mine is own else str(evaluation.mean_score(
             "gain", [a - b for a, b in zip(mine, own, strict=True)], families))}
        for (name, mine), size in zip(hits.items(), sizes, strict=True)),
      caption=f"{len(held)} letters in {seconds[1] - seconds[0]:.2f} s by the teacher, in "
              f"{seconds[-1] - seconds[-2]:.3f} s by a student")

# %% [markdown]
# Where the gain of one of the teacher's three students has its interval above 0, the teacher was worth it: letters
# without labels became letters to learn from. Then compare the three. Where their intervals overlap, this table does
# not say that doubt teaches more than picks, or one temperature more than the other. How far is the best of them from
# the teacher, and would true labels for all letters have closed that gap? A mean over tokens knows nothing of their
# order, so it cannot tell what a "not" belongs to, however well it is taught; and a student can take over its teacher's
# mistakes. Mind, too, that this teacher was tuned on letters of the same families that it is asked about here: how well
# it teaches with letters from elsewhere, this table does not say.
#
# For a student that is a language model with the same tokenizer, `finetune` takes this loss, mixed with a little plain
# cross-entropy: `loss=partial(losses.distilled, teacher=teacher.model, temperature=2.0)`. A student that is made by
# cutting layers out of a larger model needs far longer training than this lab has time for.
#
# ### Doubt without a teacher
# *Label smoothing* takes a little of the target, here 0.1, from the label and spreads it over all tokens. The table has
# the loss of an answer that is given the probability p, with the rest spread evenly over 2,047 other tokens.
# **Predict** at which p the smoothed loss is lowest.

# %% tags=["reproducible"]
import math

from labkit.scratch import losses as by_hand

targets = torch.zeros(1, dtype=torch.long)
shown = []
for p in (0.5, 0.9, 0.99, 0.9999):
    logits = torch.full((1, 2048), (1 - p) / 2047, dtype=torch.float64).log()
    logits[0, 0] = math.log(p)
    shown.append({"p": p, "plain": float(by_hand.smoothed_loss(logits, targets, 0.0)),
                  "smoothed 0.1": float(by_hand.smoothed_loss(logits, targets, 0.1))})
table(*shown)

# %% [markdown]
# The plain loss falls as long as p grows; the smoothed one is lowest near p = 0.9 and rises beyond. It keeps a model
# from being too sure, and its value is no longer a likelihood: do not compare it with other losses.
#
# ## A loss of your own
# Anything with a slope can be added. Suppose an answer must be one of six words: then probability on any other token
# earns a penalty, -log of the share that lies on the allowed tokens. How large is it, before training and after?

# %%
from labkit import current, data, finetune, losses, models, runs
from labkit.data.encode import collate, encode, encode_completion, pad_id
from labkit.tables import table

task, tokenizer = data.ticket_task("tone"), models.load()[1]
slice_ = data.with_rare(task.train, "fear", keep=36)
allowed = sorted({token for label in task.labels for token in encode_completion(tokenizer, label)})
run = finetune(slice_, optimizer="muon", steps=current().steps * 3 // 10, group_by_length=True,
               out=runs("lab06-cross-entropy"), reuse=True)
batch = collate(encode(task.validation.select(range(32)), tokenizer).to_list(), pad_id(tokenizer))

# %% [markdown]
# The loss without and with the penalty; their difference is the penalty:

# %%
import torch

with torch.inference_mode():
    rows = []
    for name, model in {"base model": models.load()[0], "tuned": run.model}.items():
        on = {key: value.to(model.device) for key, value in batch.items()}
        plain, both = losses.masked(model, on), losses.format_penalty(model, on, allowed=allowed)
        rows.append({"": name, "cross-entropy": float(plain), "penalty": float(both - plain)})
table(*rows)

# %% [markdown]
# Where the second penalty is near 0, ordinary training has removed it by itself: a penalty earns its place where it
# says something that the labels do not. `losses.length_penalty` is a second example: behind a given number of tokens it
# asks for the end of turn.
#
# **A loss is ready** when it passes what `tests/test_losses.py` asks: gradcheck in double precision, one batch of 16
# equal to four of 4 (InfoNCE cannot), the same value padded and packed (unless it counts a row's places, as
# `length_penalty` does), fp32 and bf16 close, and 0, not NaN, where nothing counts. In a `transformers.Trainer` of your
# own it needs four lines; the last is for evaluation, which wants a dict of outputs beside the loss:
#
# ```python
# class MyTrainer(Trainer):
#     def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
#         loss = losses.focal(model, inputs, num_items_in_batch, gamma=2.0)
#         return (loss, {"loss": loss}) if return_outputs else loss
# ```
#
# ## On a real model
# With `LABKIT_PROFILE=small` this very notebook runs on SmolLM2. What it measured, if it was recorded, beside what you
# have just seen:

# %%
from labkit import measured

measured.beside("06_custom_losses")

# %% [markdown]
# There is no command for a loss of your own: `labkit finetune` and `olive finetune` know cross-entropy only. Write a
# function in a file of yours and give it to `finetune(loss=...)`.
#
# ## What you can do now
# You can write a loss from its formula, prove its slope, avoid three traps that print nothing, hand it to the Trainer,
# and say whether it gained anything.
#
# **Quiz.** Answer each in your head, then open it.
#
# <details><summary>1. Your contrastive loss falls to 0.00 within ten steps. Good news?</summary>
# Not yet. If only pairs with y = 0 are left in the batches, everything can fall into one point at no cost; if the
# margin m is tiny, a pair with y = 1 costs m² there, next to nothing. Look at the mean distance of pairs with y = 1.
# </details>
#
# <details><summary>2. Why is accumulation harmless for cross-entropy and not for InfoNCE?</summary>
# A token's cross-entropy looks at no other row, so sums over parts add up. An InfoNCE term has the whole batch in its
# denominator, and a part is a smaller batch.
# </details>
#
# <details><summary>3. Focal loss lifted the rare class by 5 points, and the interval of the gain is -2 to 12. What do
# you write?</summary>
# That these letters cannot tell it from chance. More seeds, and more test families of the rare class, could.
# </details>
#
# **Next:** lab 07 asks how you know that a model got better at all. How far you are:

# %%
from labkit import progress

progress("06")
