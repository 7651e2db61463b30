"""What a training shows while it runs: callbacks for the Trainer that look on and change nothing.

Below `training`, which puts them in; lab 08 builds more of them.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from labkit.models import quiet

if TYPE_CHECKING:
    from transformers import TrainerCallback

EVERY = 1.0  # seconds between two looks


def in_notebook() -> bool:
    """Whether a kernel runs this, so that there is a cell to show something under."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


def notebook_line() -> TrainerCallback | None:
    """One line under the cell that says how far the training is, gone when it is done; None outside of a notebook."""
    if not in_notebook():
        return None
    from IPython.display import HTML, display

    with quiet():
        from transformers import TrainerCallback

    class Line(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.handle, self.begun, self.first = display(HTML(""), display_id=True), time.monotonic(), None
            self.looked = self.begun

        def on_step_end(self, args, state, control, **kwargs):
            now = time.monotonic()
            self.first = self.first or (now, state.global_step)  # the first step warms up, and tells no speed
            if now - self.looked < EVERY or state.global_step == self.first[1]:
                return
            self.looked = now
            left = (state.max_steps - state.global_step) * (now - self.first[0]) / (state.global_step - self.first[1])
            self.handle.update(HTML(f"training: step {state.global_step} of {state.max_steps}, "
                                    f"about {left:.0f} s to go"))

        def on_train_end(self, args, state, control, **kwargs):
            self.handle.update(HTML(""))

    return Line()
