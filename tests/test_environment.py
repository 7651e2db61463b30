"""pyproject.toml, constraints.txt and environment.yml say the same, and it is what runs this test."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from labkit.doctor import PYTHONS
from labkit.profiles import COURSE

PROJECT = tomllib.loads((COURSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MAKEFILE = (COURSE / "Makefile").read_text(encoding="utf-8")
LINES = [
    line for line in (COURSE / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
]
PINS = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in LINES}
INSTALLED = {canonicalize_name(d.metadata["Name"]): d for d in importlib.metadata.distributions()}

# What a GPU build of torch brings differs by platform and by Python; pip takes what that build asks for.
OF_TORCH = ("nvidia-", "cuda-", "triton", "setuptools")


def declared(extras: list[str]) -> list[Requirement]:
    """Requirements of the package itself and of these extras, without the extra that only names others."""
    texts = PROJECT["dependencies"] + [text for extra in extras for text in EXTRAS[extra]]
    return [Requirement(text) for text in texts if not text.startswith("labkit[")]


def applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras})


def needed() -> set[str]:
    """Every distribution that the package with all extras needs on this machine, followed to the end."""
    todo, seen = declared(list(EXTRAS)), set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if not applies(requirement, set()) or (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        assert name in INSTALLED, f"{name} is not installed: run `make test`, which sets up the environment"
        for text in INSTALLED[name].requires or []:
            below = Requirement(text)
            if applies(below, requirement.extras):
                below.marker = None  # it applied with the extras of the one above; alone it would not
                todo.append(below)
    return {name for name, *_ in seen}


def test_constraints_are_exact_pins_sorted_and_nothing_else():
    assert all(line.count("==") == 1 and not set(line) & set(" ;@+*/[") for line in LINES), LINES
    assert LINES == sorted(LINES, key=str.lower) and len(PINS) == len(LINES)


def test_every_dependency_and_every_extra_has_a_pin_within_its_range():
    for requirement in declared(list(EXTRAS)):
        name = canonicalize_name(requirement.name)
        assert name in PINS, f"{name} has no pin in constraints.txt"
        assert PINS[name] in requirement.specifier, f"{name}=={PINS[name]} is outside {requirement}"


def test_the_extra_all_holds_every_other_extra():
    [text] = EXTRAS["all"]
    assert Requirement(text).name == PROJECT["name"] and Requirement(text).extras == set(EXTRAS) - {"all"}


def test_every_package_that_is_needed_is_pinned():
    assert {name for name in needed() if not name.startswith(OF_TORCH)} - set(PINS) == set()


@pytest.mark.skipif(sys.platform != "linux", reason="the pins were made on Linux; other systems need fewer of them")
def test_no_package_is_pinned_that_nothing_needs():
    assert set(PINS) - needed() == set()


def test_what_is_installed_is_what_is_pinned():
    different = {
        name: (pin, INSTALLED[name].version)
        for name, pin in PINS.items()
        if name in INSTALLED and Version(INSTALLED[name].version).public != pin
    }
    assert different == {}, "run `make test`, which brings the environment up to date"


def test_conda_installs_this_package_with_these_pins_and_lists_nothing_twice():
    environment = yaml.safe_load((COURSE / "environment.yml").read_text(encoding="utf-8"))
    assert environment["name"] == PROJECT["name"]
    python, pip, through_pip = environment["dependencies"]
    assert pip == "pip" and through_pip == {"pip": ["-c constraints.txt", "-e .[all]"]}
    assert python.startswith("python=") and Version(python.split("=")[1]) in Requirement(
        f"python{PROJECT['requires-python']}"
    ).specifier


def test_make_installs_the_same_as_conda():
    assert "install -c constraints.txt -e '.[all]'" in MAKEFILE


def test_binder_takes_environment_yml_since_nothing_else_is_there():
    """repo2docker looks into binder/ or .binder/ first, and takes a Dockerfile before anything else."""
    assert not [name for name in ("binder", ".binder", "Dockerfile") if (COURSE / name).exists()]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no make")
def test_the_dev_container_makes_the_environment_with_its_images_own_python(tmp_path):
    """The image python:3.12 has Debian's own python3 too, which `make` would find first and which makes no venv."""
    container = json.loads((COURSE / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    [version] = re.findall(r"^python:(\d+\.\d+)$", container["image"])
    assert PYTHONS[0] <= tuple(map(int, version.split("."))) <= PYTHONS[1]
    assert container["onCreateCommand"] == f"make ready PYTHON=python{version}"
    for number in ("13", version.partition(".")[2]):
        python = tmp_path / f"python3.{number}"
        python.write_text(f"#!/bin/sh\necho 3.{number} >> '{tmp_path}/used'\nexit 1\n")
        python.chmod(0o755)
    settings = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([*container["onCreateCommand"].split(), f"VENV={tmp_path}/venv"], cwd=COURSE, env=settings,
                   capture_output=True)
    assert set((tmp_path / "used").read_text().split()) == {version}
    interpreter = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter == "${workspaceFolder}/.venv/bin/python" and "VENV := .venv\n" in MAKEFILE
    assert "--allow-root" in container["containerEnv"]["LAB_ARGS"] and "jupyterlab $(LAB_ARGS)" in MAKEFILE


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no make")
def test_an_environment_of_a_python_that_the_course_does_not_run_on_is_named_and_left_alone(tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1\nexit 1\n')
    python.chmod(0o755)
    done = subprocess.run(["make", "ready", f"VENV={tmp_path}/venv"], cwd=COURSE, capture_output=True, text=True)
    assert done.returncode and "holds Python 3.9.1" in done.stdout and "Delete the folder" in done.stdout
    assert python.is_file()


def test_torch_is_one_exact_version_here_and_colabs_own_is_kept_there():
    assert PINS["torch"] == "2.13.0"
    [torch] = [requirement for requirement in declared([]) if requirement.name == "torch"]
    for colabs in ("2.6.0+cu124", "2.8.0+cu126", "2.9.0+cu126", "2.10.0+cu128", "2.13.0+cu130", "2.14.1"):
        assert colabs in torch.specifier, f"Colab with torch {colabs} would have it replaced"


def test_no_setting_names_a_place_to_install_from():
    for name in ("pyproject.toml", "constraints.txt", "environment.yml", "Makefile", ".ci/run"):
        text = (COURSE / name).read_text(encoding="utf-8")
        assert "index-url" not in text and "find-links" not in text, name


def test_every_library_that_labkit_imports_is_declared():
    homes = importlib.metadata.packages_distributions()
    known = {canonicalize_name(r.name) for r in declared(list(EXTRAS))}
    missing = set()
    for path in (COURSE / "labkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            for module in {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - {"labkit"}:
                if not {canonicalize_name(name) for name in homes.get(module, [module])} & known:
                    missing.add(f"{path.relative_to(COURSE)} imports {module}")
    assert missing == set()
