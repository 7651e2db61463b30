"""A run that is killed at any moment, even while it writes a checkpoint, ends with the weights of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from labkit import checkpoints, guards, models
from labkit.errors import LabError
from labkit.profiles import COURSE
from labkit.training import Run, finetune

KILLS = 20
STEPS = 4
JOB = {"method": "full", "steps": STEPS, "batch_size": 2, "bf16": False, "learning_rate": 1e-2, "guard": False,
       "arguments": {"save_steps": 1}}

# One interpreter imports everything once, then forks a child for each run: each child does the whole of finetune.
SERVER = """
import json, os, signal, sys, time
import torch
torch.set_num_threads(1)
from datasets import Dataset
from labkit import training
import labkit.trainer, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, EarlyStoppingCallback, Trainer, TrainingArguments

def child(job):
    started = os.fork()
    if not started:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            rows = Dataset.from_list(job["rows"])
            held = Dataset.from_list(job["held"]) if job["held"] else None
            training.finetune(rows, held, model=job["model"], out=job["out"], resume=job["resume"], **job["options"])
            code = 0
        finally:
            os._exit(code)
    return started

def written(out):
    try:
        return sum(len(files) for _, _, files in os.walk(out))
    except OSError:
        return 0

for line in sys.stdin:
    job = json.loads(line)
    began, pid = time.monotonic(), child(job)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        late = job["seconds"] is not None and time.monotonic() - began > job["seconds"]
        if late or (job["files"] is not None and written(job["out"]) >= job["files"]):
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            break
        time.sleep(0.0002 if job["files"] is not None else 0.002)
    print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - began]), flush=True)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A Llama of one layer with random weights, and the tokenizer of tiny-base."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(vocab_size=2048, tie_word_embeddings=True, **size)).save_pretrained(folder)
    models.load("tiny")[1].save_pretrained(folder)
    return folder


def rows(count: int, seed: int) -> list[dict]:
    """Encoded rows: the first four tokens are the prompt."""
    draw = random.Random(seed)
    ids = [[draw.randrange(4, 2000) for _ in range(8)] for _ in range(count)]
    return [{"input_ids": row, "labels": [-100] * 4 + row[4:]} for row in ids]


class Runner:
    """Runs finetune in children of one forking server, and kills them where it is told to."""

    def __init__(self, model: Path):
        environment = {**os.environ, "PYTHONPATH": str(COURSE), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
                       "TOKENIZERS_PARALLELISM": "false"}
        self.model = model
        self.server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, text=True, env=environment)

    def __call__(self, out: Path, resume=False, seconds=None, files=None, held=(), **options) -> tuple[int, float]:
        job = {"rows": rows(7, 0), "held": list(held), "model": str(self.model), "out": str(out), "resume": resume,
               "options": JOB | options, "seconds": seconds, "files": files}
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        assert answer, self.server.stderr.read()
        return json.loads(answer)


@pytest.fixture(scope="module")
def run(model):
    if not hasattr(os, "fork"):
        pytest.skip("Windows has no fork, and a new process for each of these runs would take minutes")
    runner = Runner(model)
    yield runner
    runner.server.stdin.close()
    runner.server.wait(timeout=30)


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory) -> tuple[Path, float]:
    """A run that was never killed, and how many seconds it took."""
    out = tmp_path_factory.mktemp("whole")
    code, seconds = run(out)
    assert code == 0
    return out, seconds


def test_a_run_killed_at_twenty_random_moments_ends_with_the_same_bytes(run, whole, tmp_path):
    """Half the kills come after a random time, half once a random number of files lies there: amid a checkpoint."""
    draw = random.Random(7)
    unfinished = killed = 0
    for i in range(KILLS):
        out = tmp_path / str(i)
        point = {"seconds": draw.uniform(0, whole[1])} if i % 2 else {"files": draw.randrange(1, 15)}
        code, _ = run(out, **point)
        killed += code == -9
        unfinished += any(not (place / checkpoints.SEAL).exists() for place in out.glob("checkpoints/checkpoint-*"))
        code, _ = run(out, resume=True)
        assert code == 0 and Run.read(out).finished, point
        assert weights(out) == weights(whole[0]), point
        assert not (out / "checkpoints").exists()
    assert killed >= KILLS / 2 and unfinished >= 3, (killed, unfinished)


def test_early_stopping_that_is_killed_stops_at_the_same_step_with_the_same_best_weights(run, tmp_path):
    options = {"held": rows(5, 1), "evaluate_every": 1, "patience": 2, "steps": 12}
    code, seconds = run(tmp_path / "whole", **options)
    whole = Run.read(tmp_path / "whole")
    assert code == 0 and whole.curve[-1]["step"] < 12
    for i, share in enumerate((0.6, 0.9)):
        out = tmp_path / str(i)
        run(out, seconds=share * seconds, **options)
        assert run(out, resume=True, **options)[0] == 0
        assert weights(out) == weights(tmp_path / "whole")
        assert Run.read(out).curve[-1]["step"] == whole.curve[-1]["step"]


@pytest.mark.parametrize("options", [{"steps": 6}, {"steps": 12, "evaluate_every": 1, "patience": 2}],
                         ids=["all its steps", "early stopping"])
