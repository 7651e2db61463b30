# %% [markdown]
# # 13 · Capstone: from a file to a model with its papers
# **You will** take one file of data all the way: report, cleaning, split, baselines, two methods, a search, an honest
# figure, a gate, a model that runs without PyTorch, and the card that goes with it.
#
# *120 minutes and more. You need: the labs before this one, or their ideas. No GPU, no network, no account.*
#
# Nothing new is taught here. Nine steps stand below, each with a check that does not look at your variables: it reads
# what the step left in the project's folder, and scores it again. Your own code is welcome in every step; the course's
# way is one call, and where you leave a step out, the course takes it so that the next one can begin.

# %%
from labkit.capstone import STEPS, Project

SOURCE = "handbook"  # or your own: a file (JSON, JSONL, CSV, TSV, Parquet), or "hub:owner/name"
project = Project.open(SOURCE)
print(project.understood())

# %% [markdown]
# The file may have texts and labels, questions and answers, or whole conversations; what was understood of it stands
# above. If that is wrong, mend the file before you go on: everything below believes it. Each cell below opens the
# project again, as you left it.
#
# **Predict.** The base has never seen the answers of this file. By how many points will fine-tuning be ahead of the
# answer to the most similar training question, which costs nothing, or behind it? Write it down; step seven will tell.

# %%
prediction = ...  # points of the figure that counts

# %% [markdown]
# ## Step 1: know the rows
# `report.json` and `report.html` are to lie in the project's folder: what is missing, doubled, personal or broken.
#
# ### Checkpoint 13.1 · what is wrong with the rows · difficulty 1 · 10 minutes

# %%
from labkit import check, hint, solution
from labkit.capstone import Project

project = Project.open()
### BEGIN SOLUTION
report = project.report()
print(report)
### END SOLUTION

check("project_report", project)

# %% [markdown]
# The shipped file was made clean; a file of your own will have findings.
#
# ## Step 2: rows in, rows out, rows named
# What leaves nothing to decide is dropped: rows without text or label, the second of two equal rows, training rows that
# stand in the test file too, or nearly. `cleaned/` gets the rows that stay, and `dropped.json` names each other one by
# its line and its finding. **Predict** from the report how many rows go.
#
# ### Checkpoint 13.2 · rows in, rows out, rows named · difficulty 1 · 10 minutes

# %%
from labkit import check
from labkit.capstone import Project

project = Project.open()
project.upto("report")
### BEGIN SOLUTION
print(project.clean())
### END SOLUTION

check("project_clean", project)

# %% [markdown]
# The last line is the first minus those between, and the check counts again from the two files. What needs a decision
# stands above the table and stays in: near duplicates, conflicting labels, personal data, HTML. Mend it as in lab 01,
# write the mended file, and open the project on that one; what is left in goes into the model.
#
# ## Step 3: shut the test rows away
# `splits/` gets three files, none of which shares a prompt with another, and the list of cleaned rows that are too long
# for the model.
#
# ### Checkpoint 13.3 · three parts that share nothing · difficulty 1 · 10 minutes

# %%
from labkit import check
from labkit.capstone import Project

project = Project.open()
project.upto("clean")
### BEGIN SOLUTION
print(project.split())
### END SOLUTION

check("project_split", project)

# %% [markdown]
# ## Step 4: what costs nothing
# Before anything is trained: the commonest answer, the answer of similar words, the base model as it is. Look which of
# the three is ahead; that is the one to beat. Where answers are written, the first 64 test rows are scored, since
# writing takes longer than picking.
#
# ### Checkpoint 13.4 · what costs nothing · difficulty 1 · 10 minutes

# %%
from labkit import check
from labkit.capstone import Project

project = Project.open()
project.upto("split")
### BEGIN SOLUTION
print(project.baselines())
### END SOLUTION

check("project_baselines", project)

