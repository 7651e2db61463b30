"""finetune on tiny-base: the same bytes from the same seed, stopped and gone on, every method, every refusal."""

import json
import math
import shutil
import signal
from functools import partial

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from labkit import adapters, checkpoints, evaluation, guards, losses, models, profiles, trainer, training
from labkit.data import read, ticket_examples
from labkit.data.encode import collate, encode, pad_id
from labkit.errors import LabError
from labkit.training import Run, finetune

QUICK = {"steps": 6, "batch_size": 2, "rank": 2, "bf16": False}


@pytest.fixture(scope="module")
def examples():
    return ticket_examples(read(profiles.COURSE / "data/tickets/train.jsonl").select(range(10)), "tone")


@pytest.fixture(scope="module")
def held():
    return ticket_examples(read(profiles.COURSE / "data/tickets/validation.jsonl").select(range(4)), "tone")


@pytest.fixture(scope="module")
def run(examples, tmp_path_factory):
    return finetune(examples, out=tmp_path_factory.mktemp("run") / "with a space é", **QUICK)


def weights(run: Run) -> bytes:
    return (run.folder / "adapter" / "adapter_model.safetensors").read_bytes()


def answers(model, tokenizer, examples):
    return guards.logits_of(model, collate(encode(examples.select(range(3)), tokenizer).to_list(), pad_id(tokenizer)))


# -- what a run is ---------------------------------------------------------------------------------------------------


def loss_of(model, tokenizer, examples) -> float:
    return float(trainer.sparse_loss(model, collate(encode(examples, tokenizer).to_list(), pad_id(tokenizer))))


def test_the_loss_falls_and_the_curve_has_every_step(run, examples):
    assert [point["step"] for point in run.curve] == [1, 2, 3, 4, 5, 6]
    assert all(point["loss"] > 0 for point in run.curve)
    assert loss_of(*run.loaded, examples) < 0.9 * loss_of(*models.load("tiny"), examples)  # on all rows, each once
    assert run.finished and run.seconds > 0


def test_the_counts_are_those_of_the_adapter(run):
    model = adapters.attach_lora(models.load("tiny")[0], 2)
    counts = models.count_parameters(model)
    assert (run.trainable, run.total, run.share) == (counts.trainable, counts.total, counts.share)
    assert 0 < run.share < 0.06


def test_a_run_is_read_back_as_it_was_written(run, examples):
    again = Run.read(run.folder)
    assert again == run
    assert again.settings["rank"] == 2 and again.settings["alpha"] == 4 and again.settings["rows"] == 10
    torch.testing.assert_close(answers(*again.loaded, examples), answers(*run.loaded, examples))


def test_the_folder_holds_the_run_and_the_adapter_and_no_left_overs(run):
    assert sorted(f.relative_to(run.folder).as_posix() for f in run.folder.rglob("*") if f.is_file()) == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "run.json",
    ]


