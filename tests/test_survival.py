"""A run that is killed at any moment, even while it writes a checkpoint, ends with the weights of one that was not."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from labkit import checkpoints, models
from labkit.profiles import COURSE
from labkit.training import Run

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
    import torch

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
