"""Colab without Colab: a new environment that has torch alone, a local remote, the shipped cell, then lab 03 whole.

Run by `make colab`, since it installs a hundred packages: some minutes. It says how long the cell took, and fails where
torch or numpy were replaced, the cell cannot run twice, or the lab stops.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COURSE = Path(__file__).resolve().parent.parent
STAND_IN = """
import sys, types
for name in ("google", "google.colab"):
    sys.modules[name] = types.ModuleType(name)
"""


def main() -> int:
    version = importlib.metadata.version("torch").partition("+")[0]
    with tempfile.TemporaryDirectory(prefix="colab ") as folder:
        place = Path(folder)
        python = place / "venv" / "bin" / "python"
        run(sys.executable, "-m", "venv", place / "venv")
        run(python, "-m", "pip", "install", "--quiet", f"torch=={version}", "numpy", "ipykernel", "nbclient")
        before = versions(python)
        book = json.loads((COURSE / "notebooks" / "03_lora.ipynb").read_text(encoding="utf-8"))
        [cell] = ["".join(c["source"]) for c in book["cells"] if "setup" in c["metadata"].get("tags", [])]
        address = next(word for word in cell.split('"') if word.startswith("https://github.com/"))
        remote = place / "remote" / address.removeprefix("https://github.com/")
        run("git", "clone", "--quiet", "--bare", COURSE, remote)
        (place / "cell.py").write_text(STAND_IN + cell, encoding="utf-8")
        home = place / "content" / "labkit"
        env = {**os.environ, "LABKIT_HOME": str(home), "GIT_CONFIG_COUNT": "1", "PYTHONPATH": "",
               "GIT_CONFIG_KEY_0": f"url.{place / 'remote'}/.insteadOf", "GIT_CONFIG_VALUE_0": "https://github.com/"}
        for which in ("first", "second"):
            started = time.monotonic()
            run(python, place / "cell.py", env=env, cwd=place)
            print(f"{which} run of the set-up cell: {time.monotonic() - started:.0f} s", flush=True)
        kept = {name: value for name, value in versions(python).items() if name in before}
        assert kept == before, f"replaced: {before} -> {kept}"
        started = time.monotonic()
        run(python, "-m", "labkit", "course", "03", env=env, cwd=home / "notebooks")
        print(f"lab 03 in the new environment: {time.monotonic() - started:.0f} s")
    return 0


def run(*words, **settings) -> None:
    subprocess.run([str(word) for word in words], check=True, **settings)


def versions(python: Path) -> dict[str, str]:
    asked = "import importlib.metadata as m; print(*(f'{n}={m.version(n)}' for n in ('torch', 'numpy')))"
    said = subprocess.run([str(python), "-c", asked], check=True, capture_output=True, text=True).stdout
    return dict(pair.split("=") for pair in said.split())


if __name__ == "__main__":
    sys.exit(main())
