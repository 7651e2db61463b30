"""What stands above a learner's copy of a lab: the links and the set-up cell, and the one address that all name.

The address is that of pyproject.toml; `course` stamps it on the notebooks, and `restamp` puts another one everywhere.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from labkit.errors import LabError
from labkit.profiles import COURSE

HUB = "https://github.com/"
HOSTS = r"github\.com/|research\.google\.com/github/|mybinder\.org/v2/gh/|codespaces\.new/"  # what stands before it
EXTRAS = {"09": ("search",), "10": ("olive", "serving"), "11": ("olive",), "13": ("search", "olive", "serving")}

BADGE = """\
[Open this lab in Colab]\
(https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}.ipynb) or \
[in Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/{repository}/blob/main/notebooks/{name}.ipynb)"""

SETUP = """\
# @title Set-up: fetches the course on Colab and Kaggle, does nothing anywhere else
import os, subprocess, sys
KEEP_ON_DRIVE = False  # @param {{type: "boolean"}}
KAGGLE = "KAGGLE_KERNEL_RUN_TYPE" in os.environ
if KAGGLE or "google.colab" in sys.modules:
    HOME = os.environ.get("LABKIT_HOME", "/kaggle/working/labkit" if KAGGLE else "/content/labkit")
    CLONE = ["git", "clone", "--quiet", "--depth=1", "https://github.com/{repository}", HOME]
    if not os.path.isdir(HOME) and subprocess.run(CLONE).returncode:
        sys.exit("No course: is the internet off? Turn it on in the notebook's settings, then run this cell again")
    sys.path.insert(0, HOME)
    from labkit.colab import set_up
    set_up(HOME, KEEP_ON_DRIVE, extras={extras})"""


def repository(root: Path = COURSE) -> str:
    """The course's address on GitHub as owner/name, from `Repository` in the checkout's pyproject.toml.

    A folder of labs without one gets this course's address.

    Raises:
        LabError: it isn't there.
    """
    file = root / "pyproject.toml"
    file = file if file.is_file() else COURSE / "pyproject.toml"
    urls = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {}).get("urls", {})
    if not (address := urls.get("Repository", "")).startswith(HUB):
        raise LabError("no address of the course", where=str(file), expected=f'Repository = "{HUB}owner/name"')
    return address.removeprefix(HUB)


def badge(name: str, root: Path = COURSE) -> str:
    """The text cell that opens a lab in Colab or Kaggle."""
    return BADGE.format(repository=repository(root), name=name)


def setup(name: str, root: Path = COURSE) -> str:
    """The code of a lab's set-up cell."""
    return SETUP.format(repository=repository(root), extras=EXTRAS.get(name[:2], ()))


def move(new: str, root: Path = COURSE) -> list[Path]:
    """Put another address into pyproject.toml and the README; the notebooks are stamped when they are built.

    Args:
        new: owner/name on GitHub.
        root: the checkout.

    Returns:
        The files that changed.

    Raises:
        LabError: this is no owner/name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+", new):
        raise LabError(f"{new!r} is no address of a repository", where="--repo", expected="owner/name")
    old, changed = repository(root), []
    for file in (root / "pyproject.toml", root / "README.md"):
        text = file.read_text(encoding="utf-8")
        moved = re.sub(rf"({HOSTS}){re.escape(old)}(?![\w.-])", rf"\g<1>{new}", text)
        if moved != text:
            file.write_text(moved, encoding="utf-8")
            changed.append(file)
    return changed
