"""The same jobs on a Ray cluster: two nodes of one core each, as `ray start` would make them on two machines."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from alone import NEAR, SETTINGS, few_rows, in_one_process, losses

from labkit import cli, cluster, launch, search
from labkit.errors import LabError
from labkit.job import run_job
from labkit.search.job import run_search

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Ray makes clusters of several nodes on Linux alone")


@pytest.fixture(scope="module", autouse=True)
def two_nodes():
    ray = cluster.import_ray()
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    return few_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def alone(rows) -> Path:
    return in_one_process(rows)


def words(rows: Path, out: str, *more: str, **options) -> list[str]:
    return ["finetune", *launch.words({"source": rows, "out": rows.with_name(out), **SETTINGS, **options}),
            "--processes", "2", "--ray", *more]


def test_a_training_over_two_nodes_has_the_loss_of_one_process_and_one_voice(rows, alone, capsys):
    ctrl_c = signal.getsignal(signal.SIGINT)
    assert cli.main(words(rows, "two")) == cli.OK
    assert signal.getsignal(signal.SIGINT) is ctrl_c  # Ray Train would leave its own
    out, err = capsys.readouterr()
    assert losses(rows.with_name("two")) == pytest.approx(losses(alone), abs=NEAR)
    assert out.count("Talk to it: labkit chat") == 1 and out.count("answers by") == 1
    assert err.count("the tuned model answers") == 1 and "Disassembly" not in out + err


def test_a_process_that_is_killed_ends_the_run_with_a_sentence_and_one_process_goes_on(rows):
    folder = rows.with_name("killed")

    def job(**options):  # inside, so that it travels to the nodes by value; on Windows this module is skipped
        import os
        import signal
        import threading
        import time
        from pathlib import Path

        from labkit import processes
        from labkit.job import run_job

        def kill() -> None:
            while not list(Path(options["out"]).glob("checkpoints/*/seal.json")):
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)

        if processes.rank() == 1:
            threading.Thread(target=kill, daemon=True).start()
        return run_job(**options)

    with pytest.raises(LabError, match="process 1 of 2 is gone") as caught:
        cluster.train(job, {"source": rows, "out": folder, **SETTINGS, "steps": 100}, 2, print)
    assert "resume" in str(caught.value)
    assert not (folder / "run.json").exists()
    assert run_job(rows, out=folder, resume=True, progress=False).run.finished


def test_what_a_job_says_is_told_as_it_is_and_before_what_it_made_the_others_say():
    gone = "process 0 of 2: another process is gone, or did not answer for 600 s. Begin anew."
    assert str(cluster._ended(Exception("x"), {0: gone, 1: "rows.csv: is empty."}, 2)) == "rows.csv: is empty."
    assert str(cluster._ended(Exception("Traceback\nno room"), {}, 2)) == "no room."


def test_more_processes_than_the_cluster_has_cores_are_refused_at_once(rows, capsys):
    assert cli.main([*words(rows, "many"), "--processes", "3"]) == cli.WRONG
    assert "3 processes, and the cluster has 2 CPUs" in capsys.readouterr().err


def test_the_workers_of_a_search_share_a_study_and_no_trial_is_lost_or_done_twice(rows, capsys):
    space, study = rows.with_name("space.yml"), rows.with_name("study.log")
    space.write_text("search_space:\n  learning_rate: {type: float, low: 1e-4, high: 1e-2, log: true}\n"
                     "search_strategy: {type: random, num_trials: 3, pruning: none}\n")
    options = {"source": rows, "model": "tiny", "space": space, "study": str(study)}
    with cluster.beside(run_search, options, 1):  # the caller leaves it all to the worker on the cluster
        pass
    there = search.trials_in(str(study))
    assert len(there) == 3 and os.getpid() not in {t.worker for t in there}
    assert cli.main(["search", *launch.words(options), "--trials", "5", "--workers", "2", "--ray"]) == cli.OK
    trials = search.trials_in(str(study))
    assert sorted(t.number for t in trials) == list(range(5)) and {t.state for t in trials} == {"done"}
    assert os.getpid() in {t.worker for t in trials}


def test_a_worker_that_fails_on_the_cluster_is_told():
    options = {"source": "no_such.csv", "space": "space.yml"}
    with pytest.raises(LabError, match="a worker failed: space.yml: there is no such file"):
        with cluster.beside(run_search, options, 1):
            pass
