"""One study on a real PostgreSQL, worked at from two hosts; one host is cut off in the middle of a trial.

Run by hand, as root, on a Linux machine that has PostgreSQL and `ip netns`; not a test of the suite, which must not
pass by skipping. The hosts are network namespaces, each with an address of its own on a bridge; the server listens on
a third address.

    pip install 'psycopg[binary]'
    sudo .venv/bin/python tests/two_hosts_search.py

Ends with code 0 where no trial was lost or repeated, else with code 1; removes what it made. What was seen goes to
data/measured/two_hosts_search.json.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

COURSE = Path(__file__).resolve().parent.parent
RECORD = COURSE / "data" / "measured" / "two_hosts_search.json"
NET, BRIDGE, PORT = "10.209.0", "labkit09", 54329
TRIALS = 40  # one host may have done a third of them before the other begins
ENDED = ("done", "stopped early")  # early: its loss was no number any more
SPACE = f"""
search_space:
  learning_rate: {{type: float, low: 1e-4, high: 4e-2, log: true}}
  rank: {{type: int, low: 8, high: 64, log: true}}
search_strategy: {{type: random, num_trials: {TRIALS}, pruning: none}}
"""


def sh(*words: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*map(str, words)], check=True, capture_output=True, text=True, **options)


def network(undo: ExitStack) -> list[str]:
    """A bridge with the server's address, and two namespaces that reach it; gives the namespaces' names."""
    sh("ip", "link", "add", BRIDGE, "type", "bridge")
    undo.callback(subprocess.run, ["ip", "link", "del", BRIDGE])
    sh("ip", "addr", "add", f"{NET}.1/24", "dev", BRIDGE)
    sh("ip", "link", "set", BRIDGE, "up")
    hosts = []
    for n in (2, 3):
        name = f"labkit09-{n}"
        sh("ip", "netns", "add", name)
        undo.callback(subprocess.run, ["ip", "netns", "del", name])
        sh("ip", "link", "add", f"lk09v{n}", "type", "veth", "peer", "name", "eth0", "netns", name)
        sh("ip", "link", "set", f"lk09v{n}", "master", BRIDGE, "up")
        for words in (("addr", "add", f"{NET}.{n}/24", "dev", "eth0"), ("link", "set", "eth0", "up"),
                      ("link", "set", "lo", "up")):
            sh("ip", "-n", name, *words)
        hosts.append(name)
    return hosts


def server(undo: ExitStack, folder: Path) -> str:
    """A PostgreSQL of our own in `folder`, without a password for the bridge's network; gives the study's address."""
    initdb = shutil.which("initdb") or next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
    if initdb is None:
        sys.exit("no PostgreSQL on this machine: install it (apt-get install postgresql)")
    commands, user = Path(initdb).resolve().parent, pwd.getpwnam("postgres")
    os.chown(folder, user.pw_uid, user.pw_gid)
    folder.chmod(0o755)
    home = folder / "data"

    def as_postgres(*words: object) -> None:
        sh(*words, user="postgres", group=user.pw_gid, extra_groups=[], cwd=folder)

    as_postgres(commands / "initdb", "-D", home, "--auth-local=trust", "--auth-host=trust")
    with (home / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {NET}.0/24 trust\n")
    options = f"-p {PORT} -k {folder} -c listen_addresses={NET}.1"
    as_postgres(commands / "pg_ctl", "-D", home, "-w", "-l", folder / "server.log", "-o", options, "start")
    undo.callback(as_postgres, commands / "pg_ctl", "-D", home, "-m", "immediate", "stop")
    as_postgres(commands / "createdb", "-h", folder, "-p", PORT, "studies")
    return f"postgresql+psycopg://postgres@{NET}.1:{PORT}/studies"


def both_at_work(place: str, first: subprocess.Popen, second: subprocess.Popen) -> int | None:
    """Wait until both have ended a trial and the first is at another one, and give its number; None where one ended."""
    from labkit import search

    while first.poll() is None and second.poll() is None:
        trials = search.trials_in(place)
        running = {t.worker: t.number for t in trials if t.state == "running"}
        done = {t.worker for t in trials if t.state in ENDED}
        if {first.pid, second.pid} <= done and first.pid in running:
            return running[first.pid]
        time.sleep(0.2)
    return None


def main() -> int:
    import psycopg

    from labkit import search

    with ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        hosts, place = network(undo), server(undo, folder)
        plan = folder / "space.yml"
        plan.write_text(SPACE)
        words = [sys.executable, "-m", "labkit.cli", "search", "tickets", "--task", "tone", "--space", str(plan),
                 "--study", place, "--rows", "96"]
        workers = {}
        for host in hosts:
            workers[host] = subprocess.Popen(["ip", "netns", "exec", host, *words], cwd=COURSE)
            undo.callback(workers[host].kill)
        cut, other = (workers[host] for host in hosts)
        trial = both_at_work(place, cut, other)
        if trial is None:
            print("a worker ended before both had ended a trial and the first was at another one")
            return 1
        sh("ip", "-n", hosts[0], "link", "set", "eth0", "down")
        print(f"{hosts[0]} is cut off in trial {trial}")
        cut_at = time.monotonic()
        code = other.wait()
        trials = search.trials_in(place)
        ended = [t for t in trials if t.state in ENDED]
        for t in trials:
            print(t.number, t.state, t.worker, t.retry_of, t.params)
        lost = [t for t in trials if t.state == "failed"]
        again = [t for t in ended if t.retry_of is not None]
        right = (code == 0 and len(ended) == TRIALS and len({json.dumps(t.params) for t in ended}) == TRIALS
                 and [t.number for t in lost] == [t.retry_of for t in again] == [trial]
                 and {t.worker for t in again} == {other.pid})
        if not right:
            print("WRONG")
            return 1
        with psycopg.connect(place.replace("+psycopg", "")) as database:
            version = str(database.execute("show server_version").fetchone()[0]).split()[0]
        RECORD.write_text(json.dumps({
            "server": f"PostgreSQL {version}",
            "trials asked for, and ended": f"{TRIALS}, {len(ended)}, each with settings of its own",
            "ended by each host": ", ".join(str(sum(t.worker == w.pid for t in ended)) for w in workers.values()),
            "cut off": f"the first host, in trial {trial}",
            "that trial": f"counted as lost; the second host did it again as trial {again[0].number}",
            "the second host, from the cut to its end": f"{time.monotonic() - cut_at:.0f} s",
        }, indent=1) + "\n")
        print("no trial lost, none repeated")
        return 0


if __name__ == "__main__":
    sys.exit(main())
