"""Everything for a room without internet in one folder: wheels, the course, the real model, and an installer.

`labkit pack DIR` fills it where there is a network; DIR/install.py sets a laptop up from it, offline.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from labkit import doctor
from labkit.errors import LabError
from labkit.models import small_home
from labkit.profiles import COURSE

# What pip is told for each platform: tags of the wheels that run there, the oldest first.
PLATFORMS = {
    "linux": ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_27_x86_64", "manylinux_2_28_x86_64",
              "manylinux_2_31_x86_64", "manylinux_2_34_x86_64", "linux_x86_64"),
    "windows": ("win_amd64",),
    "macos": ("macosx_11_0_arm64", "macosx_12_0_arm64", "macosx_13_0_arm64", "macosx_14_0_arm64",
              "macosx_10_9_universal2", "macosx_11_0_universal2"),
}
# What the index has as source alone, and the requirement of ours that brings it.
SOURCE_ONLY = {"rouge-score": "rouge-score", "sqlitedict": "lm-eval", "word2number": "lm-eval"}
FIRST, LAST = doctor.PYTHONS
PYTHONS = tuple(f"{FIRST[0]}.{minor}" for minor in range(FIRST[1], LAST[1] + 1))
LEFT_OUT = (".git", ".venv", "runs", "build", "dist", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis",
            ".ipynb_checkpoints", "progress.json")

INSTALL = '''"""Sets this laptop up from this folder, without a network: python install.py [FOLDER]."""
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

here = Path(__file__).resolve().parent
home = Path(sys.argv[1] if len(sys.argv) > 1 else "~/labkit").expanduser().resolve()
tag = f"{sys.version_info.major}.{sys.version_info.minor}"
known = (here / "pythons.txt").read_text(encoding="utf-8").split()
if tag not in known:
    sys.exit(f"This is Python {tag}. This folder has wheels for {', '.join(known)}; start install.py with one of them.")
print(f"1 of 3: copying the course to {home}", flush=True)
shutil.copytree(here / "course", home, dirs_exist_ok=True)
python = home / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
print("2 of 3: installing, some minutes", flush=True)
if not python.exists():
    subprocess.run([sys.executable, "-m", "venv", str(home / ".venv")], check=True)
pip = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(here / "wheels")]
subprocess.run([*pip, "--upgrade", "setuptools", "wheel"], check=True)  # a venv of 3.11 brings an old one
subprocess.run([*pip, "--no-build-isolation", "-c", str(home / "constraints.txt"), "-e", f"{home}[EXTRAS]"], check=True)
model = here / "models" / "MODEL"
if model.is_dir():
    where = "from labkit.models import small_home; print(small_home().absolute())"
    asked = subprocess.run([str(python), "-X", "utf8", "-c", where], check=True, capture_output=True, encoding="utf-8")
    print(f"3 of 3: the real model, to {asked.stdout.strip()}", flush=True)
    shutil.copytree(model, asked.stdout.strip(), dirs_exist_ok=True)
words = [str(python.parent / "jupyter"), "lab", str(home / "notebooks")]
print("Ready. Open the course:")
print(subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words))
'''


def pack(folder: str | Path, platforms: list[str] | None = None, pythons: list[str] | None = None,
         profile: str = "small", extras: str = "all", root: Path = COURSE, say=print) -> dict:
    """Write a folder that sets laptops up without a network.

    Args:
        folder: new or empty.
        platforms: "linux", "windows", "macos" (arm64); this machine's where it is left out.
        pythons: "3.11", "3.12", "3.13"; this one's where it is left out.
        profile: "tiny" (in the course anyway) or "small", which must have been fetched.
        extras: of pyproject.toml.
        root: the checkout.
        say: is told a line a step.

    Returns:
        What is in it: bytes in all, wheels by platform and Python.

    Raises:
        LabError: the folder is not empty, a platform is unknown, the model is not here, or a wheel cannot be had.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise LabError("the folder is not empty", where=str(folder), todo="Choose a new one")
    here = {"linux": "linux", "win32": "windows", "darwin": "macos"}.get(sys.platform, "linux")
    this = f"{sys.version_info.major}.{sys.version_info.minor}"
    platforms, pythons = platforms or [here], pythons or [this]
    for kind, chosen, known in (("platform", platforms, PLATFORMS), ("Python", pythons, PYTHONS)):
        if wrong := [name for name in chosen if name not in known]:
            raise LabError(f"no {kind} is called {wrong[0]!r}", where="pack", expected=", ".join(known))
    if profile == "small" and not small_home().is_dir():
        raise LabError("the real model is not here yet", where=str(small_home()), todo="labkit fetch small")
    folder.mkdir(parents=True, exist_ok=True)
    say(f"the course, to {folder / 'course'}")
    shutil.copytree(root, folder / "course", ignore=shutil.ignore_patterns(*LEFT_OUT, "*.egg-info", "*.pyc"))
    if profile == "small":
        say("the real model")
        shutil.copytree(small_home(), folder / "models" / small_home().name)
    built = _sources(root, folder / "wheels", extras, say)
    counts = {}
    for platform in platforms:
        for python in pythons:
            say(f"wheels for {platform}, Python {python}")
            before = len(list((folder / "wheels").glob("*.whl")))
            _download(root, folder / "wheels", extras, platform, python, platform == here and python == this)
            counts[f"{platform} {python}"] = len(list((folder / "wheels").glob("*.whl"))) - before
    (folder / "pythons.txt").write_text("\n".join(pythons) + "\n", encoding="utf-8")
    script = INSTALL.replace("EXTRAS", extras).replace("MODEL", small_home().name)
    (folder / "install.py").write_text(script, encoding="utf-8")
    for name, text in (("install", '#!/bin/sh\nexec python3 "$(dirname "$0")/install.py" "$@"\n'),
                       ("install.bat", '@py -3 "%~dp0install.py" %*\r\n')):
        (folder / name).write_text(text, encoding="utf-8", newline="")
    os.chmod(folder / "install", 0o755)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    facts = {"bytes": size, "wheels": counts, "built here from source": built, "profile": profile}
    (folder / "pack.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def _requirements(root: Path, extras: str) -> list[str]:
    """Every requirement of the course with these extras, those of extras within extras spelt out."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project["optional-dependencies"]
    wanted, queue = list(project["dependencies"]), [name for name in extras.split(",") if name]
    while queue:
        for text in groups[queue.pop()]:
            if text.startswith(f"{project['name']}["):
                queue += text.split("[")[1].rstrip("]").split(",")
            else:
                wanted.append(text)
    return list(dict.fromkeys([*wanted, "setuptools>=77", "wheel"]))


def _sources(root: Path, wheels: Path, extras: str, say) -> list[str]:
    """Make wheels of the packages that the index has as source alone; they are pure Python and fit every platform."""
    wheels.mkdir(parents=True, exist_ok=True)
    asked = {canonicalize_name(Requirement(text).name) for text in _requirements(root, extras)}
    pure = [name for name, by in SOURCE_ONLY.items() if by in asked]
    if pure:
        say(f"wheels of what comes as source: {', '.join(pure)}")
        _pip("wheel", "--quiet", "--no-deps", "-c", str(root / "constraints.txt"), "-w", str(wheels), *pure)
    return pure


def _download(root: Path, wheels: Path, extras: str, platform: str, python: str, native: bool) -> None:
    """Wheels of everything, with what it needs in turn, for one platform and Python."""
    common = ["download", "--quiet", "--find-links", str(wheels), "-c", str(root / "constraints.txt"),
              "--only-binary", ":all:"]
    if native:
        return _pip(*common, "--dest", str(wheels), *_requirements(root, extras))
    # pip judges `sys_platform == "win32"` and its like by the machine it runs on, so the needs are followed here.
    target = ["--no-deps", "--python-version", python, "--implementation", "cp",
              *(word for abi in (f"cp{python.replace('.', '')}", "abi3", "none") for word in ("--abi", abi)),
              *(word for tag in PLATFORMS[platform] for word in ("--platform", tag))]
    there, seen = _markers(platform, python), set()
    queue = _needed(_requirements(root, extras), there, ("",))
    while queue := {name: text for name, text in queue.items() if name not in seen}:
        with tempfile.TemporaryDirectory(dir=wheels) as fresh:
            _pip(*common, *target, "--dest", fresh, *queue.values())
            seen |= set(queue)
            more: dict[str, str] = {}
            extras_of = {key.split("[")[0]: key.split("[")[1].rstrip("]").split(",") for key in queue}
            for file in Path(fresh).glob("*.whl"):
                name = canonicalize_name(file.name.split("-")[0])
                more |= _needed(_requires(file), there, ("", *extras_of.get(name, ())))
                os.replace(file, wheels / file.name)
        queue = more


def _markers(platform: str, python: str) -> dict[str, str]:
    """What environment markers are judged by on that platform."""
    system, sys_platform, machine, os_name = {
        "linux": ("Linux", "linux", "x86_64", "posix"), "windows": ("Windows", "win32", "AMD64", "nt"),
        "macos": ("Darwin", "darwin", "arm64", "posix")}[platform]
    return {"platform_system": system, "sys_platform": sys_platform, "platform_machine": machine, "os_name": os_name,
            "python_version": python, "python_full_version": f"{python}.0", "implementation_name": "cpython",
            "platform_python_implementation": "CPython", "implementation_version": f"{python}.0",
            "platform_release": "", "platform_version": ""}


def _needed(texts: Iterable[str], there: dict[str, str], extras: Iterable[str]) -> dict[str, str]:
    """Of these requirements those that hold on the platform: as pip is told, by name and extras."""
    found = {}
    for text in texts:
        asked = Requirement(text)
        if asked.marker is None or any(asked.marker.evaluate({**there, "extra": extra}) for extra in extras):
            asked.marker = None
            found[f"{canonicalize_name(asked.name)}[{','.join(sorted(asked.extras))}]"] = str(asked)
    return found


def _requires(wheel: Path) -> list[str]:
    """What a wheel says that it needs."""
    with zipfile.ZipFile(wheel) as opened:
        name = next(name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(opened.read(name).decode("utf-8")).get_all("Requires-Dist") or []


def _pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True,
                          env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        reason = lines[0] if lines else "no reason given"
        raise LabError(f"pip could not get every wheel: {reason}"[:300], where="pack", todo=
                       "See whether the package index is reachable, and whether that platform has such a wheel")
