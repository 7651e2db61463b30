import ast
import importlib.util
import json
import re
import shlex

import yaml

from labkit.doctor import PYTHONS
from labkit.profiles import COURSE

WORKFLOW = yaml.safe_load((COURSE / ".github" / "workflows" / "course.yml").read_text(encoding="utf-8"))


def test_the_workflow_runs_on_three_systems_and_every_python_that_the_course_supports():
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "windows", "macos"}
    first, last = PYTHONS
    assert matrix["python"] == [f"{first[0]}.{minor}" for minor in range(first[1], last[1] + 1)]


def commands(system: str) -> list[str]:
    """The lines that the test job runs on a system, in their order."""
    steps = [step for step in WORKFLOW["jobs"]["test"]["steps"] if "run" in step]
    wanted = {"if": f"runner.os {'==' if system == 'Linux' else '!='} 'Linux'"}
    return [line for step in steps if wanted["if"] == step["if"] for line in step["run"].strip().splitlines()]


def test_linux_runs_what_runs_anywhere_and_the_other_systems_the_same_tests_without_make_and_browser():
    [linux] = commands("Linux")
    assert linux.endswith(".ci/run")
    others = [shlex.split(line) for line in commands("Windows")]
    assert all(line[:2] == ["python", "-m"] for line in others)  # no make, no apt, no path into .venv
    make = [shlex.split(line) for line in (COURSE / "Makefile").read_text(encoding="utf-8").splitlines()
            if line.startswith("\t$(PY) -m") and ("ruff" in line or "pytest" in line)]
    assert others[0][2:] == ["pip", "install", "-c", "constraints.txt", "-e", ".[all]"]
    assert [line[2] for line in others[1:]] == [line[2] for line in make] == ["ruff", "pytest", "pytest"]
    for line, made in zip(others[2:], make[1:], strict=True):
        chosen = line[line.index("-m", 2) + 1]
        assert "not browser" in chosen and chosen.split(" and ")[0] == re.split(" and | or ", made[4])[0]
        folders = {word for word in line if (COURSE / word).is_dir()}
        assert folders == {"tests", "solutions", "notebooks"} & set(re.findall(r"\w+", " ".join(made)))
        options = {word for word in line if word.startswith("--")}
        assert options == {word for word in made if word.startswith("--")} - {"--durations"}


ABSENT = {"resource", "fcntl", "pwd", "grp", "termios", "pty", "syslog"}  # modules that Windows lacks
LACKS = {"fork", "geteuid", "seteuid", "killpg", "setitimer", "SIGKILL", "SIGALRM", "num_fds", "setrlimit", "getrusage",
         "preexec_fn", "symlink_to", "chmod", "mkfifo"}  # what it lacks, or does otherwise


def test_tests_that_use_what_windows_lacks_say_so_and_import_it_inside():
    for file in sorted((COURSE / "tests").glob("test_*.py")):
        text = file.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
                assert not ABSENT & set(names), f"{file.name} imports {names} at its top"
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                first = min(part.lineno for part in [node, *node.decorator_list])
                lines = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
                used = {getattr(part, "attr", getattr(part, "arg", None)) for part in ast.walk(node)} & LACKS
                used |= {"os.kill"} & set(re.findall(r"os\.kill", lines))
                spoken = re.search("win32|Windows|needs_an_alarm", lines)
                assert spoken or not used, f"{file.name}, {node.name} uses {used}"


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


def test_every_file_that_is_to_begin_first_is_there_and_does(request):
    there = [f"{path.parent.name}/{path.name}" for folder, files in (
        ("tests", "test_*.py"), ("notebooks", "*.ipynb"), ("solutions", "*.ipynb"))
             for path in (COURSE / folder).glob(files)]
    conftest = next(plugin for plugin in request.config.pluginmanager.get_plugins()
                    if getattr(plugin, "__file__", None) == str(COURSE / "conftest.py"))
    found = sorted(conftest.place(file) for file in there if conftest.place(file) < len(conftest.FIRST))
    assert found == list(range(len(conftest.FIRST)))
