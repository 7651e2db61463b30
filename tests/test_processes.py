"""One training in several processes: the same rows, the same loss, one writer, and an end with a sentence."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from alone import NEAR, SETTINGS, few_rows, in_one_process, losses

from labkit import cli, launch, processes
from labkit.errors import LabError
from labkit.job import run_job
from labkit.profiles import COURSE
from labkit.training import Run


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return few_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def alone(rows) -> Path:
    return in_one_process(rows)


def command(rows: Path, out: str, *more: str) -> list[str]:
    options = launch.words({"source": rows, "out": rows.with_name(out), **SETTINGS})
    return [sys.executable, "-m", "labkit", "finetune", *options, *more]


def environment() -> dict:
    return {**os.environ, "PYTHONPATH": str(COURSE), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def killed(rows) -> tuple[subprocess.CompletedProcess, Path]:
    """`labkit finetune --processes 2`, of which process 1 is killed once there is a checkpoint."""
    if sys.platform == "win32":
        pytest.skip("on Windows a process that is killed leaves no signal to be named")
    folder = rows.with_name("killed")
    started = subprocess.Popen(command(rows, "killed", "--processes", "2"), cwd=rows.parent, env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 300
        while not list(folder.glob("checkpoints/*/seal.json")):
            assert started.poll() is None and time.monotonic() < end, started.communicate()
            time.sleep(0.05)
        workers = {p.environ().get("RANK"): p for p in psutil.Process(started.pid).children(recursive=True)}
        workers["1"].kill()
        out, err = started.communicate(timeout=120)
    finally:
        started.kill()
    return subprocess.CompletedProcess(started.args, started.returncode, out, err), folder


def test_a_worker_that_dies_ends_the_run_with_a_sentence_that_says_how_to_go_on(killed):
    done, folder = killed
    assert done.returncode == cli.WRONG and "Traceback" not in done.stderr
    assert "process 1 of 2 was ended by SIGKILL, which is what a system does when memory runs out" in done.stderr
    assert f"--out {folder} --resume` goes on from there" in done.stderr
    assert not (folder / "run.json").exists()


def test_what_a_dead_worker_left_goes_on_in_one_process_to_the_loss_of_a_run_that_was_never_stopped(killed, rows,
                                                                                                    alone):
    result = run_job(rows, out=killed[1], resume=True, progress=False)
    assert result.run.finished
    assert losses(killed[1]) == pytest.approx(losses(alone), abs=NEAR)


@pytest.fixture(scope="module")
def two(rows) -> tuple[subprocess.CompletedProcess, Path]:
    """The job under `accelerate launch` with FSDP's file: both processes have half of each weight."""
    if sys.platform == "win32":
        pytest.skip("FSDP is not made for Windows")
    words = ["-m", "accelerate.commands.accelerate_cli", "launch", "--config_file",
             str(COURSE / "data" / "jobs" / "fsdp.yml"), "-m", "labkit"]
    done = subprocess.run([sys.executable, *words, *command(rows, "two")[3:]], cwd=rows.parent, env=environment(),
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done, rows.with_name("two")


def test_two_processes_that_split_the_weights_reach_the_loss_of_one(two, alone):
    assert len(losses(alone)) == SETTINGS["steps"] and Run.read(alone).settings["bf16"] is False
    assert losses(two[1]) == pytest.approx(losses(alone), abs=NEAR)


def test_only_one_process_writes_and_talks(two, alone):
    def files(folder: Path) -> list[str]:
        return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())

    assert files(two[1]) == files(alone)
    assert two[0].stdout.count("Talk to it: labkit chat") == 1


