"""The set-up cell for Colab and Kaggle: it installs what is missing and nothing else, and says what it did."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import types

import pytest

from labkit import colab, stamps
from labkit.profiles import COURSE

STAND_IN = ("import sys, types\nsys.modules['google'] = types.ModuleType('google')\n"
            "sys.modules['google.colab'] = types.ModuleType('google.colab')\n")
PLACES = {"Colab": ({}, STAND_IN), "Kaggle": ({colab.KAGGLE: "Interactive"}, "")}  # variables, and a cell before it
SEEN = {"torch": "2.9.0+cu126", "numpy": "1.26.4", "transformers": "5.24.0"}


@pytest.fixture
def course_folder(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["torch>=2.6", "numpy>=2.0", "transformers>=5.0,<6", "ftfy>=6.2,<7", '
        '"colorama; sys_platform == \'nowhere\'"]\n[project.optional-dependencies]\nsearch = ["optuna>=5.0"]\n',
        encoding="utf-8")
    return tmp_path


def test_only_what_is_missing_is_asked_for_and_torch_and_numpy_never(course_folder, monkeypatch):
    monkeypatch.setattr(colab, "_versions", lambda: SEEN)
    assert colab.missing(course_folder) == ["ftfy<7,>=6.2"]
    assert colab.missing(course_folder, ["search"])[1:] == ["optuna>=5.0"]


def test_a_package_that_is_too_old_is_asked_for_and_torch_where_there_is_none(course_folder, monkeypatch):
    monkeypatch.setattr(colab, "_versions", lambda: {"numpy": "2.4.0", "transformers": "4.57.0", "ftfy": "6.3.1"})
    assert colab.missing(course_folder) == ["torch>=2.6", "transformers<6,>=5.0"]


def test_nothing_is_missing_in_the_environment_of_the_course():
    assert colab.missing(COURSE, ["search", "olive", "serving"]) == []


def test_a_restart_is_asked_for_where_a_loaded_package_changed_and_only_there():
    version = importlib.metadata.version("packaging")
    here = {"packaging": version, "nbval": importlib.metadata.version("nbval")}
    import packaging  # noqa: F401

    assert colab.replaced(here, here | {"packaging": "0.1"}) == ["packaging"]
    assert colab.replaced(here, here) == []
    assert "nbval" in sys.modules or colab.replaced(here, here | {"nbval": "0.1"}) == []


def test_on_drive_progress_and_runs_lie_below_mydrive(tmp_path, monkeypatch, capsys):
    mounted = []
    drive = types.SimpleNamespace(mount=mounted.append)
    monkeypatch.setitem(sys.modules, "google", types.SimpleNamespace(colab=types.SimpleNamespace(drive=drive)))
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(drive=drive))
    for name in ("LABKIT_RUNS", "LABKIT_PROGRESS"):
        monkeypatch.setenv(name, "")
    colab._keep_on_drive(tmp_path / "labkit")
    assert mounted == [str(tmp_path / "drive")]
    assert os.environ["LABKIT_RUNS"] == str(tmp_path / "drive" / "MyDrive" / "labkit" / "runs")
    assert "MyDrive/labkit" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["03", "10"])
def test_the_set_up_cell_does_nothing_outside_of_colab_and_kaggle(number, tmp_path):
    cell = stamps.setup(f"{number}_lab")
    assert len(cell.splitlines()) <= 12
    done = subprocess.run([sys.executable, "-S", "-c", cell], cwd=tmp_path, capture_output=True, text=True,
                          env={"LABKIT_HOME": str(tmp_path / "home"), "PATH": ""})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("place", PLACES)
def test_the_set_up_cell_as_shipped_clones_sets_up_and_may_run_twice(place, tmp_path):
    """On a stand-in that has all packages; git itself is told to find the address in a local folder."""
    remote, home = tmp_path / "remote" / stamps.repository(), tmp_path / "content" / "labkit"
    remote.mkdir(parents=True)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "--quiet", str(remote)], check=True)
    (remote / "labkit").mkdir()
    (remote / "notebooks").mkdir()
    (remote / "notebooks" / "x.txt").write_text("x")
    for name in ("__init__.py", "colab.py"):
        (remote / "labkit" / name).write_bytes((COURSE / "labkit" / name).read_bytes())
    (remote / "pyproject.toml").write_bytes((COURSE / "pyproject.toml").read_bytes())
    subprocess.run([*git, "add", "."], cwd=remote, check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "x"], cwd=remote, check=True)
    cell = tmp_path / "cell.py"
    variables, stand_in = PLACES[place]
    spared = "import labkit.colab; labkit.colab._is_here = lambda home: True"  # this environment stays as it is
    body = stamps.setup("03_lora").replace("    set_up(", f"    {spared}\n    set_up(")
    cell.write_text(stand_in + body + "\nprint(os.getcwd())\n", encoding="utf-8")
    settings = os.environ | variables | {"LABKIT_HOME": str(home), "GIT_CONFIG_COUNT": "1", "PYTHONPATH": "",
                                         "GIT_CONFIG_KEY_0": f"url.{tmp_path / 'remote'}/.insteadOf",
                                         "GIT_CONFIG_VALUE_0": "https://github.com/"}
    for _ in range(2):
        done = subprocess.run([sys.executable, str(cell)], capture_output=True, text=True, env=settings, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        said = done.stdout.splitlines()
        assert "restart needed: no" in said and said[-1] == str(home / "notebooks")
        assert any("GPU" in line for line in said)
        assert any(line.startswith(f"progress and runs lie in {home};") for line in said) == (place == "Kaggle")


@pytest.mark.skipif(sys.platform == "win32", reason="the git that stands in for the real one is a shell script")
@pytest.mark.parametrize(("place", "home"), [("Colab", "/content/labkit"), ("Kaggle", "/kaggle/working/labkit")])
def test_without_internet_the_cell_says_one_sentence(place, home, tmp_path):
    """A git that keeps what it was asked for, and fails as the real one does where no name is found."""
    git = tmp_path / "git"
    git.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\nexit 128\n')
    git.chmod(0o755)
    variables, stand_in = PLACES[place]
    done = subprocess.run([sys.executable, "-S", "-c", stand_in + stamps.setup("03_lora")], capture_output=True,
                          text=True, cwd=tmp_path, env=variables | {"PATH": str(tmp_path)})
    assert done.returncode and len(done.stderr.splitlines()) == 1 and "is the internet off?" in done.stderr
    assert (tmp_path / "asked").read_text().split()[-2:] == [f"https://github.com/{stamps.repository()}", home]


@pytest.mark.parametrize(("variables", "says"), [({}, "restart the session first"),
                                                 ({colab.KAGGLE: "Batch"}, "Turn the internet on")])
def test_where_pip_fails_its_last_lines_stand_above_what_to_do(variables, says, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    failed = types.SimpleNamespace(returncode=1, stderr="one\ntwo\nERROR: no address found\n")
    monkeypatch.setattr(subprocess, "run", lambda *words, **settings: failed)
    with pytest.raises(SystemExit, match=f"ERROR: no address found\n.*{says}"):
        colab._pip("ftfy")


def test_kaggle_has_no_drive_and_says_where_runs_lie(monkeypatch, tmp_path, capsys):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(colab, "_keep_on_drive", None)  # calling it would be an error
    monkeypatch.setattr(colab, "missing", lambda home, extras: [])
    monkeypatch.setattr(colab, "_is_here", lambda home: True)
    monkeypatch.setattr(colab, "shutil", types.SimpleNamespace(which=lambda name: name))
    card = "Tesla T4, 15360 MiB\n"
    monkeypatch.setattr(subprocess, "run", lambda *words, **settings: types.SimpleNamespace(
        returncode=0, stdout=2 * card))
    monkeypatch.setenv(colab.KAGGLE, "Interactive")
    monkeypatch.chdir(tmp_path)
    colab.set_up(str(tmp_path), drive=True)
    said = capsys.readouterr().out
    assert f"lie in {tmp_path};" in said and "GPU: Tesla T4, 15360 MiB, the first of 2" in said
