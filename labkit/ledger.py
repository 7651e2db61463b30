"""The parity ledger: one fixed set of prompts through every stage of a model, from its base to what is served.

Over `export` and `evaluation`: each stage is asked the same, and stands beside the one before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from labkit import evaluation
from labkit.data.encode import encode_prompt
from labkit.data.template import Prompt, turns
from labkit.errors import LabError
from labkit.export.measure import speed
from labkit.export.model import OnnxModel
from labkit.tables import Table
from labkit.training import Run

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

WRITTEN = 16  # prompts that every stage writes an answer to
TOKENS = 24  # of such an answer
LONG = 96  # of one that is scored itself, where there are no labels to choose among


@dataclass(frozen=True)
class Served:
    """A model behind an OpenAI-compatible address: only its answers can be seen."""

    url: str
    name: str
    bytes: int | None = None

    def ask(self, prompt: Prompt, tokens: int = TOKENS) -> tuple[str, int]:
        """The greedy answer to a prompt, and how many tokens the server counted in the prompt.

        Raises:
            LabError: nobody answers there, or not with an answer.
        """
        import json
        import urllib.error
        import urllib.request

        body = {"model": self.name, "messages": turns(prompt), "max_tokens": tokens, "temperature": 0}
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                said = json.load(answer)
        except urllib.error.HTTPError as error:
            raise LabError(f"the server refuses ({error.code}: {error.read(300).decode(errors='replace')})",
                           where=self.url) from error
        except OSError as error:
            raise LabError("nobody answers", where=self.url, todo="Start it: labkit serve FOLDER") from error
        return said["choices"][0]["message"]["content"], said["usage"]["prompt_tokens"]


@dataclass(frozen=True)
class Entry:
    """One stage. `gap` is the largest difference of a label's log-likelihood to the stage before, in nats; `same` the
    share of written answers that equal those of the stage before; `counts` the tokens that each prompt became; `said`
    is what `accuracy` is of: a label for each prompt, or the written answer."""

    name: str
    counts: list[int]
    ids: list[list[int]] | None
    scores: np.ndarray | None
    answers: list[str]
    accuracy: evaluation.Score
    bytes: int | None
    decode: float | None
    gap: float | None = None
    same: float | None = None
    tokens_in: bool | None = None
    said: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ledger:
    """What `follow` found, stage after stage."""

    entries: list[Entry] = field(default_factory=list)

    def table(self) -> Table:
        """One row a stage."""
        rows = []
        for e in self.entries:
            rows.append({
                "stage": e.name,
                "tokens in": "-" if e.tokens_in is None else "same" if e.tokens_in else "differ",
                "gap, nats": None if e.gap is None else float(f"{e.gap:.2g}"),
                "answers as before": None if e.same is None else f"{e.same:.0%}",
                e.accuracy.metric: str(e.accuracy),
                "MB": None if e.bytes is None else round(e.bytes / 1e6, 2),
                "tokens/s": None if e.decode is None else round(e.decode),
            })
        for name in ("gap, nats", "tokens/s"):
            if all(row[name] is None for row in rows):  # nobody asked for it
                rows = [{key: value for key, value in row.items() if key != name} for row in rows]
        first = self.entries[0]
        return Table(rows, f"{first.accuracy.rows} prompts; each stage beside the one before it")

    def __getitem__(self, name: str) -> Entry:
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise LabError(f"there is no stage {name!r}", where="ledger",
                       expected=", ".join(e.name for e in self.entries))

    def facts(self) -> list[dict[str, Any]]:
        """A dict a stage, fit for JSON: all but token ids and label scores, whose differences are in it."""
        return [asdict(entry) | {"ids": None, "scores": None} for entry in self.entries]

    @classmethod
    def of(cls, facts: Sequence[Mapping[str, Any]]) -> Ledger:
        """The ledger that `facts` came from.

        Raises:
            KeyError, TypeError: they are none.
        """
        names = [one.name for one in fields(Entry)]
        return cls([Entry(**{name: row[name] for name in names} | {"accuracy": evaluation.Score(**row["accuracy"])})
                    for row in facts])

    def drifts(self, exact: Sequence[str] = ("merged", "ONNX fp32"), gap: float = 0.01, points: float = 0.03,
               against: str | None = None, alike: float = 0.9) -> list[str]:
        """Sentences for what a stage broke, each beginning with its name; none where the ledger holds.

        Args:
            exact: stages that must say what the one before says: label scores within `gap` nats, or, where those
                cannot be seen, the share `alike` of the written answers. A stage that is judged by its answers is not
                judged by `points` too: on labels it may be the only one that has to write them.
            points: how much of the figure any later stage may lose against the stage `against` (the first exact one).
                Its interval may not lie below that stage's either: of a figure of 7 % a lot is lost in 3 points.
        """
        found = []
        for e in self.entries[1:]:
            if e.tokens_in is False:
                found.append(f"{e.name}: the prompts became other tokens than in the stage before.")
            if e.name in exact and e.gap is not None and e.gap > gap:
                found.append(f"{e.name}: log-likelihoods moved by {e.gap:.2g} nats, and {gap:g} is allowed.")
            if e.name in exact and e.gap is None and e.same is not None and e.same < alike:
                found.append(f"{e.name}: {e.same:.0%} of the answers are as in the stage before, and {alike:.0%} must "
                             "be.")
        names = [e.name for e in self.entries]
        against = against or next((n for n in exact if n in names), names[0])
        whole = self[against].accuracy
        for e in self.entries[names.index(against) + 1 :]:
            if e.name in exact and e.gap is None:
                continue
            lost = whole.value - e.accuracy.value
            if lost > points + 1e-9:
                found.append(f"{e.name}: {100 * lost:.1f} points of {whole.metric} below {against}, and "
                             f"{100 * points:g} are allowed.")
            elif whole.above(e.accuracy):
                found.append(f"{e.name}: {e.accuracy} of {whole.metric} lies below {against}, {whole}.")
        return found


def follow(stages: Mapping[str, Any], rows: Dataset, labels: Sequence[str] = (), written: int = WRITTEN,
           timed: bool = True) -> Ledger:
    """Ask every stage the same prompts, in order.

    Args:
        stages: name to a pair (model, tokenizer), a Run, an OnnxModel, a pair (OnnxModel, name of an adapter), or a
            Served.
        rows: examples with `prompt` and `completion`; the same for all.
        labels: to choose among; without them answers are written, and the figure is ROUGE-L.
        written: how many of the prompts are also answered in free writing, token by token.
        timed: measure tokens a second too.

    Raises:
        LabError: no stages, or no rows.
    """
    if not stages or not len(rows):
        raise LabError("nothing to follow", where="ledger", expected="at least one stage and one row")
    ledger = Ledger()
    prompts, truth, groups = list(rows["prompt"]), list(rows["completion"]), evaluation.groups_of(rows)
    figure = evaluation.accuracy if labels else evaluation.rouge_l
    written = written if labels else len(prompts)
    before: Entry | None = None
    for name, stage in stages.items():
        found = _ask(stage, prompts, labels, written, timed)
        entry = Entry(name=name, accuracy=figure(truth, found["said"], groups), **found, **beside(found, before))
        ledger.entries.append(entry)
        before = entry
    return ledger


def _ask(stage: Any, prompts: list, labels: Sequence[str], written: int, timed: bool) -> dict[str, Any]:
    tokens = TOKENS if labels else LONG
    if isinstance(stage, Served):
        pairs = [stage.ask(prompt, tokens) for prompt in prompts]
        said = [text.strip() for text, _ in pairs]
        return {"counts": [count for _, count in pairs], "ids": None, "scores": None, "answers": said[:written],
                "said": said, "bytes": stage.bytes, "decode": None}
    adapter = None
    if isinstance(stage, tuple) and isinstance(stage[0], OnnxModel):
        stage, adapter = stage
    if isinstance(stage, OnnxModel):
        ids = [stage.prompt_ids(prompt) for prompt in prompts]
        scores = stage.score_labels(prompts, labels, adapter) if labels else None
        answers = stage.generate(prompts[:written], tokens, adapter=adapter)
        size = stage.bytes
    else:
        stage = stage.loaded if isinstance(stage, Run) else stage
        model, tokenizer = stage
        ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
        scores = evaluation.score_labels(model, tokenizer, prompts, labels).numpy() if labels else None
        answers = evaluation.generate(model, tokenizer, prompts[:written], tokens)
        size = sum(p.numel() * p.element_size() for p in model.parameters())
    return {"counts": [len(row) for row in ids], "ids": ids, "scores": scores, "answers": answers,
            "said": answers if scores is None else [labels[i] for i in scores.argmax(-1)], "bytes": size,
            "decode": speed(stage, 64, 16, repeats=2).decode if timed else None}


def beside(found: Mapping[str, Any], before: Entry | None) -> dict[str, Any]:
    """How a stage (its counts, ids, scores and answers) differs from the one before it: tokens_in, gap and same."""
    if before is None:
        return {}
    import numpy as np

    n = min(len(found["answers"]), len(before.answers))
    both = found["ids"] is not None and before.ids is not None
    return {
        "tokens_in": found["ids"] == before.ids if both else found["counts"] == before.counts,
        "gap": None if found["scores"] is None or before.scores is None
        else float(np.abs(found["scores"] - before.scores).max()),
        "same": sum(a == b for a, b in zip(found["answers"], before.answers, strict=False)) / n if n else None,
    }
