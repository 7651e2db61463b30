"""Two machines for real: one training over two network namespaces, whole and with the wire cut in mid-run.

    sudo .venv/bin/python tests/two_machines.py

Each namespace has an address of its own and one process of the training; a pair of virtual network cards is the wire
between them. What was seen goes to data/measured/two_machines.json, which lab 12 shows. Needs Linux, root, and `ip`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

COURSE = Path(__file__).resolve().parent.parent
RECORD = COURSE / "data" / "measured" / "two_machines.json"
MACHINES = {"labkit-a": "10.77.0.1", "labkit-b": "10.77.0.2"}
PATIENCE = 15  # seconds after which a silent machine counts as gone
LIMIT = 400  # seconds after which a run counts as hung
SCRIPT = """
import sys
from labkit import data, finetune
rows = data.ticket_task("tone").train.select(range(192))
finetune(rows, model="tiny", steps=int(sys.argv[2]), batch_size=8, bf16=False, out=sys.argv[1],
         resume="go-on" in sys.argv, arguments={"logging_steps": 1, "save_steps": 3})
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def two_machines() -> Iterator[None]:
    """Two namespaces with a wire between them; both are gone afterwards."""
    for name in MACHINES:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    try:
        ip("link", "add", "labkit-wa", "type", "veth", "peer", "name", "labkit-wb")
        for name, address in MACHINES.items():
            wire = f"labkit-w{name[-1]}"
            ip("netns", "add", name)
            ip("link", "set", wire, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", wire)
            for card in (wire, "lo"):
                ip("-n", name, "link", "set", card, "up")
        yield
    finally:
        for name in MACHINES:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def start(work: Path, name: str, out: str, steps: int, *more: str) -> subprocess.Popen:
    """One machine's part of the job, by torchrun."""
    host, first = next(iter(MACHINES.values())), name == next(iter(MACHINES))
    words = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
             "--nproc-per-node", "1", "--rdzv-id", out, "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{host}:29500",
             "--rdzv-conf", f"is_host={int(first)}", "--local-addr", MACHINES[name], "train.py", out, str(steps), *more]
    settings = {"GLOO_SOCKET_IFNAME": f"labkit-w{name[-1]}", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(COURSE),
                "LABKIT_PEER_TIMEOUT": str(PATIENCE), "HF_HUB_OFFLINE": "1"}
    log = (work / f"{out}-{name}.log").open("w")
    return subprocess.Popen(words, cwd=work, env={**os.environ, **settings}, stdout=log, stderr=log,
                            start_new_session=True)


def finish(machines: dict[str, subprocess.Popen]) -> dict[str, int]:
    """Exit codes, once all have ended; what hangs is killed and said."""
    end = time.monotonic() + LIMIT
    try:
        return {name: machine.wait(max(1, end - time.monotonic())) for name, machine in machines.items()}
    finally:
        for machine in machines.values():
            if machine.poll() is None:
                os.killpg(machine.pid, 9)


def curve(folder: Path) -> list[float]:
    return [point["loss"] for point in json.loads((folder / "run.json").read_text())["curve"]]


def sentence(log: Path) -> str:
    """What labkit said when it gave up; nothing where it has not."""
    lines = [line.partition("Gone: ")[2] for line in log.read_text().splitlines() if "Gone: " in line]
    return lines[-1] if lines else ""


def until(ready: Callable[[], bool]) -> float:
    """The moment at which it was so."""
    end = time.monotonic() + LIMIT
    while not ready():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)
    return time.monotonic()


def main() -> int:
    if os.geteuid() or not shutil.which("ip"):
        print("This needs root and the command `ip` (package iproute2), to make two network namespaces.",
              file=sys.stderr)
        return 2
    work = Path(tempfile.mkdtemp(prefix="two-machines-"))
    (work / "train.py").write_text(SCRIPT)
    steps, seen = 6, {}
    with two_machines():
        codes = finish({name: start(work, name, "whole", steps) for name in MACHINES})
        assert set(codes.values()) == {0}, f"{codes}: see {work}"
    alone = [sys.executable, "train.py", "alone", str(steps)]
    subprocess.run(alone, cwd=work, check=True, env={**os.environ, "PYTHONPATH": str(COURSE)}, capture_output=True)
    gap = max(abs(a - b) for a, b in zip(curve(work / "whole"), curve(work / "alone"), strict=True))
    assert gap < 1e-4, gap
    seen["two machines against one process, largest difference of the loss"] = f"{gap:.0e} nats over {steps} steps"

    many = 300  # more than there is time for: it is cut off long before
    with two_machines():
        machines = {name: start(work, name, "cut", many) for name in MACHINES}
        checkpoint = work / "cut" / "checkpoints" / "checkpoint-3" / "seal.json"
        logs = {name: work / f"cut-{name}.log" for name in MACHINES}
        try:
            until(checkpoint.is_file)
            cut = time.monotonic()
            ip("-n", "labkit-b", "link", "set", "labkit-wb", "down")
            said = until(lambda: all(sentence(log) for log in logs.values())) - cut
            until(lambda: any(machine.poll() is not None for machine in machines.values()))
            codes = {name: machine.poll() for name, machine in machines.items()}
        finally:
            for machine in machines.values():  # the launcher that lost the rendezvous goes on asking for it
                if machine.poll() is None:
                    os.killpg(machine.pid, 9)
    assert 0 not in codes.values(), codes
    seen["the wire is cut; until both trainings had ended with a sentence"] = f"{said:.0f} s, patience {PATIENCE} s"
    seen["what the first said"], seen["what the second said"] = map(sentence, logs.values())
    if None in codes.values():
        seen["torchrun of the second"] = "went on asking for the lost rendezvous, and was ended by us"
    seals = (work / "cut" / "checkpoints").glob("checkpoint-*/seal.json")
    kept = max(int(seal.parent.name.split("-")[1]) for seal in seals)

    stop = kept + 2
    going_on = SCRIPT.replace("finetune(rows", "from transformers import TrainerCallback\n"
                              "class End(TrainerCallback):\n"
                              "    def on_step_end(self, args, state, control, **more):\n"
                              f"        control.should_training_stop = state.global_step >= {stop}\n"
                              "finetune(rows", 1).replace("arguments=", "callbacks=[End()], arguments=")
    (work / "train.py").write_text(going_on)
    subprocess.run([sys.executable, "train.py", "cut", str(many), "go-on"], cwd=work, check=True, capture_output=True,
                   env={**os.environ, "PYTHONPATH": str(COURSE)})
    seen["the first goes on alone"] = f"from step {kept}; stopped by us at step {len(curve(work / 'cut'))}"
    assert len(curve(work / "cut")) == stop
    print(json.dumps(seen, indent=1))
    RECORD.write_text(json.dumps(seen, indent=1) + "\n")
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
