"""What a step of a capstone project is judged by: the files that it left, read again and scored again.

Nothing that a notebook holds in a variable counts. Each `examine` gives sentences about what is wrong, or none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from labkit import evaluation, models, search
from labkit.capstone.project import (
    ACTED,
    ONNX,
    PARTS,
    STEPS,
    TRIALS,
    Project,
    read,
    stages,
    stages_here,
)
from labkit.data import inspection
from labkit.errors import LabError
from labkit.evaluation import Evaluation
from labkit.intake import plain
from labkit.tables import Table
from labkit.training import Run

if TYPE_CHECKING:
    from datasets import Dataset

    from labkit.ledger import Ledger

AGAIN = 8  # test rows that are answered again where answering all would take long
CLOSE = 0.005  # of a figure that was written down and the same worked out anew
EXACT = ("merged", "ONNX fp32", "served")  # stages of the ledger that must say what the one before says
DRIFT = 0.10  # how much the 4-bit model may lose on its prompts against the merged one: they are few
ALIKE = 0.9  # share of written answers that an exact stage has in common with the one before
GAP = 0.01  # nats by which log-likelihoods may differ on another machine
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
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        return [f"what lies in {project.folder} has not the form that the step leaves ({what})"]


def rubric(project: Project) -> Table:
    """The nine steps, and what is still wrong with each."""
    rows = []
    for number, step in enumerate(STEPS, 1):
        faults = examine(step, project)
        rows.append({"": number, "step": step, "holds": not faults, "what is wrong": faults[0] if faults else ""})
    return Table(rows, f"{sum(row['holds'] for row in rows)} of {len(STEPS)} steps hold")


def _report(project: Project) -> list[str]:
    left = read(project.folder / "report.json")
    if left["sha256"] != project.intake.sha256:
        return ["report.json is about another version of the file"]
    counts = project.found.counts
    wrong = [kind for kind in {**counts, **left["counts"]} if counts.get(kind, 0) != left["counts"].get(kind, 0)]
    page = project.folder / "report.html"
    silent = [kind for kind in counts if page.is_file() and kind not in page.read_text(encoding="utf-8")]
    return [f"report.json counts {left['counts'].get(wrong[0], 0)} rows with {wrong[0]}, and there are "
            f"{counts.get(wrong[0], 0)}" if wrong else "",
            "" if page.is_file() else "report.html is missing",
            f"report.html does not say that there are rows with {silent[0]}" if silent else ""]


def _clean(project: Project) -> list[str]:
    """Rows in are rows out and rows named, each by its line, and nobody rewrote one on the way."""
    file = {(name, row["line"]): row for name, rows in project.usable.items() for row in rows}
    stay = [((name, row["line"]), row) for name, rows in project.cleaned().items() for row in rows]
    dropped = [("test" if row["file"] == project.test else "train", row["line"], row["reason"])
               for row in read(project.folder / "cleaned" / "dropped.json")]
    unusable = {("test" if row["file"] == project.test else "train", row["line"]) for row in project.intake.left_out}
    named, out = [row[:2] for row in dropped], [place for place, _ in stay]
    said = {(f.split, project.usable[f.split][row]["line"], f.kind) for f in project.found.findings for row in f.rows}
    twice = [place for place, count in Counter(named + out).items() if count > 1]
    strange = [place for place in out if place not in file]
    other = [place for place, row in stay if place in file and row != file[place]]
    unfounded = [row for row in dropped if row not in said and row[:2] not in unusable]
    still = {name: rows for name, rows in project.cleaned().items() if rows}
    left = inspection.inspect(project.texts(still)).counts if still else {}
    whole = len(file) + len(unusable)
    return [f"line {strange[0][1]} is in cleaned/, and it is no usable line of the file" if strange else "",
            f"line {twice[0][1]} is accounted for twice: a row stays once, or is named once" if twice else "",
            f"line {other[0][1]} reads otherwise in cleaned/ than in the file: mend it there, and open that" if other
            else "",
            f"line {unfounded[0][1]} was dropped for {unfounded[0][2]!r}, and the report does not say so of it"
            if unfounded else "",
            f"{whole} rows in, {len(out)} out and {len(named)} named: {abs(whole - len(out) - len(named))} "
            f"{'are missing' if whole > len(out) + len(named) else 'are too many'}"
            if whole != len(out) + len(named) else "",
            *(f"{left[kind]} rows with {kind} stay in cleaned/" for kind in ACTED if kind in left)]


def _split(project: Project) -> list[str]:
    parts = {name: project.part(name) for name in PARTS}
    given = {(name, row["line"]): row["completion"] for name, rows in project.cleaned().items() for row in rows}
    from_test = "test" if project.test else "train"
    dealt = [(from_test if name == "test" else "train", line, answer) for name, rows in parts.items()
             for line, answer in zip(rows["line"], rows["completion"], strict=True)]
    left_out = [("test" if row["file"] == project.test else "train", row["line"])
                for row in read(project.folder / "splits" / "left_out.json")]
    places = [row[:2] for row in dealt]
    prompts = {name: {" ".join(plain(prompt).lower().split()) for prompt in rows["prompt"]}
               for name, rows in parts.items()}
    shared = [(a, b) for a in PARTS for b in PARTS if PARTS.index(a) < PARTS.index(b) and prompts[a] & prompts[b]]
    twice = [place for place, count in Counter(places + left_out).items() if count > 1]
    strange = [place for place in places if place not in given]
    other = [row for row in dealt if row[:2] in given and given[row[:2]] != row[2]]
    share = len(parts["test"]) / len(dealt)
    return [f"{len(prompts[a] & prompts[b])} prompts stand in {a} and in {b}" for a, b in shared] + [
        f"line {strange[0][1]} is in the splits, and not in cleaned/" if strange else "",
        f"line {twice[0][1]} is there twice, in the splits and what they left out" if twice else "",
        f"line {other[0][1]} has another answer than in cleaned/" if other else "",
        f"cleaned/ has {len(given)} rows; {len(dealt)} are in the splits and {len(left_out)} are named as left out"
        if len(given) != len(dealt) + len(left_out) else "",
        "" if 0.02 <= share <= 0.5 else f"the test split has {share:.0%} of the rows"]


def _baselines(project: Project) -> list[str]:
    left, held = read(project.folder / "baselines.json"), project.tested
    wanted = {"the commonest answer": evaluation.majority(list(project.part("train")["completion"]), len(held)),
              "similar words": project.by_words(held)}
    faults = [f"{name} is missing" for name in (*wanted, "base") if name not in left]
    for name, row in left.items():
        if len(row["answers"]) != len(held):
            faults.append(f"{name}: {len(row['answers'])} answers to {len(held)} test rows")
            continue
        score = project.score(held, row["answers"])
        if abs(score.value - row["score"]["value"]) > CLOSE:
            faults.append(f"{name}: written down {row['score']['value']:.1%}, its answers give {score.value:.1%}")
        if name in wanted and row["answers"] != wanted[name]:
            faults.append(f"{name}: these are not its answers to the test rows")
    if faults:
        return faults
    return _answered(project, models.load(), held, left["base"]["answers"], "the base")


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
    meant = [t.number for t in tried if t.setting == chosen["setting"]]
    return [f"{len(ended)} trials came to an end, and {TRIALS} were asked for" if len(ended) < TRIALS else "",
            "no trial in search.log has the setting of chosen.json" if not meant else
            f"chosen.json has the setting of trial {meant[0]} under the number {chosen['trial']}"
            if chosen["trial"] not in meant else
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
    enough = base.main.value - 0.05
    limits = [rule for rule in left["rules"] if rule.get("no_drop", 1) <= 0.05
              or rule["metric"] in ("main", tuned.main.metric) and rule.get("at_least", -1) > enough]
    saw = [checked.saw for checked in again.checked]
    other = [(a, b) for a, b in zip(left["saw"], saw, strict=False) if a != b]
    return ["" if again.passed == left["passed"] else
            f"gate.json says {_passed(left['passed'])}, and by its own rules it {_passed(again.passed)}",
            f"gate.json saw {other[0][0]}, and the two evaluations say {other[0][1]}" if other else "",
            "" if len(left["saw"]) == len(saw) else f"{len(left['saw'])} answers to {len(saw)} rules",
            "" if limits else "no rule of the gate would stop a model that lost five points: "
            + "; ".join(str(checked.rule) for checked in again.checked)]


def _export(project: Project) -> list[str]:
    from labkit.evaluation.card import verbatim
    from labkit.ledger import Ledger

    book = Ledger.of(read(project.folder / "ledger.json")["stages"])
    names = [entry.name for entry in book.entries]
    wanted = stages_here()
    if faults := [f"the ledger has no stage {name!r}" for name in wanted if name not in names]:
        return faults
    if [name for name in names if name in wanted] != list(wanted):
        return [f"the stages stand in the order {', '.join(names)}, and the way is {', '.join(wanted)}"]
    if faults := _written(project, book):
        return faults
    card, figure = project.folder / "README.md", Evaluation.read(project.folder / "final").main.value
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return [*book.drifts(exact=EXACT, points=DRIFT, alike=ALIKE), *_asked_again(project, book),
            "" if text else "there is no model card, README.md",
            "the model card does not carry the figure of final/evaluation.json"
            if text and f"{round(figure, 4)}" not in text else "",
            "the model card does not carry the ledger as it is in ledger.json"
            if text and verbatim(book.table()) not in text else ""]


def _written(project: Project, book: Ledger) -> list[str]:
    """Whether the figures of each stage are those of its answers, and of the stage before."""
    from labkit.ledger import beside

    held, faults, before = project.followed, [], None
    for entry in book.entries:
        if len(entry.said) != len(held) or len(entry.counts) != len(held):
            faults.append(f"{entry.name}: {len(entry.said)} answers to {len(held)} prompts")
            continue
        score = project.score(held, entry.said)
        if max(abs(getattr(score, key) - getattr(entry.accuracy, key)) for key in ("value", "low", "high")) > CLOSE:
            faults.append(f"{entry.name}: written down {entry.accuracy}, its answers give {score}")
        found = beside({"ids": None, "scores": None, "counts": entry.counts, "answers": entry.answers}, before)
        if found and abs(found["same"] - entry.same) > CLOSE:
            faults.append(f"{entry.name}: written down that {entry.same:.0%} of the answers are as before, and "
                          f"{found['same']:.0%} are")
        before = entry
    return faults


def _asked_again(project: Project, book: Ledger) -> list[str]:
    """The first prompts through every stage once more: what a stage says now, beside what the ledger has."""
    from labkit.export import OnnxModel
    from labkit.ledger import follow

    held, faults = project.followed, []
    few = held.select(range(min(AGAIN, len(held))))
    fp32, int4 = (OnnxModel(project.folder / ONNX[precision]) for precision in ("fp32", "int4"))
    with stages(Run.read(project.folder / "final"), fp32, int4) as found:
        again = follow(found, few, project.labels, timed=False)
    for now in again.entries:
        then = book[now.name]
        differ = max(sum(a != b for a, b in zip(*both, strict=False))
                     for both in ((now.said, then.said), (now.answers, then.answers)))
        if differ > DIFFER:
            faults.append(f"{now.name}: {differ} of {len(few)} answers in the ledger are not what this stage says")
        elif now.tokens_in is False and then.tokens_in:
            faults.append(f"{now.name}: the prompts become other tokens, and the ledger says the same")
        elif now.gap is not None and now.gap > (then.gap or 0) + GAP:
            faults.append(f"{now.name}: log-likelihoods move by {now.gap:.2g} nats, and the ledger says "
                          f"{then.gap or 0:.2g}")
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
    "report": _report, "clean": _clean, "split": _split, "baselines": _baselines, "methods": _methods,
    "search": _search, "evaluation": _evaluation, "gate": _gate, "export": _export,
}

