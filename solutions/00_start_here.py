# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 00 · Start here: a warm start
# **You will** see one model before and after about half a minute of training, find out what this machine can do, choose
# the base model that the course runs on, and try the three verbs of the exercises.
#
# *15 minutes. You need: nothing but this notebook. No GPU, no network, no account.*
#
# Tatra Trail is a shop for mountain gear, and its inbox is full. The language model that comes with this course has two
# million parameters, less than a thousandth of what a chat service runs on. What can it do about the inbox?
#
# ## Half a minute from stranger to colleague
# The *base model*, as a model is called before one trains it further, has read about a little world of villages and
# mountain gear, and has never seen the shop's tasks. The next cell trains it, here and now, to sum up a letter in one
# line of the form *team: matter (order, place, date)*.
# **Predict** what it answers *before* training.

# %%
from labkit import data, evaluation, finetune, models, runs
from labkit.widgets.sidebyside import SideBySide

task = data.ticket_task("summary")  # letters with their summaries
run = finetune(task.train, steps=45, out=runs("lab00"))  # a step reads a few letters; the result is kept in runs/


def one_line(model, tokenizer):
    def answer(letter):
        prompt = data.fill(task.template, {"text": letter})
        return evaluation.generate(model, tokenizer, [prompt], max_new_tokens=48)[0]

    return answer


# %% [markdown]
# Training has not seen the letter in the box, nor any letter worded like it. Read both answers, then change the
# product, the number or any other word of the letter, and press *Ask*.

# %%
SideBySide({"base model": one_line(*models.load()), "fine-tuned": one_line(run.model, run.tokenizer)},
           task.test[0]["text"], label="a letter to Tatra Trail")

# %% [markdown]
# Nothing was prepared beforehand: the fine-tuned model was trained while you read. So short a training teaches the form
# first; whether what stands in it is true, hold against the letter.
#
# A model's numbers are called its *parameters*. What share of them was trained (`trained`), and how long did it take?

# %%
from labkit.tables import table

table(steps=run.settings["steps"], letters_read=run.settings["steps"] * run.settings["batch_size"],
      seconds=run.seconds, parameters=run.total, trained=f"{run.share:.1%}")

# %% [markdown]
# That small share is a LoRA adapter: numbers added beside the model's own, which stay as they were. Lab 03 builds one
# by hand. So far you have seen two answers to one letter; how to tell whether a model is *good* is lab 07.
#
# ## What this machine can do
# The doctor looks at everything that the course needs. A line that begins with *mend* has a remedy in its last column:

# %%
from labkit import doctor

findings = doctor.examine()
doctor.table(findings)

# %% [markdown]
# ## One setting moves the whole course
# All labs run on a *profile*: a base model and settings that suit it. With `tiny`, which comes with the course, most
# trainings take seconds; `small` is a real model that takes minutes on a laptop; `full` wants a GPU. The switch below
# holds for this notebook until its kernel restarts. For all notebooks, set the environment variable `LABKIT_PROFILE`
# before you start Jupyter.

# %%
from labkit import doctor
from labkit.widgets.profile import ProfileSwitch

ProfileSwitch(doctor.recommendation().value)

# %% [markdown]
# Here are the three in one table. The last column is the memory that a LoRA training takes at most, in GB and rounded
# up, on the GPU where there is one. A notebook that holds other models beside it takes more:

# %%
from labkit.profiles import PROFILES
from labkit.tables import table

table(*({"profile": p.name, "base model": p.model.split("/")[-1], "from": p.origin, "licence": p.licence,
         "memory (GB)": p.memory} for p in PROFILES.values()))

# %% [markdown]
# Now the same letter goes to a real model, SmolLM2, if you have fetched it (`labkit fetch small` in a terminal, once).
# It has 135 million parameters and has read text from all over the web. **Predict**: does it need the training?

# %%
from labkit import data, evaluation, finetune, models, runs

if models.here("small"):
    task = data.ticket_task("summary")
    real = finetune(task.train, model="small", steps=10, batch_size=4, out=runs("lab00-small"))
    for name, (model, tokenizer) in {"base": models.load("small"), "after 10 steps": real.loaded}.items():
        print(f"{name}: {evaluation.generate(model, tokenizer, task.test['prompt'][:1], max_new_tokens=48)[0]}\n")
else:
    print("SmolLM2 is not on this machine yet: `labkit fetch small` brings it, once.")

# %% [markdown]
# If you have it, hold both lines against the letter: is what they say true, and do they have the shop's form? SmolLM2
# writes English before any training of ours, but well-formed is not yet right. Ten steps are few; in the labs it gets
# more.
#
# ## Three verbs
# Exercises stand between the sections, each with its difficulty from 1 to 3 and the minutes that it may take. Their
# three verbs are `check`, `hint` and `solution`. Run the next cell as it is, then with an answer that is wrong on
# purpose, such as `return 1`, and read what `check` says.
#
# ### Exercise 0.1 · the share of right answers · difficulty 1 · 3 minutes
# Write `accuracy`: `said` and `truth` are lists of labels, of the same length. Return the share of places where they
# agree, a number from 0 to 1.

# %%
from labkit import check, hint, solution


def accuracy(said, truth):
    ### BEGIN SOLUTION
    return sum(s == t for s, t in zip(said, truth)) / len(truth)
    ### END SOLUTION


check("accuracy", accuracy)

# %% [markdown]
# Stuck? `hint("accuracy")` says a little more each time you run it, and `solution("accuracy")` shows how we did it.
# Neither costs anything.

# %%
hint("accuracy")

# %% [markdown]
# ## The map
# Each lab is one notebook. Take them in order, or pick what you need; each section of each lab can be started on its
# own.

# %%
from labkit import course_map

course_map()

# %% [markdown]
# ## What you can do now
# You can fine-tune a language model and compare it with its base, and you know which model the rest of the course will
# run on.
#
# **Quiz.** Answer each in your head, then open it.
#
# <details><summary>1. The fine-tuned model answered better on one letter. What do you know?</summary>
# That it can. How often it does is a question of many letters that training has not seen, and of an interval around
# the answer: labs 03 and 07.
# </details>
#
# <details><summary>2. Why train a model of two million parameters at all?</summary>
# Because you can do it dozens of times an hour. What you learn about data, losses, ranks and mistakes holds for large
# models too, and where it does not, the lab says so.
# </details>
#
# <details><summary>3. What does an exercise that you leave empty break?</summary>
# Nothing. Later cells use the course's own reference, never your answer.
# </details>
#
# **Next:** lab 01 makes data that deserve training on.