def test_a_folder_without_a_run_and_a_damaged_one_are_refused(run, tmp_path):
    with pytest.raises(LabError, match="no run here; expected a folder that `labkit finetune` wrote"):
        Run.read(tmp_path)
    whole = (run.folder / "run.json").read_text()
    for text in ("", whole[: len(whole) // 2], "[]", "{}", json.dumps(json.loads(whole) | {"colour": 1})):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(LabError, match="run.json is damaged"):
            Run.read(tmp_path)


# -- the same bytes --------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(run, examples, tmp_path):
    torch.manual_seed(123)  # what was drawn before does not matter
    assert weights(finetune(examples, out=tmp_path / "same", **QUICK)) == weights(run)
    assert weights(finetune(examples, out=tmp_path / "other", **QUICK | {"seed": 1})) != weights(run)


class Interrupt(TrainerCallback):
    """Ctrl-C in the middle of a step, `times` times."""

    def __init__(self, step, times=1):
        self.step, self.times = step, times

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    "options",
    [{"dropout": 0.2}, {"method": "pissa"}, {"method": "full", "rank": None},
     {"group_by_length": True, "batch_size": 8}, {"optimizer": "muon"}],
    ids=["dropout", "pissa", "full", "groups", "muon"],
)
def test_a_run_that_was_interrupted_goes_on_from_its_checkpoint_to_the_same_bytes(examples, tmp_path, options):
    options = QUICK | options | {"steps": 7}  # more than an epoch, so that the order of rows is drawn anew in it
    kept = "model/model.safetensors" if options.get("method") == "full" else "adapter/adapter_model.safetensors"
    whole = finetune(examples, out=tmp_path / "whole", **options)
    before = signal.getsignal(signal.SIGINT)
    stopped = finetune(examples, out=tmp_path / "cut", callbacks=[Interrupt(3)], **options)
    assert not stopped.finished and not Run.read(stopped.folder).finished
    assert signal.getsignal(signal.SIGINT) is before
    assert [point["step"] for point in stopped.curve] == [1, 2, 3]
    assert training.last_checkpoint(stopped.folder).name == "checkpoint-3"

    steps = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    gone_on = finetune(examples, out=tmp_path / "cut", resume=True, callbacks=[Count()], **options)
    assert steps == [4, 5, 6, 7] and gone_on.finished
    assert (gone_on.folder / kept).read_bytes() == (whole.folder / kept).read_bytes()
    assert [p["loss"] for p in gone_on.curve] == [p["loss"] for p in whole.curve]
    assert not (gone_on.folder / "checkpoints").exists()


def test_a_second_interrupt_stops_at_once(examples, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        finetune(examples, out=tmp_path, callbacks=[Interrupt(2, times=2)], **QUICK)
    assert signal.getsignal(signal.SIGINT) is before and not (tmp_path / "run.json").exists()


def test_a_run_that_begins_anew_leaves_no_checkpoint_of_another_run_to_resume_from(examples, tmp_path):
    finetune(examples, out=tmp_path, callbacks=[Interrupt(5)], **QUICK)
    finetune(examples, out=tmp_path, callbacks=[Interrupt(2)], **QUICK | {"seed": 1})
    assert [p.name for p in (tmp_path / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path):
    for name in ("checkpoint-2", "checkpoint-10", "checkpoint-20"):
        place = tmp_path / "checkpoints" / name
        place.mkdir(parents=True)
        (place / "trainer_state.json").write_text('{"global_step": 2}')
        if name != "checkpoint-20":
            checkpoints.seal(place, {})
    (tmp_path / "checkpoints" / "checkpoint-10" / "trainer_state.json").write_text('{"global')
    assert training.last_checkpoint(tmp_path).name == "checkpoint-2"
    assert training.last_checkpoint(tmp_path / "nowhere") is None


# -- methods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "rslora", "dora", "pissa"])
def test_every_method_trains_and_is_read_back_as_it_was_trained(examples, tmp_path, method):
    run = finetune(examples, method=method, out=tmp_path, **QUICK | {"steps": 16})
    losses = [point["loss"] for point in run.curve]
    assert all(map(math.isfinite, losses)) and sum(losses[-4:]) < sum(losses[:4])
    seen = {finding.guard for finding in run.findings}
    assert {"reload_agrees", "adapter_moved"} <= seen and ("frozen_stayed" in seen) == (method != "full")
    tuned, base = answers(*Run.read(tmp_path).loaded, examples), answers(*models.load("tiny"), examples)
    assert (tuned - base).abs().max() > 0.05
    assert (run.trainable == run.total) == (method == "full")


def test_only_the_modules_that_are_named_train(examples, tmp_path):
    run = finetune(examples, targets=["q_proj", "v_proj"], out=tmp_path, **QUICK | {"steps": 2})
    assert {name.split(".")[-1] for name in adapters.matrices(run.model)} == {"q_proj", "v_proj"}


# -- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: adapters.attach_lora(model, 4)])
def test_the_loss_over_chosen_logits_is_the_loss_over_all_and_so_are_its_gradients(examples, wrap):
    base, tokenizer = models.load("tiny")
    model = wrap(base)
    batch = collate(encode(examples, tokenizer).to_list(), pad_id(tokenizer))
    whole = model(**batch).loss
    whole.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    ours = trainer.sparse_loss(model, batch)
    ours.backward()
    assert ours.item() == pytest.approx(whole.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-5, rtol=1e-4)


def test_the_loss_is_divided_by_the_tokens_that_count_in_the_whole_step(examples):
    model, tokenizer = models.load("tiny")
    batch = collate(encode(examples, tokenizer).to_list(), pad_id(tokenizer))
    count = int((batch["labels"] != -100).sum())
    mean, half = (trainer.sparse_loss(model, batch, items) for items in (None, 2 * count))
    assert half.item() == pytest.approx(mean.item() / 2, rel=1e-6)


def test_rows_of_like_length_share_a_batch_each_row_once_and_every_epoch_in_another_order():
    tokens = [5 + 7 * n % 101 for n in range(1003)]  # 1003 rows: the last batch is short
    order = trainer.LengthGroups(tokens, 8, seed=3)

    def padded(rows):
        return sum(len(part) * max(tokens[i] for i in part) for part in (rows[i:i + 8] for i in range(0, 1003, 8)))

    rows = list(order)
    assert sorted(rows) == list(range(1003)) and list(order) == rows  # until the epoch is another one
    assert padded(rows) < 1.3 * sum(tokens) < 1.5 * sum(tokens) < padded(range(1003))
    widths = [max(tokens[i] for i in rows[n:n + 8]) for n in range(0, 1000, 8)]
    assert widths != sorted(widths) and widths != sorted(widths, reverse=True)  # long and short ones mixed
    order.set_epoch(1)
    assert sorted(order) == sorted(rows) and list(order) != rows
    assert list(trainer.LengthGroups(tokens, 8, seed=4)) == list(order)  # as the order of single rows: seed + epoch


def test_a_training_takes_them_so_where_it_is_told_and_accumulation_takes_the_same(examples, tmp_path):
    found, grouped = {}, {"group_by_length": True, "batch_size": 8}
    parts = {"batch_size": 4, "arguments": {"gradient_accumulation_steps": 2}}
    for name, how in {"whole": grouped, "in parts": grouped | parts, "as they come": {"batch_size": 8},
                      "few, grouped": {"group_by_length": True}, "few": {}}.items():
        found[name] = finetune(examples, out=tmp_path / name, **QUICK | {"steps": 2} | how)
    assert found["whole"].curve[0]["loss"] == pytest.approx(found["in parts"].curve[0]["loss"], abs=1e-5)
    assert found["whole"].curve[0]["loss"] != pytest.approx(found["as they come"].curve[0]["loss"], abs=1e-3)
    assert found["few, grouped"].curve == found["few"].curve  # batches of two rows are left as they come
    kept = {name: run.settings.get("group_by_length", False) for name, run in found.items()}
    assert kept == {"whole": True, "in parts": True, "as they come": False, "few, grouped": True, "few": False}


def test_bf16_computes_with_fewer_digits_and_answers_from_disk_as_in_memory(run, examples, tmp_path):
    short = finetune(examples, out=tmp_path, **QUICK | {"bf16": True})
    assert weights(short) != weights(run)
    assert short.curve[0]["loss"] == pytest.approx(run.curve[0]["loss"], rel=0.05)
    assert short.settings["bf16"] is True and run.settings["bf16"] is False
    assert "reload_agrees" in {finding.guard for finding in short.findings}


def test_validation_is_looked_at_every_so_many_steps_with_the_same_loss(examples, held, tmp_path):
    run = finetune(examples, held, evaluate_every=3, out=tmp_path, **QUICK)
    assert [point["step"] for point in run.curve if "validation_loss" in point] == [3, 6]
    batch = collate(encode(held, run.tokenizer).to_list(), pad_id(run.tokenizer))
    with torch.no_grad():
        expected = run.model(**batch).loss.item()
    assert run.curve[-1]["validation_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_looking_at_validation_changes_nothing_of_the_training_of_a_quantised_base(examples, held, tmp_path, quantize):
    """bitsandbytes packs 4-bit weights at the first answer on some CPUs, and packed ones pass no gradient back."""
    options = QUICK | {"steps": 4, "quantize": quantize}
    run = finetune(examples, out=tmp_path / "blind", **options)
    looked = finetune(examples, held, evaluate_every=1, out=tmp_path / "looked", **options)
    assert weights(looked) == weights(run)
    assert all("validation_loss" in point for point in looked.curve)
    assert {"frozen_stayed", "reload_agrees", "batch_parity"} <= {finding.guard for finding in looked.findings}


def test_encoded_rows_train_as_their_examples_do(run, examples, tmp_path):
    rows = encode(examples, models.load("tiny")[1]).select_columns(["input_ids", "labels"])
    assert weights(finetune(rows, out=tmp_path, **QUICK)) == weights(run)


def test_the_same_rows_are_encoded_once_and_anew_where_the_tokenizer_says_something_else(examples, monkeypatch):
    made = []
    monkeypatch.setattr(training, "encode", lambda *a: made.append(a) or encode(*a))
    monkeypatch.setattr(training, "_kept_rows", {})
    tokenizer, other = models.load("tiny")[1], models.load("tiny")[1]
    first = training._encoded(examples, tokenizer, 200)
    assert training._encoded(examples, other, 200)["input_ids"] == first["input_ids"]
    assert len(made) == 1
    other.chat_template = other.chat_template.replace("assistant", "helper")
    assert training._encoded(examples, other, 200)["input_ids"] != first["input_ids"]
    with pytest.raises(LabError, match="at most 5"):
        training._encoded(examples, tokenizer, 5)
    for rows in range(1, 8):
        training._encoded(examples.select(range(rows)), tokenizer, 200)
    assert len(training._kept_rows) == training.KEPT


# -- settings --------------------------------------------------------------------------------------------------------


def test_labkit_steps_caps_the_steps_from_outside(examples, tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_STEPS", "2")
    run = finetune(examples, out=tmp_path, **QUICK)
    assert run.settings["steps"] == run.curve[-1]["step"] == 2 and run.finished
    assert training.capped(1) == 1
    for wrong in ("many", "0", "-3", "1.5"):
        monkeypatch.setenv("LABKIT_STEPS", wrong)
        with pytest.raises(LabError, match=f"^LABKIT_STEPS: '{wrong}' is no number of steps"):
            training.capped(5)


def test_labkit_tokens_caps_what_is_written_from_outside(monkeypatch):
    model, tokenizer = models.load("tiny")
    prompt = ["Tell me about the Klaegg headlamp."]
    whole = evaluation.generate(model, tokenizer, prompt, max_new_tokens=24)[0]
    monkeypatch.setenv("LABKIT_TOKENS", "3")
    short = evaluation.generate(model, tokenizer, prompt, max_new_tokens=24)[0]
    assert whole.startswith(short) and short != whole
    assert 1 <= len(tokenizer(short, add_special_tokens=False)["input_ids"]) <= 3


def test_what_is_not_given_comes_from_the_profile_and_where_it_came_from_is_kept(examples, tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_STEPS", "1")
    settings = finetune(examples, out=tmp_path).settings
    tiny = profiles.PROFILES["tiny"]
    assert (settings["rank"], settings["alpha"], settings["batch_size"]) == (tiny.rank, 2 * tiny.rank, tiny.batch_size)
    assert (settings["learning_rate"], settings["max_length"]) == (tiny.learning_rate, tiny.max_length)
    assert (settings["model"], settings["bf16"], settings["steps"]) == ("tiny", profiles.bf16(), 1)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"method": "lorax"}, "method: there is no method 'lorax'; expected full, lora, rslora, dora, pissa"),
        ({"method": "full", "quantize": "nf4"}, "quantize: quantised weights cannot be trained themselves"),
        ({"method": "pissa", "quantize": "nf4"}, "variant: PiSSA splits W by its singular values"),
        ({"rank": 0}, "rank: rank 0; expected a whole number from 1 on"),
        ({"steps": 0}, "steps: 0; expected a whole number from 1 on"),
        ({"batch_size": 0}, "batch_size: 0; expected a whole number from 1 on"),
        ({"targets": ["q_proj", "query"]}, "targets: no linear layer of this model is called query"),
        ({"max_length": 9}, "row 0: prompt and completion have"),
        ({"schedule": "zigzag"}, "schedule: there is no schedule 'zigzag'; expected"),
        ({"model": "./nowhere"}, "there is no such folder"),
        ({"quantize": "int3"}, "quantize: there is no quantisation 'int3'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_a_sentence(examples, tmp_path, options, says):
    with pytest.raises(LabError) as caught:
        finetune(examples, out=tmp_path, **QUICK | options)
    assert says in str(caught.value) and not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda row: row | {"labels": row["labels"][1:]}, "labels; expected one label a token"),
        (lambda row: {name: row[name] * 40 for name in ("input_ids", "labels")}, "tokens; expected at most 256"),
    ],
)
def test_encoded_rows_that_do_not_fit_are_refused_with_their_number(examples, tmp_path, change, says):
    rows = encode(examples, models.load("tiny")[1]).select_columns(["input_ids", "labels"]).to_list()
    rows[2] = change(rows[2])
    with pytest.raises(LabError) as caught:
        finetune(Dataset.from_list(rows), out=tmp_path, **QUICK)
    assert str(caught.value).startswith("row 2: ") and says in str(caught.value)


def test_no_rows_are_refused(examples, tmp_path):
    with pytest.raises(LabError, match="no rows to train on"):
        finetune(examples.select([]), out=tmp_path, **QUICK)


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_trained(examples, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LabError, match=r"file[/\\]run: cannot write here \(.*\)\. Choose another folder with --out"):
        finetune(examples, out=tmp_path / "file" / "run", **QUICK)


# -- what later labs lean on -----------------------------------------------------------------------------------------


def test_a_run_is_taken_again_where_nothing_changed_and_made_anew_where_something_did(examples, tmp_path):
    first = finetune(examples, out=tmp_path, **QUICK)
    made = (tmp_path / "run.json").stat().st_mtime_ns
    again = finetune(examples, out=tmp_path, reuse=True, **QUICK)
    assert (tmp_path / "run.json").stat().st_mtime_ns == made and again.curve == first.curve
    for change in ({"seed": 1}, {"learning_rate": 1e-3}):
        other = finetune(examples, out=tmp_path, reuse=True, **QUICK | change)
        assert (tmp_path / "run.json").stat().st_mtime_ns != made and other.curve != first.curve
    fewer = finetune(examples.select(range(8)), out=tmp_path, reuse=True, **QUICK)
    assert fewer.settings["rows"] == 8


def test_a_run_with_one_loss_is_not_taken_for_a_run_with_another(examples, tmp_path):
    soft, softer = (partial(losses.smoothed, epsilon=epsilon) for epsilon in (0.1, 0.3))
    first = finetune(examples, out=tmp_path, loss=soft, **QUICK)
    made = (tmp_path / "run.json").stat().st_mtime_ns
    finetune(examples, out=tmp_path, loss=soft, reuse=True, **QUICK)
    assert (tmp_path / "run.json").stat().st_mtime_ns == made
    assert finetune(examples, out=tmp_path, loss=softer, reuse=True, **QUICK).curve != first.curve


def test_an_adapter_is_not_put_on_other_weights_than_it_was_trained_on(run, tmp_path):
    facts = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    facts["settings"]["base"] = "0123456789abcdef"
    shutil.copytree(run.folder, tmp_path / "old")
    (tmp_path / "old" / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(LabError, match="another one than this adapter was trained on"):
        Run.read(tmp_path / "old").loaded  # noqa: B018


def test_a_run_remembers_how_its_prompts_are_worded_and_what_may_be_answered(examples):
    many = ticket_examples(read("tickets/train").select(range(60)), "tone")
    found = training.wording(many)
    assert found["template"].startswith("Which tone has this ticket:") and found["template"].endswith("{text}")
    assert found["labels"] == ["anger", "fear", "joy", "neutral", "sadness", "surprise"]
    free = training.wording(ticket_examples(read("tickets/train").select(range(60)), "entities"))
    assert free["labels"] == []


def test_a_model_gets_the_settings_of_the_profile_of_its_size(tmp_path):
    model, tokenizer = models.load("tiny")
    model.save_pretrained(tmp_path / "mine")
    tokenizer.save_pretrained(tmp_path / "mine")
    assert models.suiting(tmp_path / "mine").name == "tiny"
    assert models.suiting("HuggingFaceTB/SmolLM2-135M-Instruct").name == "small"
    assert models.parameters_in(tmp_path / "mine") == models.count_parameters(model).total
    assert models.identity(tmp_path / "mine") == models.identity(tmp_path / "mine") != models.identity("tiny")


def test_a_loaded_model_a_loss_of_ones_own_and_further_columns_go_through_finetune(examples, tmp_path):
    base, tokenizer = models.load("tiny")
    rows = encode(examples, tokenizer)
    rows = rows.add_column("weight", [float(i % 2) for i in range(len(rows))])
    met = []

    def collator(some):
        batch = collate([{key: row[key] for key in ("input_ids", "labels")} for row in some], pad_id(tokenizer))
        return batch | {"weight": torch.tensor([row["weight"] for row in some])}

    def loss(model, batch, items):
        met.append(batch["weight"].tolist())
        return trainer.sparse_loss(model, batch, items) * batch["weight"].mean()

    run = finetune(rows, model=(base, tokenizer), loss=loss, collator=collator, out=tmp_path,
                   arguments={"gradient_accumulation_steps": 2, "logging_steps": 1}, **QUICK)
    assert len(met) > 6 and {value for row in met for value in row} == {0.0, 1.0}
    assert run.settings["base"] == models.identity("tiny") and len(run.curve) == 6


def test_a_tripwire_can_be_left_out_by_name_and_the_others_stay(examples, tmp_path):
    _, tokenizer = models.load("tiny")
    rows = encode(examples, tokenizer).select_columns(["input_ids"])
    rows = rows.add_column("labels", rows["input_ids"][:])  # every token counts: domain adaptation
    with pytest.raises(LabError, match="loss_mask"):
        finetune(rows, out=tmp_path, **QUICK)
    run = finetune(rows, out=tmp_path, skip=["loss_mask"], **QUICK)
    assert {"adapter_moved", "reload_agrees"} <= {finding.guard for finding in run.findings}


def test_a_whole_model_that_did_not_move_is_refused_too(examples, tmp_path):
    with pytest.raises(LabError, match="does nothing"):
        finetune(examples, method="full", learning_rate=1e-30, out=tmp_path, **QUICK)


def test_records_that_are_no_examples_yet_get_a_sentence(tmp_path):
    with pytest.raises(LabError, match="columns"):
        finetune(read("tickets/train").select(range(10)), out=tmp_path, **QUICK)


def test_a_callback_that_ends_the_training_early_leaves_a_finished_run(examples, tmp_path):
    class Enough(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step >= 3

    run = finetune(examples, out=tmp_path, callbacks=[Enough()], **QUICK)
    assert run.finished and len(run.curve) == 3