def test_each_of_two_processes_held_half_of_the_weights_and_the_tripwires_saw_the_whole(two, alone):
    split, whole = ({f["guard"]: f["saw"] for f in json.loads((folder / "run.json").read_text())["findings"]}
                    for folder in (two[1], alone))
    assert split.keys() - whole.keys() == {"weights_split"} and whole.keys() <= split.keys()
    assert float(re.search(r"[\d.]+", split["weights_split"]).group()) == pytest.approx(50, abs=1)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_processes_draw_the_batches_of_one_process_cut_into_shares(count, monkeypatch):
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration
    from torch.utils.data import DataLoader

    def batches(rank: int, of: int) -> list[list[int]]:
        monkeypatch.setenv("WORLD_SIZE", str(of))
        monkeypatch.setenv("RANK", str(rank))
        accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True,
                                                                                      data_seed=7))
        loader = DataLoader(list(range(48)), batch_size=9, shuffle=True, collate_fn=list)
        prepared = accelerator.prepare_data_loader(loader)
        if of > 1:
            prepared = accelerate_sharded(prepared, of, rank)
        prepared = processes.shared(prepared)
        drawn = []
        for epoch in range(2):
            prepared.set_epoch(epoch)
            drawn += list(prepared)
        return drawn + resumed(prepared, epoch=1, after=2)

    def resumed(prepared, epoch: int, after: int) -> list[list[int]]:
        """What is drawn after a stop in the middle of a round, as transformers goes about it."""
        from accelerate import skip_first_batches

        prepared.set_epoch(0)
        skipping = skip_first_batches(prepared, after)
        skipping.set_epoch(epoch)
        if hasattr(inner := skipping.batch_sampler.batch_sampler, "set_epoch"):
            inner.set_epoch(epoch)
        return list(skipping)

    def accelerate_sharded(loader, of: int, rank: int):
        """What accelerate's `prepare` does where several processes run."""
        from accelerate.data_loader import prepare_data_loader

        return prepare_data_loader(loader, num_processes=of, process_index=rank, put_on_device=False,
                                   use_seedable_sampler=True, data_seed=7, rng_types=[])

    monkeypatch.setattr(processes, "join", lambda: None)
    want = batches(0, 1)
    assert len(want) == 16 and len(want[5]) == 3  # the last of a round is short
    assert want[12:] == want[8:12] != want[2:6]
    if count > 3:
        with pytest.raises(LabError, match="the last of a round through the rows"):
            monkeypatch.setenv("WORLD_SIZE", str(count))
            processes.refuse_small(9, 48)
    shares = [batches(rank, count) for rank in range(count)]
    assert [sum(parts, []) for parts in zip(*shares, strict=True)] == want


def test_a_batch_is_cut_as_evenly_as_can_be_and_every_row_is_in_one_share():
    for rows in range(20):
        for count in range(1, 6):
            shares = [processes.divide(list(range(rows)), count, rank) for rank in range(count)]
            assert sum(shares, []) == list(range(rows))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_processes_than_cores_or_than_rows_are_refused(rows, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cli.main(["finetune", str(rows), "--processes", "999"]) == cli.WRONG
    assert "999 processes, and this machine has" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(LabError, match="8 processes share a batch of 4"):
        processes.refuse_small(4, 100)


def test_a_number_of_processes_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(LabError, match="WORLD_SIZE: 'many' is no number"):
        processes.count()


def test_a_lost_peer_and_a_sigterm_become_a_sentence_and_other_errors_stay(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(processes.Gone, match="process 0 of 2: another process is gone.*checkpoint-30 is whole"):
        with processes.told(lambda: Path("checkpoint-30")):
            raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection closed by peer")
    with pytest.raises(processes.Gone, match="told to end .SIGTERM.*no whole checkpoint yet"):
        with processes.told(lambda: None):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(5)
    with pytest.raises(RuntimeError, match="the shapes differ"):
        with processes.told(lambda: None):
            raise RuntimeError("the shapes differ")
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_read_out_of_a_failed_run_is_its_sentence_and_torchruns_cause():
    said = """Traceback (most recent call last):
  File "x.py", line 3
labkit.processes.Gone: process 0 of 2: another process is gone.
Root Cause (first observed failure):
[0]:
  time      : 2026-11-28_08:00:00
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 4711)
"""
    assert launch.sentences(said) == ["process 0 of 2: another process is gone.",
                                      "torchrun: process 1 was ended by SIGKILL"]


def test_one_process_on_a_machine_with_two_cards_takes_one_and_not_twice_the_rows(tmp_path):
    from transformers import TrainingArguments

    arguments = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=5, use_cpu=True)
    assert arguments.train_batch_size == 5
    arguments._n_gpu = 2  # what a machine with two cards makes of it
    assert arguments.train_batch_size == 10
    processes.one_card(arguments)
    assert arguments.train_batch_size == 5
