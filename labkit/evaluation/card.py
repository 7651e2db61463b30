"""A model card in the hub's format, written from the Run and its scores: what it is, how it was made, how good it is.

Last on the data's way, beside the gate: what a stranger needs to know before using the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.evaluation.runner import Evaluation
from labkit.tables import Table, as_markdown, show

if TYPE_CHECKING:
    from labkit.training import Run

HUB_TASKS = {"classification": "text-classification", "perplexity": "text-generation"}
HUB_METRICS = {"accuracy": "accuracy", "macro-F1": "f1", "entity F1": "f1", "ROUGE-1": "rouge", "ROUGE-2": "rouge",
               "ROUGE-L": "rouge", "BLEU": "bleu", "exact match": "exact_match", "perplexity": "perplexity"}


def model_card(
    run: Run,
    evaluation: Evaluation,
    *,
    title: str = "",
    dataset: str = "tickets",
    licence: str = "cc0-1.0",
    intended: str = "",
    limits: Sequence[str] = (),
    against: Mapping[str, Evaluation] | None = None,
    stages: Table | None = None,
    out: str | Path | None = None,
) -> str:
    """The text of README.md for a model's folder: YAML that the hub reads, then Markdown that people read.

    Args:
        run: what was trained.
        evaluation: of it, on rows that the training never saw.
        title: the model's name; the Run's folder where it is not given.
        dataset: name of the data. licence: as the hub spells it.
        intended: what it is for. limits: sentences about what it is not for; what the figures say is added.
        against: other models on the same rows.
        stages: a parity ledger's table, from the base to what is served; its caption is said above it.
        out: a folder to write README.md into; the Run's adapter, for instance.

    Returns:
        The text.
    """
    from huggingface_hub import EvalResult, ModelCardData

    kind = HUB_TASKS.get(evaluation.task, "text-generation")
    title = title or run.folder.name
    results = [EvalResult(task_type=kind, dataset_type=dataset, dataset_name=dataset, dataset_split="test",
                          metric_type=HUB_METRICS.get(name, name.replace(" ", "_")), metric_name=name,
                          metric_value=round(score.value, 4)) for name, score in evaluation.metrics.items()]
    head = ModelCardData(
        base_model=_hub_name(run), language="en", library_name="peft" if run.settings["method"] != "full" else
        "transformers", license=licence, pipeline_tag=kind, datasets=[dataset], model_name=title, eval_results=results)
    settings = [{"setting": name.replace("_", " "), "value": _value(value)} for name, value in run.settings.items()
                if value is not None and name not in ("template", "labels", "data", "base")]
    worst = evaluation.worst(3)
    parts = [
        f"---\n{head.to_yaml()}\n---",
        f"# {as_markdown(title)}",
        f"{intended or 'A model for ' + evaluation.task + ' on ' + dataset + '.'}",
        "## How it is asked" if run.settings.get("template") else "",
        _fenced(run.settings.get("template", "")),
        "## How good it is",
        verbatim(evaluation.table()),
        f"On {len(evaluation.values):,} test rows"
        + (f" of {len(set(evaluation.groups))} families that training has not seen" if evaluation.groups else "")
        + "; in brackets the 95 % interval. Answers are greedy.",
        *_slices(evaluation),
        *_against(evaluation, against, title),
        *_stages(stages),
        "## Where it fails",
        verbatim(worst),
        "\n".join(f"- {sentence}" for sentence in [*_seen_limits(evaluation), *limits]),
        "## How it was made",
        f"{run.trainable:,} of {run.total:,} parameters ({run.share:.1%}) were trained in {run.seconds:.0f} s on "
        f"{run.settings['rows']:,} rows.",
        verbatim(Table(settings)),
        "\n".join(f"- {as_markdown(f'{f.guard}: {f.saw}')}" for f in run.findings),
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / "README.md").write_text(text, encoding="utf-8")
    return text


def _hub_name(run: Run) -> str:
    from labkit.profiles import PROFILES

    name = run.settings["model"]
    return PROFILES[name].model if name in PROFILES else name


def _value(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fenced(text: str) -> str:
    ticks = "````" if "```" in text else "```"
    return f"{ticks}text\n{text}\n{ticks}" if text else ""


def verbatim(table: Table) -> str:
    """A table as Markdown with its cells' text as it is: rows and labels are somebody's, and may hold markup."""
    return Table([{key: as_markdown(show(value)) for key, value in row.items()} for row in table.rows]).markdown()


def _slices(evaluation: Evaluation) -> list[str]:
    if "label" not in evaluation.columns:
        return []
    return ["### By label", verbatim(evaluation.slice_table("label"))]


def _against(evaluation: Evaluation, against: Mapping[str, Evaluation] | None, title: str) -> list[str]:
    if not against:
        return []
    from labkit.evaluation.runner import compare

    return ["### Beside others on the same rows", verbatim(compare({title: evaluation, **against}))]


def _stages(stages: Table | None) -> list[str]:
    if stages is None:
        return []
    return ["## From the base to what is served", f"{as_markdown(stages.caption)}." if stages.caption else "",
            verbatim(stages)]


def _seen_limits(evaluation: Evaluation) -> list[str]:
    said = []
    if "label" in evaluation.columns:
        name, score = next(iter(evaluation.slices("label").items()))
        said.append(f"Lowest on {as_markdown(name)}: {score} of its rows.")
    if evaluation.probabilities:
        from labkit.scratch.metrics import calibration_error

        error = calibration_error([max(row) for row in evaluation.probabilities], [v == 1 for v in evaluation.values])
        said.append(f"Its confidence is {100 * error:.0f} points from its accuracy on average (ECE).")
    return said
