"""TensorBoard without its server: where a training's event file lies, and its scalars read back.

The file is written by transformers' own TensorBoardCallback; the picture is made by `live.still`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import LabError
from labkit.models import quiet
from labkit.monitoring.live import still

if TYPE_CHECKING:
    from IPython.display import Image
    from transformers import TrainerCallback

TAGS = {"train/loss": "loss", "eval/loss": "validation_loss", "train/learning_rate": "learning_rate",
        "train/grad_norm": "grad_norm"}


def tensorboard(folder: str | Path) -> TrainerCallback:
    """transformers' TensorBoardCallback, which writes an event file into this folder: `finetune(callbacks=[...])`."""
    with quiet():
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(log_dir=str(folder)))


def scalars(folder: str | Path) -> dict[str, list[tuple[int, float]]]:
    """What the event files of a folder hold: for each tag its (step, value) pairs, in order.

    Raises:
        LabError: there is no event file.
    """
    with quiet():
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not list(Path(folder).glob("events.out.tfevents.*")):
        raise LabError("no TensorBoard log here", where=str(folder), expected="a file events.out.tfevents...",
                       todo="Train with callbacks=[monitoring.tensorboard(folder)]")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def curve(folder: str | Path) -> list[dict]:
    """The scalars as `Run.curve` has them: one dict a step."""
    rows: dict[int, dict] = {}
    for tag, values in scalars(folder).items():
        for step, value in values if tag in TAGS else ():
            rows.setdefault(step, {"step": step})[TAGS[tag]] = value
    return [rows[step] for step in sorted(rows)]


def show(folder: str | Path) -> Image:
    """The curves of an event file, in the notebook."""
    from labkit import plots

    figure, alt = still(curve(folder))
    return plots.show(figure, alt)
