"""A training in one line: under the cell of a notebook, or in a terminal.

Over `meter`; `training` puts one in where nobody asks for more.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from labkit import processes
from labkit.monitoring.meter import Meter, meter_callback

if TYPE_CHECKING:
    from transformers import TrainerCallback

EVERY = 1.0  # seconds between two looks


def in_notebook() -> bool:
    """Whether a kernel runs this, so that there is a cell to show something under."""
    if processes.forked:
        return False
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


@contextmanager
def passing_line() -> Iterator[Callable[[str], None]]:
    """A function that shows a text under the cell, at most one a second, gone at the end; for a notebook only."""
    from IPython.display import HTML, display

    looked, handle = time.monotonic(), display(HTML(""), display_id=True)

    def say(text: str) -> None:
        nonlocal looked
        if time.monotonic() - looked >= EVERY:
            looked = time.monotonic()
            handle.update(HTML(text))

    try:
        yield say
    finally:
        handle.update(HTML(""))


def say_of_the_rest(sentence: str) -> None:
    """Show this sentence, and what went wrong, in place of the traceback if the cell that runs now fails further on."""
    shell = sys.modules["IPython"].get_ipython()

    def shown(shell, kind, error, trace, tb_offset=None) -> list[str]:
        own = getattr(error, "_render_traceback_", None)
        lines = own() if own else [f"{sentence} {kind.__name__}: {error}"]
        shell._showtraceback(kind, error, lines)
        return lines

    def over(*_) -> None:
        shell.set_custom_exc((), None)
        shell.events.unregister("post_run_cell", over)

    shell.set_custom_exc((Exception,), shown)
    shell.events.register("post_run_cell", over)


def notebook_line() -> TrainerCallback | None:
    """One line under the cell that says how far the training is, gone when it is done; None outside of a notebook."""
    if not in_notebook():
        return None
    from IPython.display import HTML, display

    class Line(meter_callback()):
        handle = None

        def on_train_begin(self, args, state, control, **kwargs):
            super().on_train_begin(args, state, control, **kwargs)
            self.handle, self.looked = display(HTML(""), display_id=True), time.monotonic()

        def show(self, state):
            if time.monotonic() - self.looked >= EVERY and self.meter.seconds_a_step:
                self.looked = time.monotonic()
                self.handle.update(HTML(f"training: {self.meter.words()}"))

        def on_train_end(self, args, state, control, **kwargs):
            super().on_train_end(args, state, control, **kwargs)
            self.close()

        def close(self):  # a training that an error ends never comes to on_train_end
            if self.handle is not None:
                self.handle.update(HTML(""))

    return Line(Meter())


def terminal_line(file=None) -> TrainerCallback:
    """A bar by tqdm with loss, speed, machine and time to go, on stderr; outside of a terminal nothing is drawn.

    Args:
        file: in place of stderr; then it is drawn, whatever it is.
    """
    from tqdm import tqdm

    class Bar(meter_callback()):
        bar = None

        def on_train_begin(self, args, state, control, **kwargs):
            super().on_train_begin(args, state, control, **kwargs)
            self.looked = time.monotonic()
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, file=file or sys.stderr, leave=True,
                            unit="step", disable=None if file is None else False, mininterval=EVERY)

        def show(self, state):
            if time.monotonic() - self.looked >= EVERY or state.global_step == state.max_steps:
                self.looked = time.monotonic()
                self.bar.set_postfix_str(self.meter.words().partition(" · ")[2].partition(" · about")[0],
                                         refresh=False)
            self.bar.update()

        def on_train_end(self, args, state, control, **kwargs):
            super().on_train_end(args, state, control, **kwargs)
            self.close()

        def close(self):
            if self.bar is not None:
                self.bar.close()

    return Bar(Meter())
