"""What a job left, as files that somebody else can read: the curve as a picture, the report in Markdown.

Last step of the job: takes the scores and the Run that `run_job` gathered, and writes them beside the adapter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit import plots
from labkit.evaluation import Score
from labkit.intake import place
from labkit.tables import Table, as_markdown

if TYPE_CHECKING:
    from labkit.intake import Intake
    from labkit.training import Run

SHORT = 160  # characters of a text that is shown


@dataclass(frozen=True)
class JobResult:
    """A finished job: where everything lies, the scores, and what may be said of them.

    `scores` goes from a name ("majority class", "bag of words", "base", "tuned") to the Score on the test rows;
    `wrong` has up to three dicts with `text`, `truth` and `answer`; `verdicts` are sentences.
    """

    folder: Path
    run: Run
    intake: Intake
    scores: dict[str, Score]
    table: Table
    verdicts: list[str]
    wrong: list[dict[str, str]]
    settings: dict[str, Any]
    seconds: float


def verdicts(scores: dict[str, Score]) -> list[str]:
    """For each other row of the table, whether the tuned model is better: only where the intervals do not touch.

    >>> print(*verdicts({"base": Score("accuracy", 0.2, 0.1, 0.3, 60), "tuned": Score("accuracy", 0.9, 0.8, 1, 60)}))
    The tuned model is better than base: 90.0% [80.0%, 100.0%] against 20.0% [10.0%, 30.0%].
    """
    tuned, said = scores["tuned"], []
    for name, score in scores.items():
        if name == "tuned":
            continue
        if tuned.above(score):
            said.append(f"The tuned model is better than {name}: {tuned} against {score}.")
        elif score.above(tuned):
            said.append(f"The tuned model is worse than {name}: {tuned} against {score}.")
        else:
            said.append(f"{tuned.rows:,} test rows do not tell the tuned model from {name}: {tuned} against {score}.")
    return said


def draw_curve(run: Run, file: Path) -> str:
    """Draw the loss over the steps as a PNG.

    Args:
        run: with `loss`, and perhaps `validation_loss`, in its curve (nats per token that counts).
        file: where to.

    Returns:
        The finding, which is also the picture's title.
    """
    learnt = [(point["step"], point["loss"]) for point in run.curve if "loss" in point]
    held = [(point["step"], point["validation_loss"]) for point in run.curve if "validation_loss" in point]
    finding = _finding(learnt, held)
    figure = plots.curve(run.curve, finding, height=4)
    figure.axes[0].set_xlabel(f"step ({run.settings['batch_size']} rows each)")
    file.write_bytes(plots.png(figure))
    return finding


def _finding(learnt: list[tuple], held: list[tuple]) -> str:
    first, last = learnt[0][1], learnt[-1][1]
    went = "fell" if last < first else "did not fall: it went"
    text = f"The loss {went} from {first:.2f} to {last:.2f}"
    if not held:
        return text
    low, end = min(value for _, value in held), held[-1][1]
    if end > 1.1 * low:
        best = next(step for step, value in held if value == low)
        return f"{text};\nthe watched rows had {low:.2f} at step {best} and {end:.2f} at the end: fewer steps may do"
    return f"{text}; on the watched rows it ended at {end:.2f}"


def write_report(result: JobResult, finding: str) -> Path:
    """Write report.md for somebody who did not run the job.

    Args:
        result: the finished job.
        finding: what the curve shows, as `draw_curve` says it.

    Returns:
        The file.
    """
    intake, run, settings = result.intake, result.run, result.settings
    goal = {"label": f"choose the label of a text among {', '.join(map(_text, intake.labels))}",
            "messages": "give the assistant's answer in a conversation"}.get(intake.kind, "write the answer to a text")
    metric = ("Accuracy is the share of test rows whose label is right; macro-F1 counts every label alike, rare or not."
              if intake.kind == "label" else
              "ROUGE-L is the part of the words, in order, that an answer shares with the right one: 100% is the same.")
    sections = [
        f"# Fine-tuning on {_text(Path(intake.source).name)}: what it gave",
        "\n".join(f"- **{_text(sentence)}**" for sentence in result.verdicts),
        "## What was asked",
        f"A language model (base: {_text(settings['model'])}) should learn to {goal}, from examples.",
        "## How the data were understood",
        "\n".join(f"- {_text(sentence, 2000)}" for sentence in intake.said),
        "## What was left out, and why",
        _left_out(intake),
        "## How good it is, on rows that the training never saw",
        result.table.markdown(),
        f"{metric} In brackets is the 95 % interval: with other test rows of the same kind the figure would mostly "
        "fall into it. One is called better than another only where the intervals do not touch.",
        "## Rows that it still gets wrong",
        _wrong(result.wrong),
        "## How the training went",
        f"![{_text(' '.join(finding.split()))}](curve.png)",
        _text(settings["epochs"]),
        "## How to use it",
        f"`labkit chat {result.folder}` talks to it. The adapter in `adapter/` belongs on the base model named below, "
        "and a new text must be put to it in these words, in the model's chat template:",
        _fenced(intake.template),
        "## Settings",
        Table([{"setting": key, "value": _text(str(value))} for key, value in _facts(run, settings)]).markdown(),
        "Which row went into which split stands in `splits.json`, everything else in `settings.json` and `run.json`.",
        "## What was watched for",
        "\n".join(f"- {_text(guard.guard)}: {_text(guard.saw)}" for guard in run.findings),
    ]
    file = result.folder / "report.md"
    file.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return file


def _facts(run: Run, settings: dict) -> list[tuple[str, Any]]:
    chosen = {key: value for key, value in run.settings.items() if value is not None and key not in ("model", "rows")}
    return [("base model", settings["model"]), ("origin of the base model", settings["origin"]),
            *((key.replace("_", " "), value) for key, value in chosen.items()),
            ("trained parameters", f"{run.trainable:,} of {run.total:,} ({run.share:.1%})"),
            ("training took", f"{run.seconds:.0f} s"), ("file's SHA-256", settings["sha256"]),
            *settings["versions"].items(), *settings["machine"].items()]


def _left_out(intake: Intake) -> str:
    if not intake.left_out:
        return "Nothing."
    return "\n".join(f"- {_text(place(row['file'], row['line']))}: {_text(row['reason'])}" for row in intake.left_out)


def _wrong(rows: list[dict]) -> str:
    if not rows:
        return "None: every test row was answered as the file has it."
    return Table([{key: _text(value) for key, value in row.items()} for row in rows]).markdown()


def shorten(text: str, most: int = SHORT) -> str:
    """A text in one line of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def _text(text: str, most: int = 400) -> str:
    """Somebody's words as Markdown that shows them and does nothing else; `Table` takes care of pipes."""
    return as_markdown(shorten(text, most))


def _fenced(text: str) -> str:
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}text\n{text}\n{ticks}"
