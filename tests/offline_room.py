"""A classroom without internet: `labkit pack`, its installer behind no network at all, then labs 00 and 03 there.

Run by `make room`, since it packs and installs 250 packages: some minutes, 6 GB on disk. Needs Linux and root, for a
network namespace: in there is no interface but the machine's own. Fails where the pack, the installer or a lab does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NO_NETWORK = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]  # kernels talk over lo


def main() -> int:
    if sys.platform != "linux" or os.geteuid():
        sys.exit("A network namespace needs Linux and root: sudo .venv/bin/python tests/offline_room.py")
    with tempfile.TemporaryDirectory(prefix="room ") as folder:
        stick, laptop = Path(folder) / "a stick", Path(folder) / "laptop"
        laptop.mkdir()
        timed("fetch, where the model is not here", sys.executable, "-m", "labkit", "fetch", "small")
        timed("pack", sys.executable, "-m", "labkit", "pack", stick)
        # a laptop that knows nothing of this machine: its own home, no pip settings, a Python without the course
        own = {"HOME": str(laptop), "PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
               "PIP_CONFIG_FILE": os.devnull}
        home = laptop / "the course"
        timed("install", *NO_NETWORK, stick / "install", home, env=own)
        labkit = [*NO_NETWORK, home / ".venv" / "bin" / "labkit"]
        timed("labs 00 and 03 on tiny", *labkit, "course", "00", "03", env=own)
        few = {"LABKIT_PROFILE": "small", "LABKIT_STEPS": "2", "LABKIT_TOKENS": "4", "LABKIT_ROWS": "8"}
        timed("lab 00 on small, cut short", *labkit, "course", "00", env=own | few)
    return 0


def timed(what: str, *words, **settings) -> None:
    started = time.monotonic()
    subprocess.run([str(word) for word in words], check=True, **settings)
    print(f"{what}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
