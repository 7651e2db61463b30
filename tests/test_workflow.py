import importlib.util
import json

import yaml

from labkit.doctor import PYTHONS
from labkit.profiles import COURSE

WORKFLOW = yaml.safe_load((COURSE / ".github" / "workflows" / "course.yml").read_text(encoding="utf-8"))


def test_the_workflow_runs_on_three_systems_and_every_python_that_the_course_supports():
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "windows", "macos"}
    first, last = PYTHONS
    assert matrix["python"] == [f"{first[0]}.{minor}" for minor in range(first[1], last[1] + 1)]


def test_once_a_week_the_newest_libraries_are_tried():
    assert WORKFLOW[True]["schedule"]  # YAML reads the key `on` as true
    steps = " ".join(step.get("run", "") for step in WORKFLOW["jobs"]["newest"]["steps"])
    assert "--upgrade-strategy eager" in steps and "tests/newest.py" in steps


def test_scripts_that_the_workflow_names_are_there():
    text = (COURSE / ".github" / "workflows" / "course.yml").read_text(encoding="utf-8")
    for name in ("tests/newest.py", ".ci/run"):
        assert name in text and (COURSE / name).is_file()


def test_the_table_of_versions_names_what_is_tried_and_what_is_here():
    spec = importlib.util.spec_from_file_location("newest", COURSE / "tests" / "newest.py")
    newest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(newest)
    row = next(row for row in newest.versions().rows if row["library"] == "peft")
    assert row["tried"] != "-" and row["installed"] != "not installed"


def test_the_container_for_codespaces_sets_up_by_the_same_command():
    made = json.loads((COURSE / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert made["onCreateCommand"].split()[:2] == ["make", "ready"]
