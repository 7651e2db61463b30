import os
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from labkit.classroom import packing
from labkit.classroom.slides import write_slides
from labkit.cli import main
from labkit.errors import LabError
from labkit.models import small_home
from labkit.profiles import COURSE


def test_what_windows_alone_needs_is_asked_for_windows_alone():
    texts = ["pywinpty; os_name == 'nt'", "bitsandbytes>=0.48; sys_platform != 'darwin' or platform_machine == 'arm64'",
             "tomli; python_version < '3.11'", "fsspec[http]>=2021"]
    asked = {platform: packing._needed(texts, packing._markers(platform, "3.12"), ("",)) for platform in
             packing.PLATFORMS}
    assert set(asked["windows"]) == {"pywinpty[]", "bitsandbytes[]", "fsspec[http]"}
    assert set(asked["linux"]) == set(asked["macos"]) == {"bitsandbytes[]", "fsspec[http]"}


def test_extras_within_extras_are_spelt_out():
    wanted = packing._requirements(packing.COURSE, "all")
    assert any(text.startswith("optuna") for text in wanted) and not any("labkit[" in text for text in wanted)
    assert not any(text.startswith("optuna") for text in packing._requirements(packing.COURSE, ""))


def test_what_comes_as_source_is_made_into_wheels_with_what_needs_it(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(packing, "_pip", lambda *words: asked.append(words))
    pins = {line.partition("==")[0].replace("_", "-") for line in (COURSE / "constraints.txt").read_text().splitlines()}
    assert set(packing.SOURCE_ONLY) <= pins
    assert packing._sources(COURSE, tmp_path / "all", "all", print) == list(packing.SOURCE_ONLY)
    assert packing._sources(COURSE, tmp_path / "few", "", print) == ["rouge-score"]
    assert [words[-1] for words in asked] == ["word2number", "rouge-score"]


def test_a_folder_that_is_not_empty_or_a_platform_that_nobody_has_is_refused(tmp_path):
    with pytest.raises(LabError, match="no platform is called 'amiga'"):
        packing.pack(tmp_path / "new", ["amiga"], profile="tiny")
    (tmp_path / "file").write_text("")
    with pytest.raises(LabError, match="not empty"):
        packing.pack(tmp_path)


def test_the_real_model_has_to_be_here_before_it_is_packed(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(LabError, match="labkit fetch small"):
        packing.pack(tmp_path / "new")


def test_the_installer_says_which_python_is_wanted(tmp_path):
    (tmp_path / "install.py").write_text(packing.INSTALL)
    (tmp_path / "pythons.txt").write_text("2.7\n")
    done = subprocess.run([sys.executable, str(tmp_path / "install.py"), str(tmp_path / "home")], text=True,
                          capture_output=True)
    assert done.returncode == 1 and "wheels for 2.7" in done.stderr and not (tmp_path / "home").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the Python that stands in for the laptop's is a shell script")
def test_the_installer_puts_the_real_model_where_the_course_looks_for_it(tmp_path):
    stick, home = tmp_path / "stick", tmp_path / "my course"
    (stick / "course").mkdir(parents=True)
    (stick / "course" / "constraints.txt").write_text("")
    (stick / "pythons.txt").write_text("{}.{}\n".format(*sys.version_info))
    (stick / "models" / small_home().name).mkdir(parents=True)
    (stick / "models" / small_home().name / "config.json").write_text("{}")
    (stick / "install.py").write_text(packing.INSTALL.replace("MODEL", small_home().name))
    python = home / ".venv" / "bin" / "python"  # everything but pip, which would want all wheels, is the real one
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\n[ "$2" = pip ] && exit 0\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    mine = {"HOME": str(tmp_path / "me"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(COURSE)}
    mine = {**{name: value for name, value in os.environ.items() if name != "LABKIT_CACHE"}, **mine}
    done = subprocess.run([sys.executable, str(stick / "install.py"), str(home)], text=True, capture_output=True,
                          env=mine)
    assert done.returncode == 0, done.stderr
    look = "from labkit.models import small_home; print(small_home())"
    looked = subprocess.run([sys.executable, "-c", look], text=True, capture_output=True, env=mine, check=True)
    assert (Path(looked.stdout.strip()) / "config.json").is_file()
    assert shlex.split(done.stdout.splitlines()[-1]) == [str(python.parent / "jupyter"), "lab", str(home / "notebooks")]


def test_slides_begin_at_headings(tmp_path):
    assert main(["course", "--slides", str(tmp_path), "00"]) == 0
    page = (tmp_path / "00_start_here.slides.html").read_text(encoding="utf-8")
    book = nbformat.read(packing.COURSE / "solutions" / "00_start_here.ipynb", as_version=4)
    headings = [line for cell in book.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()
                if line.startswith(("# ", "## "))]
    assert page.count("<section>") >= len(headings) > 3


def test_slides_of_a_lab_that_was_not_built_are_refused(tmp_path):
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / "03_lora.py").write_text("# %%\n1\n")
    with pytest.raises(LabError, match="is missing"):
        write_slides(tmp_path / "out", root=tmp_path)