def test_a_run_that_ends_after_its_last_checkpoint_takes_no_step_more(model, tmp_path, options):
    """In the middle of an epoch of four steps the Trainer takes one more before it looks whether it is done."""
    class Breaks(TrainerCallback):
        def on_train_end(self, *_, **__):
            raise OSError("the power fails")

    def trained(out: str, **more) -> Run:
        return finetune(Dataset.from_list(rows(7, 0)), Dataset.from_list(rows(5, 1)), model=model, out=tmp_path / out,
                        **JOB | options, **more)

    whole = trained("whole")
    with pytest.raises(OSError, match="the power fails"):
        trained("broken", callbacks=[Breaks()])
    again = trained("broken", resume=True)
    assert whole.curve[-1]["step"] % 4 and again.curve[-1]["step"] == whole.curve[-1]["step"]
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")


# -- in this process: damage, other settings, a full disk, numbers that are none ---------------------------------------


class Stop(TrainerCallback):
    """Ctrl-C in the step after `step`."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def train(model, tmp_path):
    def train(**options) -> Run:
        return finetune(Dataset.from_list(rows(7, 0)), model=model, out=tmp_path, **JOB | options)

    return train


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)


@pytest.mark.parametrize(
    "name, harm, says",
    [
        ("optimizer.pt", cut_short, "optimizer.pt has"),
        ("model.safetensors", flip, "model.safetensors is not what was written"),
        ("scheduler.pt", Path.unlink, "scheduler.pt is missing"),
        (checkpoints.SEAL, cut_short, "seal.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_set_aside_and_named_and_the_one_before_it_is_used(
    train, whole, tmp_path, name, harm, says
):
    train(callbacks=[Stop(2)])
    assert checkpoints.last(tmp_path).name == "checkpoint-3"
    harm(tmp_path / "checkpoints" / "checkpoint-3" / name)
    assert checkpoints.last(tmp_path).name == "checkpoint-2"
    steps = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)
            assert (tmp_path / "checkpoints" / "damaged-checkpoint-3").is_dir()

    gone_on = train(resume=True, callbacks=[Look()])
    assert steps == [3, 4] and weights(gone_on.folder) == weights(whole[0])
    [saw] = [finding.saw for finding in gone_on.findings if finding.guard == "whole_checkpoint"]
    assert "checkpoint-3 is damaged" in saw and says in saw and "set aside as damaged-checkpoint-3" in saw


def test_a_checkpoint_of_a_run_with_other_settings_is_refused_with_the_setting(train):
    train(callbacks=[Stop(1)])
    with pytest.raises(LabError, match="learning_rate is 0.02 now, and was 0.01 when the training began"):
        train(resume=True, learning_rate=0.02)
    assert train(resume=True, arguments={"save_steps": 2}).finished  # when to save is no matter


def test_to_resume_a_finished_run_is_to_take_it(train, tmp_path):
    first = train()
    made = (tmp_path / "run.json").stat().st_mtime_ns
    assert train(resume=True).curve == first.curve and (tmp_path / "run.json").stat().st_mtime_ns == made


def test_a_full_disk_keeps_the_last_good_checkpoint_and_the_run_goes_on_from_it(train, whole, tmp_path):
    resource = pytest.importorskip("resource")  # there is none on Windows
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Fill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))

    try:
        with pytest.raises(LabError, match="the disk became full.*resume goes on from checkpoint-2"):
            train(callbacks=[Fill()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoints.last(tmp_path).name == "checkpoint-2"
    assert weights(train(resume=True).folder) == weights(whole[0])


def test_weights_that_are_no_numbers_are_never_kept_as_a_checkpoint(train, tmp_path):
    with pytest.raises(guards.Tripped, match=r"step \d: the .* a learning rate.*Try a learning rate"):
        train(learning_rate=1e30, steps=6)
    for place in tmp_path.glob("checkpoints/checkpoint-*"):
        kept = load_file(place / "model.safetensors")
        assert checkpoints.damage(place) is not None or all(w.isfinite().all() for w in kept.values())


def test_weights_that_are_no_numbers_are_refused_by_name(model):
    tuned = LlamaForCausalLM.from_pretrained(model)
    guards.finite_weights(tuned, 7, 0.1, 0.2)
    tuned.model.norm.weight.data[3] = float("inf")
    with pytest.raises(guards.Tripped, match=r"step 7: the weights of model.norm.weight are no numbers any more, after "
                       r"a learning rate of 0.1 \(its peak is 0.2\)"):
        guards.finite_weights(tuned, 7, 0.1, 0.2)


def test_a_loss_that_explodes_stops_the_run_with_step_rate_and_what_to_try(train):
    with pytest.raises(guards.Tripped) as caught:
        train(learning_rate=3e2, steps=12)
    said = str(caught.value)
    assert caught.value.guard == "no_explosion" and "(its peak is 3e+02)" in said, said
    assert "guessing blindly among 2,048 tokens costs 7.62" in said and "Try a learning rate of 3e+01" in said


def test_a_loss_that_is_high_from_the_start_or_rises_a_little_is_no_explosion():
    guards.no_explosion(1, 11.0, float("inf"), 1e-3, 1e-3, 2048)
    guards.no_explosion(9, 1.5, 0.1, 1e-3, 1e-3, 2048)
    guards.no_explosion(9, 90.0, 80.0, 1e-3, 1e-3, 2048)
    guards.no_explosion(9, 90.0, 0.1, 1e-3, 1e-3, None)
    with pytest.raises(guards.Tripped, match="step 9: the loss is 90, after 0.1 before"):
        guards.no_explosion(9, 90.0, 0.1, 1e-3, 1e-3, 2048)
