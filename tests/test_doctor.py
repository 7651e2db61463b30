"""What the doctor says of this machine, and of machines on which something is amiss."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labkit import doctor, profiles
from labkit.cli import main
from labkit.profiles import COURSE

TALE = ["Python", "cores", "memory", "GPU", "disk", "path", "encoding", "libraries", "Jupyter", "writing", "real model",
        "hub", "profile"]


def test_it_takes_less_than_five_seconds_of_work_and_names_every_finding():
    before = os.times()
    done = subprocess.run([sys.executable, "-m", "labkit", "doctor"], capture_output=True, text=True, cwd=COURSE,
                          env={**os.environ, "PYTHONPATH": str(COURSE)})
    after = os.times()
    assert done.stderr == "" and done.returncode in (0, 1)
    names = [line[6:].split("  ")[0].strip() for line in done.stdout.splitlines() if line[:4] in ("ok  ", "MEND")]
    assert names == TALE
    # processor time, not the clock: this must hold beside other work, too (Windows does not tell it: 0)
    assert after.children_user + after.children_system - before.children_user - before.children_system < 5


def test_each_finding_that_is_amiss_has_one_remedy_below_it():
    findings = [doctor.Finding("disk", "0.1 GB free", False, "Free some"), doctor.Finding("cores", "2")]
    assert doctor.show(findings) == ("MEND  disk   0.1 GB free\n             -> Free some\nok    cores  2\n\n"
                                     "To be mended: disk.")


def test_a_machine_with_something_amiss_ends_with_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("disk", "full", False, "Free some")])
    assert main(["doctor"]) == 1 and "To be mended: disk." in capsys.readouterr().out


def test_a_hub_that_cannot_be_reached_is_no_error(monkeypatch):
    from huggingface_hub import constants

    with socket.socket() as nobody:  # bound, and listening to nobody
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        assert doctor._hub() == ""


def test_a_hub_that_never_answers_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    started = time.monotonic()
    assert doctor._begin(lambda: time.sleep(60))(doctor.PATIENCE) is None
    assert time.monotonic() - started < 10


def test_the_real_model_is_missing_or_damaged_or_there(monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path))
    missing = doctor._real_model()
    assert missing.ok and missing.mend == "labkit fetch small" and "not here yet" in missing.value
    home = tmp_path / "SmolLM2-135M-Instruct"
    shutil.copytree(COURSE / "data/tiny-base", home)
    damaged = doctor._real_model()
    assert not damaged.ok and damaged.mend == "labkit fetch small" and "origin.json is missing" in damaged.value
    files = {"config.json": (home / "config.json").stat().st_size}
    (home / "origin.json").write_text(json.dumps({"origin": "hub", "files": files}))
    assert doctor._real_model() == doctor.Finding(
        "real model", f"HuggingFaceTB/SmolLM2-135M-Instruct in {home}, from: hub")


def test_libraries_in_other_versions_are_named_and_missing_ones_are_amiss(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "COURSE", tmp_path)
    assert not doctor._libraries().ok
    pins = tmp_path / "constraints.txt"
    pins.write_text(f"# made up\nrich==0.0.1\ntorch=={doctor.installed('torch')}\n")
    found = doctor._libraries()
    assert found.ok and "2, of which 1 in another version: rich " in found.value and "(tried: 0.0.1)" in found.value
    monkeypatch.setattr(doctor, "MAIN", ("nosuchlibrary",))
    pins.write_text("nosuchlibrary==1.0\nrich==0.0.1\n")
    found = doctor._libraries()
    assert not found.ok and found.value == "nosuchlibrary missing" and "pip install -c constraints.txt" in found.mend


@pytest.mark.skipif(sys.platform == "win32", reason="a folder's mode keeps nobody from writing on Windows")
def test_a_course_folder_that_cannot_be_written_is_amiss(monkeypatch, tmp_path):
    place = Path("/proc") if os.path.isdir("/proc") else tmp_path / "locked"  # nobody, not even root, writes there
    if place.name == "locked":
        place.mkdir(mode=0o500)
    monkeypatch.setattr(doctor, "COURSE", place)
    found = doctor._writable()
    assert not found.ok and f"{place} cannot be written" in found.value and "LABKIT_CACHE" in found.mend


def test_spaces_and_other_letters_in_the_path_are_fine_and_said(monkeypatch):
    monkeypatch.setattr(doctor, "COURSE", Path("/home/zoë/my course"))
    found = doctor._path()
    assert found.ok and "(spaces and letters beyond ASCII in it, which is fine)" in found.value


def test_a_python_without_wheels_is_amiss(monkeypatch):
    monkeypatch.setattr(doctor, "PYTHONS", ((3, 98), (3, 99)))
    found = doctor._python()
    assert not found.ok and found.mend.startswith("Install Python 3.98 to 3.99")


@pytest.mark.parametrize("gpu, memory, cores, best", [
    (80, 64, 16, "full"), (16, 12, 2, "small"),
    (8, 16, 8, "small"), (0, 16, 2, "small"), (0, 4, 2, "tiny"), (0, 16, 1, "tiny")])  # fmt: skip
def test_the_profile_that_it_recommends_follows_from_the_machine(monkeypatch, gpu, memory, cores, best):
    monkeypatch.setattr(doctor, "_gpu_memory", lambda: gpu)
    monkeypatch.setattr(profiles, "memory_gb", lambda: memory)
    monkeypatch.setattr(profiles, "cores", lambda: cores)
    monkeypatch.setattr(profiles, "_chosen", None)
    monkeypatch.delenv("LABKIT_PROFILE", raising=False)
    found = doctor.recommendation()
    assert f"the largest that fits is {best}" in found.value
    assert found.mend == ("" if best == "tiny" else f"To change: LABKIT_PROFILE={best}")


def test_a_profile_that_does_not_exist_is_amiss(monkeypatch):
    monkeypatch.setattr(profiles, "_chosen", None)
    monkeypatch.setenv("LABKIT_PROFILE", "huge")
    found = doctor.recommendation()
    assert not found.ok and "no profile is called 'huge'" in found.value


def test_the_table_for_a_notebook_names_no_folder_of_this_machine():
    findings = [doctor.Finding("path", f"{doctor.COURSE} is fine"),
                doctor.Finding("disk", f"{Path.home()}/x is full", False, "Free some")]
    rows = doctor.table(findings).rows
    assert [row[""] for row in rows] == ["ok", "mend"]
    assert str(doctor.COURSE) not in str(rows) and str(Path.home()) + "/" not in str(rows)


def test_before_a_class_a_missing_model_and_leftover_progress_are_amiss(monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    left = tmp_path / "progress.json"
    left.write_text("{}")
    monkeypatch.setenv("LABKIT_PROGRESS", str(left))
    found = {finding.name: finding for finding in doctor.examine_class()}
    assert not found["real model"].ok and "labkit fetch small" in found["real model"].mend
    assert not found["progress"].ok
    assert found["notebooks"].ok and "s a step" in found["speed"].value
