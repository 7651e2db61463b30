"""In which words a Run asks: its prompt's template and its labels, and the rows of a file put into them.

Beside training on the data's way: a chat, a new file to score and a hand-in ask a model as its training did.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit import data
from labkit.data.read import columns_of, quiet
from labkit.errors import LabError

if TYPE_CHECKING:
    from datasets import Dataset

    from labkit.training import Run

PLAIN = {"kind": "completion", "template": "{text}", "answer_tokens": 96}  # a Run that no job made
FIELD = "{text}"


def wording(run: Run) -> dict[str, Any]:
    """How a Run asks: `kind`, `template` with {text} in it, `labels`, `answer_tokens`; of a job `columns` and `group`.

    A Run that no job made asks as its training did, or, where that is not known, the text as it is.

    Raises:
        LabError: settings.json is damaged.
    """
    file = Path(run.folder) / "settings.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        said = {name: found[name] for name in (*PLAIN, "labels")}
        return said | {"columns": found.get("asked", {}).get("columns"), "group": found.get("group"), "job": True}
    except FileNotFoundError:
        labels = run.settings.get("labels") or []
        said = PLAIN | {"template": run.settings.get("template", PLAIN["template"]), "labels": labels}
        return said | ({"kind": "label"} if labels else {}) | {"columns": None, "group": None, "job": False}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabError("settings.json is damaged", where=str(file), todo="Train again, or take another run") from error


def ticket_task_of(run: Run) -> str:
    """The task on the shipped tickets whose words a Run asks in, or ""."""
    template = wording(run)["template"]
    return next((task for task, prompt in data.PROMPTS.items() if template.startswith(prompt.partition(FIELD)[0])), "")


def rows_to_score(file: str | Path, run: Run | None = None, columns: str | None = None) -> tuple[Dataset, str, list]:
    """The rows of a file as examples to score a model on, asked as its training asked.

    Rows with `prompt` and `completion` stay as they are, unless `labkit finetune` trained the run on labels: it put
    words before each prompt, and so they come here as well.

    Args:
        file: as `data.read` takes it, in the form of the file that was trained on.
        run: whose words they get; None for a base model, which is asked in those that `labkit finetune` would take.
        columns: "question,answer"; where it is not given, those that the run was trained on, or the known pair.

    Returns:
        Examples; the kind of task, "classification" or "generation"; the labels to choose among, or none.

    Raises:
        LabError: the file or a row of it cannot be read, or its columns are none that can be told.
    """
    said = wording(run) if run is not None else {"columns": None, "group": None, "job": False}
    columns = columns or said["columns"]
    rows = data.read(file, columns=columns)
    used = columns_of(rows, columns, str(file))
    if run is None:
        form = data.recognise(rows, columns, str(file))
    else:
        kind = "messages" if used == ("messages",) else "label" if said["labels"] else "completion"
        pair = (None, None) if kind == "messages" else used
        form = data.Form(kind, *pair, tuple(said["labels"]), len(rows), "")
    if used == ("prompt", "completion") and not said["job"]:
        made = rows
    else:
        made = data.examples(rows, form)
        if run is not None and form.kind != "messages":
            opening = said["template"].partition(FIELD)[0]
            asked = [text if opening and text.startswith(opening) else said["template"].replace(FIELD, text)
                     for text in map(str, rows[form.prompt])]
            with quiet():
                made = made.remove_columns("prompt").add_column("prompt", asked)
    if said["group"] in made.column_names and "family" not in made.column_names:
        made = made.rename_column(said["group"], "family")
    return made, "classification" if form.kind == "label" else "generation", list(form.labels)
