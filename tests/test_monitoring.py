"""What a training shows while it runs: the meter, the picture, the line, TensorBoard's log, the budget of memory."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from labkit import LabError, clinic, finetune, guards, models, monitoring, plots, profiles
from labkit.cli import main
from labkit.data.encode import collate, encode, pad_id
from labkit.livebytes import peak_bytes
from labkit.monitoring import Budget, Meter, board
from labkit.monitoring.live import svg
from labkit.scratch import watching
from labkit.training import Run

FEW = {"steps": 4, "batch_size": 4, "rank": 4, "guard": False}


@pytest.fixture(scope="module")
def rows():
    return encode(clinic.rows_of(16), models.load()[1])


@pytest.fixture(scope="module")
def logged(rows, tmp_path_factory):
    """A run that was watched in all ways, its folder of events, and the batches that it took."""
    folder, taken = tmp_path_factory.mktemp("logged"), []

    def collator(batch):
        taken.append([len(row["input_ids"]) for row in batch])
        return collate(batch, pad_id(models.load()[1]))

    run = finetune(rows, rows.select(range(4)), out=folder, collator=collator, evaluate_every=2,
                   callbacks=[monitoring.tensorboard(folder / "events")], **FEW)
    return run, folder / "events", taken


def test_the_meter_counts_tokens_and_padding_of_the_training_batches_only(logged):
    run, _, taken = logged
    train = [batch for batch in taken if len(batch) == 4][: FEW["steps"]]
    real, places = sum(map(sum, train)), sum(len(batch) * max(batch) for batch in train)
    assert run.meter["padding"] == pytest.approx(1 - real / places, abs=0.15)
    assert run.meter["steps"] == 4 and run.meter["tokens_per_second"] > 0


def test_the_meter_stays_with_the_run_on_disk(logged):
    run = logged[0]
    assert Run.read(run.folder).meter == run.meter


def test_the_meter_sees_how_long_the_loader_lets_the_model_wait(rows, tmp_path):
    def sleepy(batch):
        time.sleep(0.5)
        return collate(batch, pad_id(models.load()[1]))

    run = finetune(rows, out=tmp_path, collator=sleepy, **FEW)
    assert run.meter["waiting"] > 0.25


def test_what_other_callbacks_take_is_no_waiting_for_the_loader(rows, tmp_path):
    class Slow(TrainerCallback):
        def on_step_end(self, *_, **__):
            time.sleep(0.5)

        on_log = on_step_end

    run = finetune(rows, out=tmp_path, callbacks=[Meter(look=False).callback(), Slow()], **FEW)
    assert run.meter["waiting"] < 0.5  # without Slow a few per cent; it sleeps twice a step, ten times what that takes


def test_the_longest_step_grows_with_the_rate_and_is_named_outside_of_its_band(rows, tmp_path):
    moves, said = [], []
    for rate in (1e-6, 2e-3):
        run = finetune(rows, out=tmp_path, learning_rate=rate, **FEW | {"guard": True})
        moves.append(run.meter["move"])
        said.append(next(found.saw for found in run.findings if found.guard == "step_size"))
    assert moves[1] == pytest.approx(2000 * moves[0], rel=0.3)
    assert "next to nothing" in said[0] and said[1].endswith("of their size")
    assert "too high" in guards.step_size(0.5, False).saw and "too high" in guards.step_size(0.2, True).saw


def test_a_meter_that_does_not_look_keeps_the_time_alone(rows, tmp_path):
    run = finetune(rows, out=tmp_path, callbacks=[Meter(look=False).callback()], **FEW)
    assert run.meter["seconds_a_step"] > 0 and run.meter["padding"] == 0 and "move" not in run.meter


def test_the_clock_of_a_step_waits_for_a_gpu_and_does_not_call_that_watching(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: time.sleep(0.2))  # the GPU works on for so long
    meter = Meter(look=False)
    callback, state = meter.callback(), SimpleNamespace(global_step=0, max_steps=1)
    callback.on_train_begin(None, state, None, model=None)
    callback.on_step_begin(None, state, None)
    callback.on_step_end(None, state, None)
    assert meter.work[0] >= 0.2 and meter.spent < 0.1


def test_looking_takes_at_most_three_per_cent_of_the_time(logged):
    assert logged[0].meter["watching"] <= 0.03


def test_the_standard_callback_logs_what_the_run_keeps(logged):
    run, folder, _ = logged
    found = {point["step"]: point for point in board.curve(folder)}
    for point in run.curve:
        for name, value in point.items():
            assert found[point["step"]][name] == pytest.approx(value, rel=1e-5), name


def test_a_folder_without_events_is_told(tmp_path):
    with pytest.raises(LabError, match="no TensorBoard log here"):
        board.scalars(tmp_path)


def test_the_line_in_a_terminal_tells_loss_speed_machine_and_step(rows, tmp_path):
    file = io.StringIO()
    finetune(rows, out=tmp_path, callbacks=[monitoring.terminal_line(file=file)], **FEW)
    last = file.getvalue().split("\r")[-1]
    assert "4/4" in last and "tokens/s" in last and "GB" in last and "loss" in last


POINTS = [{"step": 1, "loss": 2.0, "learning_rate": 0.0, "grad_norm": 3.0, "tokens_per_second": 90.0},
          {"step": 2, "loss": 1.0, "validation_loss": 1.5, "learning_rate": 1e-3, "grad_norm": 1.0},
          {"step": 3, "loss": 0.5, "validation_loss": 1.7, "learning_rate": 5e-4, "grad_norm": 2.0}]


def test_the_live_picture_is_a_drawing_with_a_line_a_curve_and_words_for_who_cannot_see_it():
    drawing = ET.fromstring(svg(POINTS, "step 3 of 9").split("<div>")[0])
    assert len(drawing.findall(".//polyline")) == 5 and drawing.get("aria-label") == "training: step 3 of 9"
    assert ET.fromstring(svg([], "").split("<div>")[0]).findall(".//polyline") == []


def test_drawing_a_frame_takes_milliseconds():
    many = [point | {"step": i} for i, point in enumerate(POINTS * 300)]
    started = time.perf_counter()
    for _ in range(5):
        svg(many, "words")
    assert (time.perf_counter() - started) / 5 < 0.2


def test_the_still_picture_says_in_its_title_where_validation_is_lowest():
    figure, said = monitoring.still(POINTS)
    assert said == "The training loss goes from 2.00 to 0.50 nats; validation is lowest at step 2, 1.50"
    assert len(figure.axes) == 3 and plots.png(figure)[:4] == b"\x89PNG"


def test_the_command_says_what_ails_a_run_and_ends_with_code_1_where_something_does(logged, capsys, tmp_path):
    facts = json.loads((logged[0].folder / "run.json").read_text(encoding="utf-8"))

    def diagnosed(waiting: float) -> int:  # what was measured depends on what else the machine does
        facts["meter"] |= {"waiting": waiting, "padding": 0.1}
        (tmp_path / "run.json").write_text(json.dumps(facts), encoding="utf-8")
        return main(["diagnose", str(tmp_path)])

    assert diagnosed(0.05) == 0 and capsys.readouterr().out.startswith("healthy")
    assert diagnosed(0.9) == 1
    assert "90% of the time the model waited" in capsys.readouterr().out


def test_a_training_that_wants_more_than_the_budget_is_stopped_and_told(rows, tmp_path):
    with pytest.raises(guards.Tripped, match="does not fit into memory.*the budget is 12.0 MB") as caught:
        with Budget(12e6) as budget:
            finetune(rows, out=tmp_path, callbacks=[budget.callback()], **FEW)
    assert caught.value.settings["rank"] == 4 and "watching" in caught.value.meter
    assert torch._C._len_torch_dispatch_stack() == 0  # nothing goes on counting


def test_a_training_within_the_budget_runs_and_its_peak_is_near_the_prediction(tmp_path):
    how = {"batch_size": 2, "accumulation": 2, "checkpointing": True}
    with Budget(2 * clinic.wants(**how)) as budget:
        clinic.cramped(budget, out=tmp_path, **how)
    assert 0.7 * clinic.wants(**how) < budget.peak < 1.15 * clinic.wants(**how)
    with pytest.raises(LabError, match="expected a number from 1 on"):
        Budget(0)


def test_a_budget_is_counted_on_a_machine_with_a_gpu_too(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(torch.OutOfMemoryError, match="the budget is 1.0 MB"), peak_bytes(limit=1_000_000):
        torch.zeros(1_000_000)


@pytest.mark.parametrize("profile", ["tiny", "small", "full"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_neither_remedy_fits_the_budget_alone_and_both_together_do(monkeypatch, profile, device):
    monkeypatch.setattr(profiles, "_chosen", profile)
    monkeypatch.setattr(profiles, "device", lambda: device)
    mend = clinic.mended("memory")
    alone = ({}, {"checkpointing": True}, {"batch_size": 4, "accumulation": 4})
    assert all(clinic.wants(**how) > clinic.budget() for how in alone)
    assert clinic.wants(**mend) < clinic.budget() < clinic.wants(**mend | {"batch_size": 8, "accumulation": 2})


def test_an_error_that_stops_a_training_brings_its_curve(rows, tmp_path):
    with pytest.raises(guards.Tripped) as caught:
        finetune(rows, out=tmp_path, learning_rate=1e30, **FEW)
    assert [point["step"] for point in caught.value.curve] and caught.value.settings["learning_rate"] == 1e30


def test_other_tokens_in_the_runtime_are_refused_at_the_first_that_differs():
    tokenizer = models.load()[1]
    ours = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    assert guards.same_tokens(["a b", "12"], tokenizer, ours).guard == "same_tokens"
    with pytest.raises(guards.Tripped, match="text 1: the tokenizers part at token 0"):
        guards.same_tokens(["a b", "12"], tokenizer, lambda text: ours(text.replace("1", "7")))


def test_a_row_written_by_hand_is_the_row_of_the_library():
    few = clinic.rows_of(8)
    ours, theirs = clinic.rows_by(watching.to_row, few), encode(few, models.load()[1])
    assert ours["input_ids"][:] == theirs["input_ids"][:] and ours["labels"][:] == theirs["labels"][:]


REST = """
from IPython.core.interactiveshell import InteractiveShell
from labkit.monitoring import say_of_the_rest
shell = InteractiveShell.instance(colors="NoColor")
say = "say_of_the_rest('It needs the whole run.'); "
for cell in (say + "[][1]", say, "[][2]"):
    shell.run_cell("from labkit.monitoring import say_of_the_rest; " + cell)
    print("-- next")
"""


def test_the_rest_of_a_cell_fails_in_a_sentence_and_the_next_cell_as_ever():
    done = subprocess.run([sys.executable, "-c", REST], capture_output=True, text=True, check=True)
    first, second, third = done.stdout.split("-- next")[:3]
    assert first.strip() == "It needs the whole run. IndexError: list index out of range"
    assert not second.strip() and "Traceback" in third and "whole run" not in third