# %% [markdown]
# ## Step 5: two methods on the same rows
# LoRA and full fine-tuning, with the same rows and the same number of steps; or any two that `finetune` knows. They are
# judged on validation rows, since a choice that is made on test rows spoils them.
#
# **Predict.** Which of the two is ahead after so few steps, and by how much?
#
# ### Checkpoint 13.5 · two methods, one comparison · difficulty 2 · 20 minutes

# %%
from labkit import check
from labkit.capstone import Project

project = Project.open()
project.upto("baselines")
### BEGIN SOLUTION
print(project.methods(("lora", "full")))
### END SOLUTION

check("project_methods", project)

# %% [markdown]
# Where the intervals overlap, so few rows do not tell the two apart. Read the column of trained parameters beside the
# figure. The steps below go on with LoRA whichever is ahead: it is LoRA's settings that are searched.
#
# ## Step 6: ten trials
# Learning rate, rank, scale, batch and dropout, drawn and judged on validation rows; the study lies in a file and goes
# on where it stopped.
#
# ### Checkpoint 13.6 · ten trials · difficulty 2 · 15 minutes

# %%
from labkit import check
from labkit.capstone import Project

project = Project.open()
project.upto("methods")
### BEGIN SOLUTION
study = project.search(trials=10)
print(study.table(5))
### END SOLUTION

check("project_search", project)

# %% [markdown]
# The figure of a trial on free text is the mean log-likelihood of a token of the right answer, in nats, which takes no
# writing and is quick; a model that is ahead by it need not write the better answers. On labels it is accuracy. Which
# trial was chosen, and how they went:

# %%
from labkit import plots
from labkit.capstone import Project
from labkit.search import figures

project = Project.open()
project.upto("search")
plots.show(figures.history(project.search()), alt="the trials' figures in their order, and the best so far")

# %% [markdown]
# ## Step 7: the figure
# Train with the chosen setting on all training rows, then score it on the test rows, once.
#
# ### Checkpoint 13.7 · the test rows, once · difficulty 2 · 15 minutes

# %%
from labkit import check
from labkit.capstone import Project

project = Project.open()
project.upto("search")
### BEGIN SOLUTION
print(project.evaluation())
### END SOLUTION

check("project_evaluation", project)

# %% [markdown]
# Compare with your prediction: *tuned* minus *similar words*, in points (the tables of steps four and seven have the
# decimals), beside everything that costs nothing, on the same rows.

# %%
from labkit import plots
from labkit.capstone import Project

project = Project.open()
project.upto("evaluation")
plots.show(plots.scores(project.beside(), project.finding(), x=project.metric),
           alt="; ".join(f"{name} {value:.1%}" for name, value, *_ in project.beside()))

# %% [markdown]
# Where the title says *behind*, what it names costs nothing and is the better product: write that down, and do not
# ship for this figure (quiz 1). Where even the commonest answer is ahead, the model makes little of the question. Now
# the rows that went worst. Read them aloud, and count how often one sentence comes back for different questions: they
# say more about what to do next than any figure.

# %%
from labkit.capstone import Project
from labkit.evaluation import Evaluation

project = Project.open()
project.upto("evaluation")
Evaluation.read(project.folder / "final").worst(5)

# %% [markdown]
# ## Step 8: a gate that could say no
# Rules, and what they say of this model against the base. A gate that nothing could fail is none, and the check turns
# it away.
#
# ### Checkpoint 13.8 · a rule that could say no · difficulty 1 · 10 minutes

# %%
from labkit import check
from labkit.capstone import Project

project = Project.open()
project.upto("evaluation")
### BEGIN SOLUTION
print(project.gate([{"metric": "main", "no_drop": 0.0}]))
### END SOLUTION

check("project_gate", project)

