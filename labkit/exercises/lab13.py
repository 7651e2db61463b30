"""The nine checkpoints of lab 13: each looks at what a project's step left on disk, and scores it again."""

from __future__ import annotations

from labkit.exercises import NotAttempted, Wrong, exercise

LAB = "13"
OURS = "The course's own way is project.{}(), and `solution` shows the cell."


def hold(answer, step: str) -> None:
    """Raise what is wrong with a step of a project; nothing where it holds."""
    from labkit.capstone import Project, examine
    from labkit.capstone.project import done

    if not isinstance(answer, Project):
        raise Wrong(f"the answer is {type(answer).__name__}, and a project is looked at here: Project.open(FILE)")
    if not done(answer, step):
        raise NotAttempted(f"the step has left nothing in {answer.folder.name}/ yet")
    if faults := examine(step, answer):
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise Wrong(f"{faults[0].rstrip('.')}.{more}")


@exercise("project_report", lab=LAB, title="what is wrong with the rows", difficulty=1, minutes=10, limit=120,
          hints=("Lab 01's `inspect` takes the rows; project.rows() has them as plain text.",
                 "report.json wants the file's sha256 and the counts of the findings; report.html the page.",
                 OURS.format("report")),
          after="Whoever reads your model card will ask what was in the data.")
def project_report(answer):
    hold(answer, "report")


@exercise("project_clean", lab=LAB, title="rows in, rows out, rows named", difficulty=1, minutes=10, limit=120,
          hints=("Lab 01's `clean` drops what a report names; repair=() leaves every text as it is.",
                 "cleaned/train.jsonl has prompt, completion and line (test.jsonl where there is a test file); "
                 "cleaned/dropped.json names each other row: file, line, reason.",
                 OURS.format("clean")),
          after="Nothing has gone away in silence.")
def project_clean(answer):
    hold(answer, "clean")


@exercise("project_split", lab=LAB, title="three parts that share nothing", difficulty=1, minutes=10, limit=120,
          hints=("Rows with the same prompt belong into the same part.",
                 "splits/NAME.jsonl has prompt, completion and line; splits/left_out.json names the others.",
                 OURS.format("split")),
          after="From here on nothing is chosen by the test rows.")
def project_split(answer):
    hold(answer, "split")


@exercise("project_baselines", lab=LAB, title="what costs nothing", difficulty=1, minutes=10, limit=120,
          hints=("Three answers to every test row: the commonest one, that of similar words, the base model's.",
                 "labkit.evaluation has majority, bag_of_words, nearest_answer and evaluate_model.",
                 OURS.format("baselines")),
          after="To be worth shipping for this figure, a model must be ahead of all three, outside the intervals.")
def project_baselines(answer):
    hold(answer, "baselines")


@exercise("project_methods", lab=LAB, title="two methods, one comparison", difficulty=2, minutes=20, limit=180,
          hints=("Same rows, same number of steps, same base: only the method differs.",
                 "Judge on validation rows. The test rows stay shut.", OURS.format("methods")),
          after="You know now what each method reached here, and what it cost.")
def project_methods(answer):
    hold(answer, "methods")


@exercise("project_search", lab=LAB, title="ten trials", difficulty=2, minutes=15, limit=120,
          hints=("labkit.search.study keeps the study in a file, and goes on with it.",
                 "chosen.json names the best trial and its setting.", OURS.format("search")),
          after="The best of ten is a little lucky; only the test rows give its honest figure.")
def project_search(answer):
    hold(answer, "search")


@exercise("project_evaluation", lab=LAB, title="the test rows, once", difficulty=2, minutes=15, limit=180,
          hints=("Train with the chosen setting on all training rows, into final/.",
                 "Base and tuned answer the same rows; both keep evaluation.json.", OURS.format("evaluation")),
          after="This figure goes onto the model card, whatever it is.")
def project_evaluation(answer):
    hold(answer, "evaluation")


@exercise("project_gate", lab=LAB, title="a rule that could say no", difficulty=1, minutes=10, limit=60,
          hints=("A gate that cannot stop anything is none.",
                 'A rule such as {"metric": "main", "no_drop": 0.0} asks for proof that nothing got worse.',
                 OURS.format("gate")),
          after="The same rules work in continuous integration: labkit gate.")
def project_gate(answer):
    hold(answer, "gate")


@exercise("project_export", lab=LAB, title="out of PyTorch, with its papers", difficulty=3, minutes=30, limit=300,
          hints=("onnx/ holds the model in 4 bits, onnx-fp32/ in 32, ledger.json every stage, README.md the card.",
                 "ledger.follow asks base, adapter, merged, ONNX fp32, ONNX int4 and served the same prompts.",
                 OURS.format("export")),
          after="A file came in, and a model with its papers goes out.")
def project_export(answer):
    hold(answer, "export")
