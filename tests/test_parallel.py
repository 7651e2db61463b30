"""Several small pieces of work at once: the same answers as one after the other, and nobody left behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from labkit import data, guards, models, profiles
from labkit.errors import LabError
from labkit.guards import Tripped
from labkit.parallel import room, side_by_side
from labkit.training import finetune

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux only")
signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(profiles, "compute_threads", lambda: 2)


@pytest.fixture
def nobody_left():
    """Afterwards there are no processes but those that were there before, of other tests, say."""
    before = psutil.Process().children()
    yield
    assert not set(psutil.Process().children()) - set(before)


@pytest.fixture
def ctrl_c():
    """Python's own answer to Ctrl-C: what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.01)


def test_answers_come_in_the_order_of_the_items_though_two_are_worked_on_at_once(tmp_path):
    def meet(name: str) -> tuple[str, int, bool]:
        (tmp_path / name).touch()
        other = tmp_path / {"first": "second", "second": "first"}[name]
        wait_for(other)  # one after the other, the first would never meet the second
        time.sleep(0.2 if name == "first" else 0)
        return name, os.getpid(), other.exists()

    names, processes, met = zip(*side_by_side(meet, ["first", "second"]), strict=True)
    assert names == ("first", "second")
    assert len({*processes, os.getpid()}) == 3
    assert met == (True, True)


def test_more_items_than_cores_are_all_worked_on():
    assert side_by_side(lambda n: n * n, range(7)) == [n * n for n in range(7)]


def test_trainings_side_by_side_leave_the_bytes_that_they_leave_one_after_the_other(tmp_path):
    import torch

    rows = data.ticket_task("tone").train.select(range(64))

    def train(seed: int, folder: Path) -> list[float]:
        return [point["loss"] for point in finetune(rows, steps=3, seed=seed, out=folder / str(seed)).curve]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums of two threads are rounded in another order
    try:
        one_by_one = [train(seed, tmp_path / "alone") for seed in (0, 1)]
    finally:
        torch.set_num_threads(threads)
    assert side_by_side(partial(train, folder=tmp_path / "beside"), (0, 1)) == one_by_one
    assert torch.get_num_threads() == threads
    for seed in "01":
        alone, beside = (tmp_path / where / seed / "adapter/adapter_model.safetensors" for where in ("alone", "beside"))
        assert alone.read_bytes() == beside.read_bytes()


def test_a_tensor_comes_back_after_its_process_is_gone():
    import torch

    made = side_by_side(lambda n: torch.full((1000,), float(n)), (1, 2))
    assert [float(t.sum()) for t in made] == [1000, 2000]


def test_what_is_printed_comes_through_in_order(capsys):
    def say(n: int) -> None:
        time.sleep(0.3 if n == 0 else 0)
        print("item", n)

    side_by_side(say, (0, 1, 2))
    assert capsys.readouterr().out == "item 0\nitem 1\nitem 2\n"


def test_what_an_item_changes_is_gone_afterwards():
    held = [1]
    side_by_side(held.append, (2, 3))
    assert held == [1]


@pytest.mark.parametrize("error", [LabError("no rows", where="file.csv", todo="Give some"), ValueError("no rows")])
def test_an_error_comes_through_and_ends_the_others(tmp_path, nobody_left, error):
    def fail(n: int) -> None:
        if n == 0:
            wait_for(tmp_path / "running")
            raise error
        (tmp_path / "running").touch()
        time.sleep(60)

    started = time.monotonic()
    with pytest.raises(type(error), match="no rows") as found:
        side_by_side(fail, (0, 1))
    assert str(found.value) == str(error)
    assert time.monotonic() - started < 30
    if isinstance(error, ValueError):
        assert "in fail" in str(found.value.__cause__), "where it happened is told"


def test_a_tripwire_in_a_fork_says_what_it_says_here():
    blind = [{"input_ids": [5, 6, 7], "labels": [-100] * 3}]
    with pytest.raises(Tripped) as here:
        guards.loss_mask(blind, models.load("tiny")[1])
    with pytest.raises(Tripped) as there:
        side_by_side(lambda _: guards.loss_mask(blind, models.load("tiny")[1]), (0, 1))
    assert str(there.value) == str(here.value)
    assert there.value.guard == here.value.guard == "loss_mask"


def test_an_error_that_cannot_be_made_again_keeps_its_words():
    class Odd(Exception):
        def __init__(self, first, second):
            super().__init__(f"{first} and {second}")

    def fail(_) -> None:
        raise Odd("salt", "pepper")

    with pytest.raises(RuntimeError, match="Odd: salt and pepper"):
        side_by_side(fail, (0, 1))


@signals  # so not on Windows
def test_a_process_that_is_killed_is_told_in_a_sentence():
    with pytest.raises(LabError, match=r"item 2 of 2: its process ended without an answer \(exit code -9\)"):
        side_by_side(lambda n: n == 0 or os.kill(os.getpid(), signal.SIGKILL), (0, 1))


def test_a_value_that_cannot_come_back_is_told():
    with pytest.raises(LabError, match="expected a value that can be pickled"):
        side_by_side(lambda n: lambda: n, (0, 1))


@signals  # so not on Windows
def test_ctrl_c_ends_them_all(tmp_path, nobody_left, ctrl_c):
    def work(n: int) -> None:
        (tmp_path / str(n)).touch()
        wait_for(tmp_path / str(1 - n))
        if n == 0:
            os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        side_by_side(work, (0, 1))


def test_a_fork_makes_no_forks():
    def processes(_) -> set[int]:
        return {os.getpid(), *side_by_side(lambda _: os.getpid(), (0, 1))}

    assert [len(found) for found in side_by_side(processes, (0, 1))] == [1, 1]


def test_one_at_a_time_where_there_is_one_core_or_a_model_that_fills_them_all(monkeypatch):
    assert room() == 2
    monkeypatch.setattr(profiles, "compute_threads", lambda: 1)
    assert room() == 1
    assert side_by_side(lambda _: os.getpid(), (0, 1)) == [os.getpid()] * 2
    monkeypatch.setattr(profiles, "compute_threads", lambda: 8)
    monkeypatch.setenv("LABKIT_PROFILE", "small")
    assert room() == 1


def test_one_at_a_time_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1.5e9})())
    assert room() == 1
