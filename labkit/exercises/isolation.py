"""Isolation: whatever an answer does while it is checked, the notebook around it stays as it was.

`check` runs every test inside these three: state is put back, output is caught, time is limited.
"""

from __future__ import annotations

import io
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

KEPT = 2000  # characters of an answer's own printing that are kept; it may print gigabytes


class TimeUp(BaseException):
    """The answer ran longer than its limit. Not an Exception, so that `except Exception` does not swallow it."""


class Printed(io.TextIOBase):
    """A stand-in for stdout that keeps the first `KEPT` characters and forgets the rest."""

    def __init__(self):
        self.text = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if (room := KEPT - len(self.text)) > 0:
            self.text += text[:room]
        return len(text)

    def clear(self) -> None:
        self.text = ""


@contextmanager
def kept_state(seed: int | None = None, figures: bool = True) -> Iterator[None]:
    """Put random states, torch's switches, the working directory and matplotlib's state back afterwards.

    numpy, torch and matplotlib are touched only where the notebook has imported them already.

    Args:
        seed: seeds all generators inside, so that the same answer always meets the same check.
        figures: put matplotlib's settings and open figures back as well.
    """
    with ExitStack() as stack:
        stack.enter_context(_folder())
        stack.enter_context(_random(seed))
        if "torch" in sys.modules:
            stack.enter_context(_torch(seed))
        if figures and "matplotlib" in sys.modules:
            stack.enter_context(_matplotlib())
        yield


@contextmanager
def _folder() -> Iterator[None]:
    try:
        here = os.getcwd()
    except OSError:  # the folder was deleted under the notebook: nothing to go back to
        yield
        return
    try:
        yield
    finally:
        os.chdir(here)


@contextmanager
def _random(seed: int | None) -> Iterator[None]:
    numpy = sys.modules.get("numpy")
    python_state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    if seed is not None:
        random.seed(seed)
        if numpy:
            numpy.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)


@contextmanager
def _torch(seed: int | None) -> Iterator[None]:
    import torch

    state, threads = torch.get_rng_state(), torch.get_num_threads()
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    if seed is not None:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would move the GPU's generator as well
    try:
        yield
    finally:
        torch.set_rng_state(state)
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextmanager
def _matplotlib() -> Iterator[None]:
    """The notebook's open figures are hidden inside, so that an answer cannot draw on them, and new ones are closed."""
    import matplotlib
    from matplotlib._pylab_helpers import Gcf  # pyplot's list of figures; it has no public way to set one aside

    figures = dict(Gcf.figs)
    Gcf.figs.clear()
    try:
        with matplotlib.rc_context():
            yield
    finally:
        Gcf.destroy_all()
        Gcf.figs.update(figures)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeUp` after that many seconds; without effect outside the main thread and where SIGALRM is missing.

    An alarm that somebody else had set goes off when it would have, or right afterwards.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    armed = True

    def ring(signum, frame):
        if armed:
            raise TimeUp

    began = time.monotonic()
    earlier_handler = signal.signal(signal.SIGALRM, ring)
    # Rings once a second from then on: an answer may catch the first one with a bare `except`.
    earlier_left, earlier_interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if earlier_handler is None else earlier_handler)
        if earlier_left:
            left = max(earlier_left - (time.monotonic() - began), 0.001)
            signal.setitimer(signal.ITIMER_REAL, left, earlier_interval)
