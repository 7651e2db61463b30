"""What a step of a capstone project is judged by: the files that it left, read again and scored again.

Nothing that a notebook holds in a variable counts. Each `examine` gives sentences about what is wrong, or none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from labkit import evaluation, models, search
from labkit.capstone.project import PARTS, STEPS, TRIALS, Project, read
from labkit.data import inspection
from labkit.errors import LabError
from labkit.evaluation import Evaluation
from labkit.intake import plain
from labkit.tables import Table
from labkit.training import Run

if TYPE_CHECKING:
    from datasets import Dataset

AGAIN = 8  # test rows that are answered again where answering all would take long
CLOSE = 0.005  # of a figure that was written down and the same worked out anew
DIFFER = 1  # of those rows, how many answers may differ: another machine rounds otherwise


def examine(step: str, project: Project) -> list[str]:
    """What is wrong with a step's result on disk, a sentence each; none where it holds.

    Raises:
        LabError: there is no such step.
    """
    if step not in _CHECKS:
        raise LabError(f"there is no step {step!r}", where="examine", expected=", ".join(STEPS))
    try:
        return [sentence for sentence in _CHECKS[step](project) if sentence]
    except LabError as error:
        return [str(error)]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"{type(error).__name__}: {error}"
        return [f"what lies in {project.folder} has not the form that the step leaves ({what})"]


def rubric(project: Project) -> Table:
    """The eight steps, and what is still wrong with each."""
    rows = []
    for number, step in enumerate(STEPS, 1):
        faults = examine(step, project)
        rows.append({"": number, "step": step, "holds": not faults, "what is wrong": faults[0] if faults else ""})
    return Table(rows, f"{sum(row['holds'] for row in rows)} of {len(STEPS)} steps hold")


def _report(project: Project) -> list[str]:
    left = read(project.folder / "report.json")
    if left["sha256"] != project.intake.sha256:
        return ["report.json is about another version of the file"]
    counts = inspection.inspect(project.rows()).counts
    wrong = [kind for kind in {*counts, *left["counts"]} if counts.get(kind, 0) != left["counts"].get(kind, 0)]
    return [f"report.json counts {left['counts'].get(wrong[0], 0)} rows with {wrong[0]}, and there are "
            f"{counts.get(wrong[0], 0)}" if wrong else "",
            "" if (project.folder / "report.html").is_file() else "report.html is missing"]


def _split(project: Project) -> list[str]:
    parts = {name: project.part(name) for name in PARTS}
    lines = {name: set(rows["line"]) for name, rows in parts.items()}
    prompts = {name: {" ".join(plain(prompt).lower().split()) for prompt in rows["prompt"]}
               for name, rows in parts.items()}
    shared = [(a, b) for a in PARTS for b in PARTS if a < b and prompts[a] & prompts[b]]
    left_out = len(read(project.folder / "splits" / "left_out.json"))
    rows = sum(len(part) for part in project.intake.parts.values())
    kept = sum(len(part) for part in parts.values())
    share = len(parts["test"]) / kept
    return [f"{len(prompts[a] & prompts[b])} prompts stand in {a} and in {b}" for a, b in shared] + [
        f"the file has {rows} usable rows; {kept} are in the splits and {left_out} are named as left out"
        if kept + left_out < rows or kept > rows else "",
        "" if 0.02 <= share <= 0.5 else f"the test split has {share:.0%} of the rows",
        "" if project.test or not lines["train"] & lines["test"] else "lines of the file stand in train and in test"]


def _baselines(project: Project) -> list[str]:
    left, held = read(project.folder / "baselines.json"), project.tested
    wanted = {"the commonest answer": evaluation.majority(list(project.part("train")["completion"]), len(held)),
              "similar words": project.by_words(held)}
    faults = [f"{name} is missing" for name in (*wanted, "base") if name not in left]
    for name, row in left.items():
        score = project.score(held, row["answers"])
        if abs(score.value - row["score"]["value"]) > CLOSE:
            faults.append(f"{name}: written down {row['score']['value']:.1%}, its answers give {score.value:.1%}")
        if name in wanted and row["answers"] != wanted[name]:
            faults.append(f"{name}: these are not its answers to the test rows")
    return faults + _answered(project, models.load(), held, left["base"]["answers"], "the base")


def _methods(project: Project) -> list[str]:
    left = read(project.folder / "methods.json")
    if len(left) < 2:
        return ["methods.json compares fewer than two methods"]
    settings = {name: Run.read(project.folder / "methods" / name).settings for name in left}
    (first, one), (second, other) = list(settings.items())[:2]
    unlike = [key for key in ("data", "rows", "steps", "base") if one[key] != other[key]]
    best = max(left, key=lambda name: left[name]["score"]["value"])
    again = project.evaluate(Run.read(project.folder / "methods" / best), best, project._watched()).main.value
    return [f"{first} and {second} differ in {unlike[0]}, so nothing is compared" if unlike else "",
            f"{first} and {second} are the same method" if one["method"] == other["method"] else "",
            f"{best}: written down {left[best]['score']['value']:.1%}, scored again {again:.1%}"
            if abs(again - left[best]["score"]["value"]) > 0.03 else ""]


def _search(project: Project) -> list[str]:
    tried = search.trials_in(project.folder / "search.log")
    ended = [t for t in tried if t.state in ("done", "stopped early")]
    finished = [t for t in ended if t.state == "done"]
    if not finished:
        return ["no trial has come to its end"]
    best, chosen = max(finished, key=lambda t: t.value), read(project.folder / "chosen.json")
    return [f"{len(ended)} trials came to an end, and {TRIALS} were asked for" if len(ended) < TRIALS else "",
            f"trial {chosen['trial']} was chosen, and trial {best.number} was better"
            if chosen["setting"] != best.setting else ""]


def _evaluation(project: Project) -> list[str]:
    tuned, base = (Evaluation.read(project.folder / name) for name in ("final", "base"))
    run, held = Run.read(project.folder / "final"), project.tested
    chosen = read(project.folder / "chosen.json")["setting"]
    other = [key for key, value in chosen.items() if run.settings.get(key) != value]
    score = project.score(held, tuned.answers)
    return [f"the final run has another {other[0]} than the search chose" if other else "",
            "the test rows were not these" if tuned.truth != list(held["completion"]) else "",
            "base and tuned did not answer the same rows" if tuned.prompts != base.prompts else "",
            f"written down {tuned.main.value:.1%}, its answers give {score.value:.1%}"
            if abs(score.value - tuned.main.value) > CLOSE else "",
            *_answered(project, run, held, tuned.answers, "the final run")]


def _gate(project: Project) -> list[str]:
    left = read(project.folder / "gate.json")
    base, tuned = (Evaluation.read(project.folder / name) for name in ("base", "final"))
    again = evaluation.gate(tuned, base, left["rules"])
    limits = [rule for rule in left["rules"] if rule.get("no_drop", 1) <= 0.05 or "at_least" in rule]
    return ["" if again.passed == left["passed"] else
            f"gate.json says {_passed(left['passed'])}, and by its own rules it {_passed(again.passed)}",
            "" if limits else "no rule of the gate would stop a model that lost five points"]


def _export(project: Project) -> list[str]:
    from labkit import ledger
    from labkit.export import OnnxModel

    left = read(project.folder / "ledger.json")
    card = project.folder / "README.md"
    faults = ["" if card.is_file() else "there is no model card, README.md"]
    tuned = Evaluation.read(project.folder / "final")
    if card.is_file() and f"{round(tuned.main.value, 4)}" not in card.read_text(encoding="utf-8"):
        faults.append("the model card does not carry the figure of final/evaluation.json")
    stages = [row["stage"] for row in left["rows"]]
    faults += [f"the ledger has no stage {name!r}" for name in ("base", "adapter", "merged", "ONNX int4")
               if name not in stages]
    faults += left["drifts"]
    onnx = OnnxModel(project.folder / "onnx")
    answers = left["answers"].get("ONNX int4", [])
    prompts = list(project.tested["prompt"])[: min(AGAIN, len(answers))]
    again = onnx.generate(prompts, ledger.TOKENS if project.labels else ledger.LONG) if prompts else []
    differ = sum(a != b for a, b in zip(again, answers, strict=False))
    if not prompts or differ > DIFFER:
        faults.append(f"of {len(prompts)} answers in the ledger {differ} are not what the ONNX model says")
    return faults


def _answered(project: Project, model, held: Dataset, answers: list[str], who: str) -> list[str]:
    """Whether a model gives these answers: the first few are asked for again."""
    few = held.select(range(min(AGAIN, len(held))))
    again = project.evaluate(model, who, few).answers
    differ = sum(a != b for a, b in zip(again, answers, strict=False))
    return [f"{differ} of {len(few)} answers are not what {who} says"] if differ > DIFFER else []


def _passed(passed: bool) -> str:
    return "passes" if passed else "does not pass"


_CHECKS: dict[str, Callable[[Project], list[str]]] = {
    "report": _report, "split": _split, "baselines": _baselines, "methods": _methods, "search": _search,
    "evaluation": _evaluation, "gate": _gate, "export": _export,
}

