"""evaluate_model(model, dataset, task) -> Evaluation: the whole scoring of one model, row by row, and how to read it.

Last step before decisions: `compare` sets Evaluations beside each other, `gate` lets a candidate pass or not.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import LabError
from labkit.evaluation import scores as figures
from labkit.evaluation.answering import generate, score_labels
from labkit.evaluation.doubt import Difference, holm, paired_bootstrap
from labkit.evaluation.perplexity import perplexity_scores, token_log_likelihoods
from labkit.evaluation.scores import Score, groups_of, mean_score
from labkit.monitoring import in_notebook, passing_line
from labkit.scratch import metrics as by_hand
from labkit.tables import Table

if TYPE_CHECKING:
    from datasets import Dataset

TASKS = {  # the figure that comes first, and is compared row by row
    "classification": "accuracy", "extraction": "entity F1", "summarisation": "ROUGE-L", "generation": "ROUGE-L",
    "perplexity": "perplexity",
}
KINDS = {"tone": "classification", "intent": "classification", "entities": "extraction", "summary": "summarisation",
         "reply": "generation"}  # the tasks on the shipped tickets
FILE = "evaluation.json"
SLICES = ("label",)


@dataclass(frozen=True)
class Evaluation:
    """What one model did on one dataset.

    `values` has one figure a row, higher is better: right or not, F1, ROUGE-L; for perplexity the mean log-likelihood
    a token. `columns` keeps what rows can be sliced by, `probabilities` (rows, labels) only a classification has.
    `seconds` is what all rows took together, without loading.
    """

    task: str
    name: str
    metrics: dict[str, Score]
    values: list[float]
    truth: list[str]
    answers: list[str]
    prompts: list[str]
    columns: dict[str, list[str]]
    seconds: float
    batch_size: int
    labels: list[str] = field(default_factory=list)
    probabilities: list[list[float]] = field(default_factory=list)
    groups: list[str] | None = None
    fingerprint: str = ""

    @property
    def main(self) -> Score:
        """The figure that comes first: accuracy, entity F1, ROUGE-L or perplexity."""
        return self.metrics[TASKS[self.task]]

    @property
    def latency(self) -> float:
        """Seconds a row, in batches of `batch_size`."""
        return self.seconds / len(self.values)

    def table(self) -> Table:
        """Every figure with its interval, and the latency."""
        rows = [{"figure": name, "value": str(score), "rows": score.rows} for name, score in self.metrics.items()]
        rows.append({"figure": "latency", "value": f"{1000 * self.latency:.1f} ms a row", "rows": len(self.values)})
        return Table(rows, f"{self.name}, {self.task}")

    def slices(self, column: str = "label") -> dict[str, Score]:
        """The main figure of each value of a column, the worst first; for perplexity of its log, nats a token.

        Raises:
            LabError: the dataset had no such column.
        """
        if column not in self.columns:
            raise LabError(f"there is no column {column!r} to slice by", where=self.name,
                           expected=", ".join(self.columns) or "a dataset with further columns")
        found = {}
        for value in dict.fromkeys(self.columns[column]):
            rows = [i for i, v in enumerate(self.columns[column]) if v == value]
            groups = None if self.groups is None else [self.groups[i] for i in rows]
            found[value] = mean_score(TASKS[self.task], [self.values[i] for i in rows], groups)
        if self.task == "perplexity":
            found = {value: replace(score, metric="log-likelihood", form=".2f") for value, score in found.items()}
        return dict(sorted(found.items(), key=lambda item: item[1].value))

    def slice_table(self, column: str = "label") -> Table:
        """`slices` as a table."""
        return Table([{column: value, score.metric: str(score), "rows": score.rows}
                      for value, score in self.slices(column).items()], self.name)

    def worst(self, n: int = 10) -> Table:
        """The n rows that went worst; among rows that are equally wrong, those that the model was surest of.

        Of a family only one row is shown, since the others are nearly the same, and `alike` counts those of it that
        went as badly.
        """
        sure = [max(row) for row in self.probabilities] or [0.0] * len(self.values)
        order = sorted(range(len(self.values)), key=lambda i: (self.values[i], -sure[i], i))
        families = self.groups or list(map(str, range(len(self.values))))
        shown = {families[i]: i for i in reversed(order)}  # the worst of each family
        rows, pairs = [], list(zip(families, self.values, strict=True))
        for i in sorted(shown.values(), key=order.index)[:n]:
            alike = sum(family == families[i] and value <= self.values[i] for family, value in pairs) - 1
            row = {"row": i, "asked": _short(self.prompts[i]), "right": _short(self.truth[i]),
                   "said": _short(self.answers[i]), TASKS[self.task]: round(self.values[i], 3)}
            rows.append(row | ({"sure": f"{sure[i]:.0%}"} if self.probabilities else {})
                        | ({"alike": alike} if self.groups else {}))
        return Table(rows, f"{self.name}: the {len(rows)} worst of {len(self.values)} rows")

    def save(self, folder: str | Path) -> Path:
        """Write evaluation.json into a folder, a Run's for instance, for `labkit gate`."""
        file = Path(folder) / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(part, file)
        return file

    @classmethod
    def read(cls, path: str | Path) -> Evaluation:
        """From a folder that `save` wrote to, or the file itself.

        Raises:
            LabError: there is none, or it is damaged.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            facts["metrics"] = {name: Score(**score) for name, score in facts["metrics"].items()}
            return cls(**facts)
        except FileNotFoundError:
            raise LabError("no evaluation here", where=str(path), expected=FILE,
                           todo="Make one: `labkit evaluate RUN --task tone`, or evaluate_model(...).save(folder)"
                           ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LabError("this is no evaluation, or a damaged one", where=str(file),
                           todo="Evaluate the model again") from error


def evaluate_model(
    model: Any,
    dataset: Any,
    task: str | None = None,
    *,
    name: str = "",
    labels: Sequence[str] | None = None,
    batch_size: int | None = None,
    max_new_tokens: int | None = None,
    padding_side: str = "left",
    progress: bool = True,
    reuse: bool = False,
) -> Evaluation:
    """Score a model on a dataset: answers in batches, greedily, then every figure that the task has.

    Args:
        model: a Run, a pair (model, tokenizer), or a profile, folder or hub id.
        dataset: examples with `prompt` and `completion` (for perplexity also rows with `text` alone), or a Task, whose
            test split is taken. `family` makes intervals count families; other columns of few values make slices.
        task: "classification", "extraction", "summarisation", "generation" or "perplexity", or the name of a task on
            the tickets; a Task brings its own.
        name: for tables; the Run's folder where it is not given.
        labels: of a classification, to pick among; the different answers of the dataset where they are not given.
        batch_size: rows at once; 16, or 32 for free text. The result does not depend on it.
        max_new_tokens: of free text; as long as the longest right answer, and a little, where it is not given.
        padding_side: for classification and perplexity; free text is always padded on the left.
        progress: show a bar that goes when it is done.
        reuse: keep the scores in the Run's folder, and take those that lie there if weights, rows and labels are the
            same.

    Raises:
        LabError: an unknown task, no rows, a column that is missing, or a right answer that is not among the labels.
    """
    rows, kind, labels = _understood(dataset, task, labels)
    mark = _fingerprint(model, rows, kind, labels) if reuse else ""
    if mark and (old := _kept(model.folder, mark)):
        return replace(old, name=name or old.name)
    loaded, name = _loaded(model, name)
    prompts = list(rows["prompt"]) if kind != "perplexity" or "prompt" in rows.column_names else list(rows["text"])
    truth = list(rows["completion"]) if "completion" in rows.column_names else [""] * len(rows)
    kept = {c: [str(v) for v in rows[c]] for c in rows.column_names if _sliceable(rows, c)}
    groups = groups_of(rows)
    made = {"task": kind, "name": name, "truth": truth, "prompts": [_plain(p) for p in prompts], "columns": kept,
            "groups": groups}
    with _bar(name, len(rows), progress) as tick:
        started = time.perf_counter()
        if kind == "classification":
            size = batch_size or 16
            said = score_labels(*loaded, prompts, labels, size, padding_side, tick)
            seconds, chances = time.perf_counter() - started, said.double().softmax(-1).tolist()
            answers = [labels[i] for i in said.argmax(-1).tolist()]
            values = [float(a == b) for a, b in zip(truth, answers, strict=True)]
            metrics = [figures.accuracy(truth, answers, groups), figures.macro_f1(truth, answers, groups)]
            made |= {"labels": list(labels), "probabilities": chances}
        elif kind == "perplexity":
            size = batch_size or 16
            texts = [str(text) for text in (rows["text"] if "text" in rows.column_names else truth)]
            each = token_log_likelihoods(*loaded, texts, batch_size=size, padding_side=padding_side, tick=tick)
            seconds, answers = time.perf_counter() - started, [""] * len(texts)
            values = [sum(row) / len(row) if row else 0.0 for row in each]
            metrics = perplexity_scores(texts, each, groups)
            made |= {"truth": texts}
        else:
            size = batch_size or 32
            most = max_new_tokens or _room(loaded[1], truth)
            answers = generate(*loaded, prompts, most, size, tick)
            seconds = time.perf_counter() - started
            values, metrics = FREE[kind](truth, answers, groups)
    done = Evaluation(metrics={score.metric: score for score in metrics}, values=values, answers=answers,
                      seconds=seconds, batch_size=size, fingerprint=mark, **made)
    if mark:
        done.save(model.folder)
    return done


def _extraction(truth, answers, groups):
    return figures.entity_row_f1(truth, answers), figures.entity_scores(truth, answers, groups)


def _texts(truth, answers, groups):
    """ROUGE and exact match a row; BLEU is one figure for all rows, and its interval draws rows anew."""
    each = {"ROUGE-L": [by_hand.rouge_l(a, b) for a, b in zip(truth, answers, strict=True)]}
    for n in (1, 2):
        each[f"ROUGE-{n}"] = [by_hand.rouge_n(a, b, n) for a, b in zip(truth, answers, strict=True)]
    each["exact match"] = [float(a == b) for a, b in zip(truth, answers, strict=True)]
    found = [mean_score(name, values, groups) for name, values in each.items()]
    return each["ROUGE-L"], [*found, figures.bleu(truth, answers, groups)]


FREE: dict[str, Callable] = {"extraction": _extraction, "summarisation": _texts, "generation": _texts}


def compare(runs: Mapping[str, Evaluation] | Sequence[Evaluation]) -> Table:
    """One table of several models on the same rows: each figure with its interval, the difference to the first one
    row by row, and its p, made good for the number of comparisons (Holm).

    Raises:
        LabError: fewer than one, or models that did not answer the same rows.
    """
    named = dict(runs) if isinstance(runs, Mapping) else {e.name: e for e in runs}
    if not named or len(named) < len(runs):
        raise LabError("no evaluations" if not named else "two evaluations have the same name", where="compare",
                       expected="a dict from name to Evaluation")
    first, *others = named
    apart = {name: difference(named[first], named[name]) for name in others}
    adjusted = holm({name: d.p for name, d in apart.items()})
    metrics = [m for m in named[first].metrics if all(m in e.metrics for e in named.values())]
    rows = []
    for name, evaluation in named.items():
        row = {"": name, **{m: str(evaluation.metrics[m]) for m in metrics[:3]}}
        if others:
            row[f"against {first}, row by row"] = str(apart[name]) if name in apart else None
            row["p (Holm)"] = _p(adjusted[name]) if name in apart else None
        rows.append(row | {"ms a row": f"{1000 * evaluation.latency:.1f}"})
    e = named[first]
    of = f" of {len(set(e.groups))} families" if e.groups else ""
    return Table(rows, f"{len(e.values)} rows{of}; intervals are 95 %")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def difference(baseline: Evaluation, candidate: Evaluation, column: str | None = None, value: str | None = None,
               level: float = 0.95) -> Difference:
    """Candidate minus baseline on the same rows, or on those with this value in a column.

    Raises:
        LabError: they did not answer the same rows of the same task.
    """
    if baseline.task != candidate.task or (baseline.prompts, baseline.truth) != (candidate.prompts, candidate.truth):
        raise LabError(f"{candidate.name or 'the candidate'} and {baseline.name or 'the baseline'} did not answer the "
                       "same rows", expected="two evaluations of one dataset, in the same order",
                       todo="Evaluate both on the same test rows")
    kept = range(len(baseline.values))
    if column is not None:
        kept = [i for i in kept if baseline.columns[column][i] == value]
    groups = None if baseline.groups is None else [baseline.groups[i] for i in kept]
    return paired_bootstrap([baseline.values[i] for i in kept], [candidate.values[i] for i in kept], groups,
                            level=level)


# -- what was meant ------------------------------------------------------------------------------------------------


def _understood(dataset: Any, task: str | None, labels) -> tuple[Dataset, str, list[str]]:
    """Rows, kind of task, labels."""
    if hasattr(dataset, "template") and hasattr(dataset, "test"):  # a Task
        dataset, task, labels = dataset.test, task or dataset.name, labels or dataset.labels
    kind = KINDS.get(task or "", task)
    if kind not in TASKS:
        raise LabError(f"there is no task {task!r}", where="task", expected=", ".join([*TASKS, *KINDS]))
    if not len(dataset):
        raise LabError("no rows to score", where="dataset", expected="at least one")
    needs = {"text"} if kind == "perplexity" and "completion" not in dataset.column_names else {"prompt", "completion"}
    if kind == "perplexity" and "text" in dataset.column_names:
        needs = {"text"}
    if missing := sorted(needs - set(dataset.column_names)):
        raise LabError(f"no column {missing[0]!r}, only {', '.join(dataset.column_names)}", where="dataset",
                       todo="Make examples of records first: data.examples, or data.ticket_task for the tickets")
    if kind != "classification":
        return dataset, kind, []
    labels = list(labels) if labels else sorted(set(dataset["completion"]))
    if strange := [(i, a) for i, a in enumerate(dataset["completion"]) if a not in labels]:
        raise LabError(f"the right answer {strange[0][1]!r} is not among the labels", where=f"row {strange[0][0]}",
                       expected=", ".join(labels))
    return dataset, kind, labels


def _loaded(model: Any, name: str) -> tuple[tuple, str]:
    if hasattr(model, "loaded"):  # a Run
        return model.loaded, name or Path(model.folder).name
    if isinstance(model, tuple):
        return model, name or Path(str(getattr(model[0], "name_or_path", "model"))).name
    from labkit import models

    return models.load(model), name or Path(str(model)).name


def _fingerprint(run: Any, rows: Dataset, kind: str, labels: list[str]) -> str:
    """Tells these scores from those of other weights, rows or labels.

    Raises:
        LabError: not a Run, which has a folder to keep scores in.
    """
    if not hasattr(run, "folder"):
        raise LabError("scores can only be kept beside a run", where="reuse", expected="a Run as the model")
    digest = hashlib.sha256(json.dumps([kind, labels]).encode())
    for column in sorted({"prompt", "completion", "text"} & set(rows.column_names)):
        digest.update(json.dumps(rows[column][:]).encode())
    for file in sorted(Path(run.folder).glob("*/*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _kept(folder: Path, mark: str) -> Evaluation | None:
    try:
        old = Evaluation.read(folder)
    except LabError:
        return None
    return old if old.fingerprint == mark else None


def _sliceable(rows: Dataset, column: str) -> bool:
    if column in ("prompt", "completion", "text", "id", "family") or not isinstance(rows[column][0], str | int | bool):
        return column == "label"
    return 1 < len(set(rows[column])) <= 30


def _room(tokenizer, truth: Sequence[str]) -> int:
    """Tokens of the longest right answer, and a quarter more: what a sound answer needs, and no rambling."""
    return math.ceil(1.25 * max(len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in set(truth))) + 4


def _plain(prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(str(turn["content"]) for turn in prompt)


def _short(text: str, most: int = 90) -> str:
    """The end of a long text: templates stand at the beginning."""
    line = " ".join(text.split())
    return line if len(line) <= most else "…" + line[1 - most :]


@contextmanager
def _bar(name: str, rows: int, show: bool) -> Iterator[Callable[[int], None] | None]:
    """A bar that is gone when it is done, in a terminal and in a notebook; what is over at once shows none."""
    notebook = in_notebook()
    if not show or not (notebook or sys.stderr.isatty()):
        yield None
        return
    if notebook:
        done = 0
        with passing_line() as say:

            def told(more: int) -> None:
                nonlocal done
                done += more
                say(f"scoring: row {done:,} of {rows:,}")

            yield told
        return
    from tqdm import tqdm

    with tqdm(total=rows, desc=name or "scoring", leave=False, unit="row") as bar:
        yield bar.update
