"""The laws of a step and the bill: against numbers worked out by hand, and against what this machine does."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from labkit import cli, models, scaling
from labkit.errors import LabError
from labkit.profiles import COURSE
from labkit.scratch import parallel

JOBS = COURSE / "data" / "jobs"


def test_a_plan_is_the_formula_of_the_page():
    plan = scaling.plan(12e6, 1.5e9, "A100", price=2.5, gpus=4, utilisation=0.3)
    assert plan.flops == 4 * 1.5e9 * 12e6
    assert plan.seconds == pytest.approx(plan.flops / (4 * 0.3 * 312e12))
    assert plan.money == pytest.approx(plan.seconds / 3600 * 4 * 2.5)
    by_hand = parallel.training_cost(1.5e9, 12e6, 4, 312e12, 0.3, 4, 2.5)
    assert by_hand == pytest.approx((plan.seconds / 3600, plan.money))


def test_a_frozen_base_saves_a_third_of_the_flops_and_more_gpus_save_no_money():
    full, lora = (scaling.plan(1e9, 1e9, 1e14, price=1, method=m) for m in ("full", "lora"))
    assert lora.flops / full.flops == pytest.approx(2 / 3)
    assert scaling.plan(1e9, 1e9, 1e14, price=1, gpus=8).money == pytest.approx(lora.money)


@pytest.mark.parametrize("change, says", [
    ({"gpu": "abacus"}, "no GPU 'abacus' in the list"), ({"method": "prayer"}, "no method 'prayer'"),
    ({"tokens": 0}, "tokens: 0"), ({"utilisation": 30}, "utilisation: 30"), ({"price": -1}, "price: -1"),
    ({"gpus": 0}, "gpus: 0")])
def test_a_plan_that_cannot_be_is_refused_by_name(change, says):
    with pytest.raises(LabError, match=says):
        scaling.plan(**{"tokens": 1e6, "parameters": 1e9, "gpu": "T4", "price": 1.0, **change})


def test_the_ring_of_the_page_and_of_the_exercise_agree_and_one_process_sends_nothing():
    assert scaling.all_reduce_bytes(4e6, 1) == 0
    assert scaling.step_seconds(1.0, 4, 4e6, 1e9) == pytest.approx(0.25 + parallel.ring_seconds(1_000_000, 4, 4, 1e9))


def test_each_stage_splits_more_and_activations_are_never_split():
    needs = models.memory("Qwen/Qwen2.5-7B-Instruct", "full", batch=1, length=512, dtype="bfloat16", device="cuda")
    held = [scaling.sharded(needs, 8, stage) for stage in range(4)]
    assert held[0] == needs.peak and held == sorted(held, reverse=True) and len(set(held)) == 4
    split = needs.weights + needs.gradients + needs.optimizer
    alone = max(needs.activations + needs.logits, needs.gradients / 8)
    assert held[3] == pytest.approx(split / 8 + alone, abs=8)
    assert scaling.sharded(needs, 1000, 3) > needs.activations + needs.logits
    assert scaling.sharded(needs, 1, 3) == needs.peak
    with pytest.raises(LabError, match="no stage 4"):
        scaling.sharded(needs, 2, 4)


def test_workers_shorten_a_step_that_waits_for_rows_until_the_model_is_what_it_waits_for():
    none, one, four = scaling.loading(workers=(0, 1, 4), row=0.005, compute=0.02, batch=8, steps=5)
    assert none["law"] == pytest.approx(0.06) and one["law"] == pytest.approx(0.04) and four["law"] == 0.02
    assert none["measured"] >= none["law"] and four["measured"] < none["measured"]
    assert [row["waits for"] for row in (none, one, four)] == ["rows", "rows", "the model"]


def test_the_roofline_rises_with_the_bandwidth_and_ends_at_the_peak():
    roof = scaling.Roof("float32", 1024, 4, ((1, 1e9), (16, 14e9), (64, 20e9)))
    assert roof.law(1) == pytest.approx(1e9) and roof.law(64) == 20e9
    assert roof.law(4) == pytest.approx(4 * 1e9, rel=0.02)  # the matrix is read once for all four
    assert roof.intensity(64) < 64 / 2


def test_many_tokens_at_once_are_faster_for_each_than_one():
    roof = scaling.roof(rows=(1, 64))
    assert roof.points[1][1] > roof.points[0][1] > 0


def command_of(file: str) -> list[str]:
    """The words behind `labkit` in a job file."""
    text = (JOBS / file).read_text(encoding="utf-8").replace("\\\n", " ")
    line = next(line for line in text.splitlines() if "-m labkit" in line and not line.startswith("#"))
    found = re.sub(r"\$\{\{[\w.]+\}\}", "X", line.partition("-m labkit")[2]).partition("\"$@\"")[0]
    return shlex.split(found)


@pytest.mark.parametrize("file", ["slurm.sh", "ray.sh", "azure_ml.yml"])
def test_a_job_file_calls_a_command_that_labkit_knows(file):
    arguments = cli._parser().parse_args(command_of(file))
    assert arguments.run is cli._finetune and arguments.out


@pytest.mark.skipif(sys.platform == "win32", reason="they are for Linux, and what is called bash here may be WSL")
@pytest.mark.parametrize("file", ["slurm.sh", "ray.sh"])
def test_job_scripts_are_well_formed(file):
    subprocess.run(["bash", "-n", str(JOBS / file)], check=True)


def test_job_files_are_well_formed():
    for file in JOBS.glob("*.yml"):
        assert yaml.safe_load(file.read_text(encoding="utf-8"))
    stages = [json.loads((JOBS / f"zero{n}.json").read_text(encoding="utf-8"))["zero_optimization"]["stage"]
              for n in (2, 3)]
    assert stages == [2, 3]


def test_accelerate_reads_both_of_its_files():
    from accelerate.commands.config.config_args import ClusterConfig

    kinds = {name: ClusterConfig.from_yaml_file(JOBS / f"{name}.yml").distributed_type for name in ("ddp", "fsdp")}
    assert {name: str(kind).rpartition(".")[2] for name, kind in kinds.items()} == {"ddp": "MULTI_GPU", "fsdp": "FSDP"}
