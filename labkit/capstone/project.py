"""A capstone project: one folder, one file of data, and the nine steps from it to a model that runs without PyTorch.

Over everything else: each step calls what its lab taught and leaves its result in the folder, where `rubric` finds it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit import data, evaluation, models, search
from labkit.data import inspection
from labkit.data.read import title
from labkit.errors import LabError
from labkit.evaluation import Evaluation, Score
from labkit.evaluation.runner import TASKS
from labkit.intake import Intake, divide, plain, understand
from labkit.profiles import COURSE, current, runs
from labkit.tables import Table
from labkit.training import Run, capped, finetune

if TYPE_CHECKING:
    from datasets import Dataset

    from labkit.export import OnnxModel
    from labkit.ledger import Ledger

STEPS = ("report", "clean", "split", "baselines", "methods", "search", "evaluation", "gate", "export")
SHIPPED = {"handbook": ("data/handbook/train.jsonl", "data/handbook/test.jsonl")}
PARTS = ("train", "validation", "test")
ACTED = ("missing label", "empty text", "exact duplicate", "leaked")  # findings that leave nothing to be decided
STAGES = ("base", "adapter", "merged", "ONNX fp32", "ONNX int4", "served")
ONNX = {"fp32": "onnx-fp32", "int4": "onnx"}  # folders
TRIALS = 10
TESTED = 64  # rows that are scored where the answer is free text: writing takes longer than picking
FOLLOWED = 24  # prompts of the ledger
SEED = 0


@dataclass(frozen=True)
class Project:
    """A project's folder and its file; `steps` are optimizer steps of the trainings, by the profile where not given.

    Every step can be done again: it then takes what is there, if it was made of the same things.
    """

    folder: Path
    source: str
    test: str | None = None
    steps: int | None = None

    @classmethod
    def open(cls, source: str | Path | None = None, folder: str | Path | None = None, *,
             test: str | Path | None = None, steps: int | None = None) -> Project:
        """Begin a project, or go on with one.

        Args:
            source: a file as `labkit finetune` takes it (JSON, JSONL, CSV, TSV, Parquet), "hub:owner/name", or
                "handbook"; None is the project that was opened last in this course, or the handbook.
            folder: of the project; below `runs/` where it is not given.
            test: another file to test on, in the same form.
            steps: optimizer steps of a training; the profile's where it is not given.

        Raises:
            LabError: the file cannot be read, or the folder holds a project on another one.
        """
        if source is None and _last().is_file():
            known = read(_last())
            return cls(Path(known["folder"]), known["source"], known["test"], known["steps"])
        source = str(source or "handbook")
        name = title(source)
        source, test = (str(COURSE / path) for path in SHIPPED[source]) if source in SHIPPED else (source, test)
        made = cls(Path(folder) if folder else runs(f"capstone-{name}"), source, str(test) if test else None, steps)
        facts = {"source": name, "sha256": made.intake.sha256, "kind": made.kind}
        file = made.folder / "project.json"
        if file.is_file() and (known := read(file)) != facts:
            raise LabError(f"there is a project on {known.get('source')} here, or on another version of this file",
                           where=str(made.folder), todo="Choose another folder, or delete that one")
        write(file, facts)
        write(_last(), {"folder": str(made.folder.absolute()), "source": source, "test": made.test, "steps": steps})
        return made

    # -- what the file is -------------------------------------------------------------------------------------------

    @cached_property
    def intake(self) -> Intake:
        """The file as it was understood; rows that cannot be used are left out, counted and named."""
        return understand(self.source, test=self.test, skip_bad_rows=True)

    @property
    def name(self) -> str:
        """What the project is about: the file's name, or that of the shipped data."""
        return read(self.folder / "project.json")["source"]

    @property
    def kind(self) -> str:
        """What the task is: "classification" or "generation"."""
        return "classification" if self.intake.kind == "label" else "generation"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.intake.labels

    @property
    def metric(self) -> str:
        """The figure that counts."""
        return TASKS[self.kind]

    def part(self, name: str) -> Dataset:
        """Rows of a split, as the third step wrote them.

        Raises:
            LabError: it did not yet.
        """
        return self.examples(rows_in(self.folder / "splits" / f"{name}.jsonl", "split"))

    def examples(self, rows: list[dict]) -> Dataset:
        """Rows of a file of this project, as a training takes them."""
        from datasets import Dataset

        if self.kind == "classification":
            rows = [{**row, "label": row["completion"]} for row in rows]
        return Dataset.from_list(rows)

    @property
    def tested(self) -> Dataset:
        """The test rows that are scored: all of them, or `TESTED` where answers are written."""
        rows = self.part("test")
        return rows if self.kind == "classification" or len(rows) <= TESTED else rows.select(range(TESTED))

    @property
    def followed(self) -> Dataset:
        """The test rows that go through every stage of the ledger: the first `FOLLOWED`."""
        held = self.tested
        return held.select(range(min(FOLLOWED, len(held))))

    @property
    def task(self) -> data.Task:
        """The splits as a Task, for `search`."""
        return data.Task(self.name, self.intake.template, self.labels,
                         *(self.part(name) for name in PARTS))

    # -- the nine steps ---------------------------------------------------------------------------------------------

    def report(self) -> inspection.Report:
        """1. What is wrong with the rows: report.html for people, report.json for the check."""
        found = self.found
        write(self.folder / "report.json", {"sha256": self.intake.sha256, "counts": found.counts})
        (self.folder / "report.html").write_text(found.page(f"What is in {self.name}"), encoding="utf-8")
        return found

    @cached_property
    def usable(self) -> dict[str, list[dict]]:
        """Rows of the file ("train"), and of the test file if there is one: prompt, completion, line, and the group."""
        names = ["prompt", "completion", "line", *([self.intake.group] if self.intake.group else [])]
        found = {"train" if name == "all" else name:
                 rows.select_columns([column for column in names if column in rows.column_names]).to_list()
                 for name, rows in self.intake.parts.items()}
        return json.loads(json.dumps(found, default=str))  # as a file gives them back

    @cached_property
    def found(self) -> inspection.Report:
        """What `inspect` says of the usable rows."""
        return inspection.inspect(self.rows())

    def rows(self) -> dict[str, Dataset]:
        """The usable rows as text and label, or prompt and completion, as `inspect` and `clean` take them."""
        return self.texts(self.usable)

    def texts(self, rows: Mapping[str, list[dict]]) -> dict[str, Dataset]:
        """Rows for `inspect`: prompts as plain text, without the question that stands before every text."""
        from datasets import Dataset

        opening = self.intake.template.split("{text}")[0]
        text, answer = ("text", "label") if self.kind == "classification" else ("prompt", "completion")
        return {name: Dataset.from_dict({text: [plain(row["prompt"]).removeprefix(opening) for row in part],
                                         answer: [row["completion"] for row in part]})
                for name, part in rows.items()}

    def clean(self) -> Table:
        """2. Rows that nobody has to think about are dropped: cleaned/ has those that stay, and the others by name.

        Findings that ask for a decision stay in, and are named under the table.
        """
        _, log = inspection.clean(self.rows(), self.found, repair=(), drop=ACTED)
        gone, dropped = [*self.intake.left_out], {name: set(log.dropped(name)) for name in self.usable}
        for name, rows in self.usable.items():
            file = self.test if name == "test" else self.source
            gone += [{"file": file, "line": rows[change.row]["line"], "reason": change.kind} for change in log.changes
                     if change.split == name]
            put(self.folder / "cleaned" / f"{name}.jsonl",
                [row for number, row in enumerate(rows) if number not in dropped[name]])
        write(self.folder / "cleaned" / "dropped.json", gone)
        whole = sum(len(rows) for rows in self.usable.values())
        stay = whole - sum(log.counts.values())
        left = Counter(f.kind for f in self.found.findings for row in f.rows if row not in dropped[f.split])
        named = ", ".join(f"{count:,} with {kind}" for kind, count in left.items())
        return Table([{"": "rows in", "rows": whole + len(self.intake.left_out)},
                      {"": "could not be used", "rows": len(self.intake.left_out)},
                      *({"": kind, "rows": count} for kind, count in log.counts.items()),
                      {"": "rows out", "rows": stay}],
                     f"Left in, for you to decide: {named}" if left else "Nothing is left to decide")

    def cleaned(self) -> dict[str, list[dict]]:
        """The rows that stay, as the second step wrote them.

        Raises:
            LabError: it did not yet.
        """
        return {name: rows_in(self.folder / "cleaned" / f"{name}.jsonl", "clean") for name in self.usable}

    def split(self) -> Table:
        """3. Train, validation and test in splits/, and which of the cleaned rows were too long."""
        parts = {"all" if name == "train" else name: self.examples(rows) for name, rows in self.cleaned().items()}
        intake = replace(self.intake, said=[], left_out=[], parts=parts)
        divide(intake, models.load()[1], current().max_length, True, SEED)
        for name in PARTS:
            kept = intake.parts[name].select_columns(["prompt", "completion", "line"]).to_list()
            put(self.folder / "splits" / f"{name}.jsonl", kept)
        write(self.folder / "splits" / "left_out.json", intake.left_out)
        return Table([{"split": name, "rows": len(intake.parts[name])} for name in PARTS],
                     f"{len(intake.left_out)} rows left out")

    def baselines(self) -> Table:
        """4. What costs nothing, on the test rows: the commonest answer, similar words, the base as it is."""
        train, held = self.part("train"), self.tested
        said = {"the commonest answer": evaluation.majority(list(train["completion"]), len(held)),
                "similar words": self.by_words(held)}
        found = {name: {"answers": answers, "score": asdict(self.score(held, answers))}
                 for name, answers in said.items()}
        base = self.evaluate(models.load(), "base", held)
        base.save(self.folder / "base")
        found["base"] = {"answers": base.answers, "score": asdict(base.main)}
        write(self.folder / "baselines.json", found)
        return Table([{"": name, self.metric: str(Score(**row["score"]))} for name, row in found.items()],
                     f"{len(held)} test rows")

    def by_words(self, held: Dataset) -> list[str]:
        """The answers of a bag of words; where answers are free text, that of the most similar training question."""
        train = self.part("train")
        say = evaluation.bag_of_words if self.kind == "classification" else evaluation.nearest_answer
        known, asked = ([plain(prompt) for prompt in rows["prompt"]] for rows in (train, held))
        return say(known, list(train["completion"]), asked)

    def methods(self, names: tuple[str, str] = ("lora", "full")) -> Table:
        """5. Two methods on the same rows with the same number of steps, compared on validation rows."""
        steps, found = self._steps(4), {}
        for name in names:
            run = finetune(self.part("train"), method=name, steps=steps, seed=SEED, reuse=True,
                           out=self.folder / "methods" / name)
            score = self.evaluate(run, name, self._watched()).main
            found[name] = {"score": asdict(score), "trainable": run.trainable, "seconds": round(run.seconds, 1)}
        write(self.folder / "methods.json", found)
        return Table([{"method": name, self.metric: str(Score(**row["score"])), "trainable": row["trainable"],
                       "seconds": row["seconds"]} for name, row in found.items()],
                     f"{steps} steps each; {len(self._watched())} validation rows")

    def search(self, trials: int = TRIALS) -> search.Study:
        """6. Ten trials of LoRA's settings, judged on validation rows; the best one goes to chosen.json."""
        space = search.usual_space()
        found = search.study(self.task, space, trials=trials, file=self.folder / "search.log", seed=SEED,
                             rows=None if self.steps is None else 8 * self.steps)
        write(self.folder / "chosen.json", {"trial": found.best.number, "setting": found.best.setting})
        return found

    def final(self) -> Run:
        """The model itself: LoRA with the chosen settings on all training rows."""
        setting = read(self.folder / "chosen.json")["setting"]
        return finetune(self.part("train"), steps=self._steps(), seed=SEED, reuse=True, out=self.folder / "final",
                        **setting)

    def evaluation(self) -> Table:
        """7. The test rows, opened once everything is chosen: final/evaluation.json beside base/evaluation.json."""
        held = self.tested
        tuned = self.evaluate(self.final(), "tuned", held)
        tuned.save(self.folder / "final")
        return evaluation.compare({"base": Evaluation.read(self.folder / "base"), "tuned": tuned})

    def gate(self, rules: list[dict] | None = None) -> evaluation.Verdict:
        """8. May it take the base's place? The rules and what they said go to gate.json."""
        base, tuned = (Evaluation.read(self.folder / name) for name in ("base", "final"))
        rules = rules or [{"metric": "main", "no_drop": 0.0}]
        verdict = evaluation.gate(tuned, base, rules)
        write(self.folder / "gate.json", {"rules": rules, "passed": verdict.passed,
                                          "saw": [checked.saw for checked in verdict.checked]})
        return verdict

    def export(self) -> Ledger:
        """9. ONNX in 4 bits, the ledger from the base to its answers over HTTP, and the model card that carries it."""
        from labkit import ledger

        run = self.final()
        with stages(run, self.onnx("fp32"), self.onnx()) as found:
            book = ledger.follow(found, self.followed, self.labels, timed=False)
        write(self.folder / "ledger.json", {"stages": book.facts()})
        evaluation.model_card(run, Evaluation.read(self.folder / "final"), title=self.folder.name,
                              dataset=self.name, out=self.folder, stages=book.table(),
                              against={"base": Evaluation.read(self.folder / "base")})
        return book

    def onnx(self, precision: str = "int4") -> OnnxModel:
        """The tuned model as ONNX: in 4 bits, to be shipped, or in fp32, for the ledger."""
        from labkit import export

        prompts = [plain(prompt) for prompt in self.part("train")["prompt"][:24]]
        return export.to_onnx(self.final(), precision, out=self.folder / ONNX[precision], texts=prompts, reuse=True)

    def upto(self, step: str) -> None:
        """Take every step up to this one that has left nothing yet, by the course's own way, and say so.

        Raises:
            LabError: there is no such step.
        """
        if step not in STEPS:
            raise LabError(f"there is no step {step!r}", where="upto", expected=", ".join(STEPS))
        for name in STEPS[: STEPS.index(step) + 1]:
            if not done(self, name):
                print(f"{name}: not there yet, so the course takes this step its own way")
                getattr(self, name)()

    # -- to look at -------------------------------------------------------------------------------------------------

    def beside(self) -> list[tuple[str, float, float, float]]:
        """(name, value, low, high) of what costs nothing and of the tuned model, on the test rows."""
        found = {name: Score(**row["score"]) for name, row in read(self.folder / "baselines.json").items()}
        found["tuned"] = Evaluation.read(self.folder / "final").main
        return [(name, score.value, score.low, score.high) for name, score in found.items()]

    def finding(self) -> str:
        """What the intervals allow to say of the tuned model."""
        *others, (_, _, low, high) = self.beside()
        best, _, least, most = max(others, key=lambda row: row[1])
        if low > most:
            return f"The tuned model is ahead of {best}"
        return f"The tuned model is behind {best}" if high < least else f"Not told apart from {best}, on so few rows"

    def understood(self) -> str:
        """What was understood of the file, in sentences; no folder of this machine is spelt out."""
        told = [sentence.replace(f"{COURSE}{os.sep}", "") for sentence in self.intake.said]
        return "\n".join([*told, f"The task is {self.kind}; the figure that counts is {self.metric}."])

    def question(self) -> str:
        """A test prompt as plain text."""
        return plain(self.tested["prompt"][0])

    def figures(self) -> dict[str, Any]:
        """The project in a few numbers, for a record."""
        from labkit.ledger import Ledger

        small = Ledger.of(read(self.folder / "ledger.json")["stages"])["ONNX int4"].accuracy
        final = Evaluation.read(self.folder / "final")
        return {"rows": sum(len(self.part(name)) for name in PARTS), "figure": self.metric,
                "base": str(Evaluation.read(self.folder / "base").main), "tuned": str(final.main),
                "seconds": round(self.final().seconds, 1), "onnx_mb": round(self.onnx().bytes / 1e6, 1),
                "onnx_int4": f"{small.value:.1%} on {small.rows} prompts"}

    # -- what several steps need ------------------------------------------------------------------------------------

    def evaluate(self, model: Any, name: str, held: Dataset) -> Evaluation:
        """A model's answers to rows of this project, scored."""
        labels = self.labels if self.kind == "classification" else None
        return evaluation.evaluate_model(model, held, self.kind, name=name, labels=labels, progress=False)

    def score(self, held: Dataset, answers: list[str]) -> Score:
        """The project's figure of answers that are there."""
        figure = evaluation.accuracy if self.kind == "classification" else evaluation.rouge_l
        return figure(list(held["completion"]), answers, evaluation.groups_of(held))

    def _watched(self) -> Dataset:
        rows = self.part("validation")
        return rows.select(range(min(len(rows), TESTED)))

    def _steps(self, share: int = 1) -> int:
        return capped(max(1, (self.steps or current().steps) // share))


def _last() -> Path:
    """Where it is kept which project was opened last."""
    return runs("capstone") / "last.json"


def done(project: Project, step: str) -> bool:
    """Whether a step has left what it leaves; `rubric.examine` says whether it is any good."""
    left = {"report": "report.json", "clean": "cleaned/dropped.json", "split": "splits/test.jsonl",
            "baselines": "baselines.json", "methods": "methods.json", "search": "chosen.json",
            "evaluation": "final/evaluation.json", "gate": "gate.json", "export": "ledger.json"}
    return (project.folder / left[step]).is_file()


def read(file: Path) -> Any:
    """JSON of a project's file.

    Raises:
        LabError: it is not there, or damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LabError("is not there yet", where=str(file), todo="Take the step that leaves it") from None
    except ValueError as error:
        raise LabError("is damaged", where=str(file), todo="Delete it and take that step again") from error


def write(file: Path, facts: Any) -> None:
    """JSON, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(part, file)


def rows_in(file: Path, step: str) -> list[dict]:
    """Rows of a JSONL file of this project.

    Raises:
        LabError: it is not there, or damaged.
    """
    try:
        with open(file, encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except FileNotFoundError:
        raise LabError(f"there is no {file.name} yet", where=str(file),
                       todo=f"Take the step before: project.{step}()") from None
    except ValueError as error:
        raise LabError("is damaged", where=str(file), todo=f"Take that step again: project.{step}()") from error


def put(file: Path, rows: list[dict]) -> None:
    """Rows into a JSONL file of this project."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@contextmanager
def stages(run: Run, fp32: OnnxModel, int4: OnnxModel) -> Iterator[dict[str, Any]]:
    """The stages of a model by name, as `ledger.follow` takes them, while the 4-bit one is served on this machine."""
    from labkit import adapters, serving
    from labkit.ledger import Served

    model, tokenizer = run.loaded
    found = {"base": models.load(), "adapter": run, "merged": (adapters.merge(model), tokenizer),
             "ONNX fp32": fp32, "ONNX int4": int4}
    if "served" not in stages_here():
        print("served: left out, since FastAPI or uvicorn is not installed here: pip install -e '.[serving]'")
        yield found
        return
    with serving.running(int4) as url:
        yield found | {"served": Served(url, serving.BASE, int4.bytes)}


def stages_here() -> tuple[str, ...]:
    """The stages that a ledger must have on this machine: without the extra `serving` nothing can be served."""
    return STAGES if find_spec("fastapi") and find_spec("uvicorn") else STAGES[:-1]