# %% [markdown]
# Open or shut, it was asked about the base alone: the lookup of step four is not in this rule. Add one that asks, such
# as `{"metric": "main", "at_least": ...}` with the best figure of that step as a share, and run the cell again: is the
# gate still open?
#
# ## Step 9: out of PyTorch, with its papers
# ONNX in 4 bits, one set of test prompts through every stage, and the model card that carries what came of it. The last
# stage is a server on this machine that answers over HTTP, as `labkit serve` does. Merged, ONNX fp32 and served must
# say what the stage before says; the 4-bit model may lose a little, within the intervals. The check asks the first
# prompts again and names the stage that drifts; a project with such a stage does not hold.
#
# **Predict.** Four bits a weight in place of thirty-two: how many of the written answers will still be the same?
#
# ### Checkpoint 13.9 · out of PyTorch, with its papers · difficulty 3 · 30 minutes

# %%
from labkit import check
from labkit.capstone import Project

project = Project.open()
project.upto("gate")
### BEGIN SOLUTION
book = project.export()
print(book.table())
### END SOLUTION

check("project_export", project)

# %% [markdown]
# An answer that differs by one word counts as another; the figure beside it says whether it got worse. Where there are
# labels, the stages before *served* choose among them, and a client gets what is written: a served figure below theirs
# is no drift as long as the written answers are as before, and it is the one that clients see.
#
# The card as strangers will read it, with this table, all but its front matter. It sets the model beside the base
# alone: if something of step four is ahead, add that line before you hand the card on.

# %%
from labkit.capstone import Project

project = Project.open()
project.upto("export")
card = (project.folder / "README.md").read_text(encoding="utf-8").split("---", 2)[2]
print(card.strip())

# %% [markdown]
# ## Talk to it
# The ONNX model answers a test question below, without PyTorch. Is it the answer to that question? In a terminal, in
# the folder of your runs, `labkit serve` with the folder that is printed gives the same to any program that speaks
# OpenAI's API.

# %%
from labkit.capstone import Project
from labkit.widgets.serve import AdapterChat

project = Project.open()
project.upto("export")
print(f"{project.folder.name}/onnx", "is asked:", project.question(), sep="\n")
AdapterChat(project.onnx(), project.question(), tokens=64)

# %% [markdown]
# ## The rubric
# All nine steps once more, from the disk. This is also what a teacher's check sees.

# %%
from labkit.capstone import Project, rubric

project = Project.open()
project.upto("export")
rubric(project)

# %% [markdown]
# ## On a real model
# With `LABKIT_PROFILE=small` the same steps run on SmolLM2. What it measured, if it was recorded, beside what you have
# just seen:

# %%
from labkit import measured
from labkit.capstone import Project

project = Project.open()
project.upto("export")
measured.note("13_capstone", **project.figures())
measured.beside("13_capstone")

# %% [markdown]
# ## The same by command line
# `labkit inspect`, `labkit finetune`, `labkit search`, `labkit evaluate` and `labkit gate` are steps of this lab, one
# word each; `labkit serve` answers with what came of them, and `labkit handin` puts together what you show to others.
#
# ## What you can do now
# You can take a file that nobody has prepared to a model that runs on a small machine, and say at each step what it
# gained, what it cost, and how sure you are.
#
# **Quiz.** Answer each in your head, then open it.
#
# <details><summary>1. The tuned model beats the base by far, and not "similar words". Do you ship it?</summary>
# Not for this figure. Looking up the most similar question costs no training, never invents a rule, and can be mended
# by adding a row. Ship the model only for what the lookup cannot do, and measure that.
# </details>
#
# <details><summary>2. The gate is shut. May you train once more with another seed and try again?</summary>
# Once, if you write both down. Each try on the same test rows is another draw; after ten of them one passes by luck.
# The honest way is a new set of test rows, or a rule that was made before the first try.
# </details>
#
# <details><summary>3. In which step did most of the work go, and in which would an hour more pay?</summary>
# With a file of your own, mostly the rows. Ten trials move the figure that they are judged by; mending labels, taking
# out doubles and adding the cases that went worst mostly moves the test figure by more, and it stays.
# </details>
#
# **Next:** your own file, from the top of this page. How far you are:

# %%
from labkit import progress

progress("13")
