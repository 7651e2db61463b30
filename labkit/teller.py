"""Tells whoever waits what is being done: rich bars on a terminal, plain lines elsewhere, all of it on stderr.

Beside the job on the data's way: it changes nothing, so a script that reads stdout gets results alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from labkit.monitoring import Meter, meter_callback

if TYPE_CHECKING:
    from transformers import TrainerCallback

LINES = 10  # plain lines a training, where there is no terminal to draw a bar on


class Teller:
    """Sentences and progress bars on stderr, or nothing of either.

    Args:
        show: whether to tell anything at all.
    """

    def __init__(self, show: bool = True):
        self.show = show
        self.bars = show and sys.stderr.isatty()

    def say(self, text: str) -> None:
        """One line."""
        if self.show:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """A bar over `total` things, moved on by calls of what it yields: (how many more, what to say beside it)."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        if not self.bars:
            self.say(what)
            yield lambda more, beside="": None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("{task.fields[beside]}"))
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(what, total=total, beside="")
            yield lambda more, beside="": progress.update(task, advance=more, **({"beside": beside} if beside else {}))

    @contextmanager
    def training(self, steps: int) -> Iterator[TrainerCallback]:
        """A callback for the Trainer that moves a bar, or says a line now and then.

        Args:
            steps: optimizer steps in all; a resumed training begins in the middle.
        """
        started = time.monotonic()
        with self.bar(f"training, {steps:,} steps", steps) as move:
            say, bars = self.say, self.bars

            class Tell(meter_callback()):
                def on_train_begin(self, args, state, control, **kwargs):
                    super().on_train_begin(args, state, control, **kwargs)
                    move(state.global_step)
                    if state.global_step:
                        say(f"going on after step {state.global_step:,}")

                def show(self, state):
                    told = not bars and state.global_step % max(1, steps // LINES) == 0
                    if bars or told:
                        words = self.meter.words()
                    move(1, words.partition(" · ")[2] if bars else "")
                    if told:
                        say(f"{words}, {time.monotonic() - started:.0f} s")

            yield Tell(Meter())
