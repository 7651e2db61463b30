"""The command line: help in plain words, exit codes, what goes to stdout and what to stderr."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_bad_input import cases, labkit, write_csv

from labkit import __version__, cli, course, viewer
from labkit.cli import main
from labkit.course import Result
from labkit.profiles import COURSE

COMMANDS = ["doctor", "fetch", "inspect", "finetune", "search", "evaluate", "gate", "chat", "demo", "course",
            "progress", "real"]


def words(*argv: str, capsys) -> tuple[int, str, str]:
    try:
        code = main(list(argv))
    except SystemExit as stopped:  # argparse: help, version, wrong options
        code = stopped.code
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example_that_parses(command, capsys):
    code, out, _ = words(command, "--help", capsys=capsys)
    example = " ".join(out.split()).partition("example: labkit ")[2]
    assert code == 0 and example.startswith(command)
    assert cli._parser().parse_args(shlex.split(example)).run


def test_the_help_names_every_command(capsys):
    code, out, _ = words("--help", capsys=capsys)
    assert code == 0 and all(f"\n    {command}" in out for command in COMMANDS)


@pytest.mark.parametrize("argv", [["finetune", "x.csv", "--colums", "a,b"], ["tune"], [], ["finetune"],
                                  ["finetune", "x.csv", "--steps", "0"], ["finetune", "x.csv", "--learning-rate", "5"],
                                  ["finetune", "x.csv", "--rank", "-1"]])  # fmt: skip
def test_wrong_options_end_with_argparses_message_and_code_2(argv, capsys):
    code, out, err = words(*argv, capsys=capsys)
    assert code == 2 and out == "" and "usage: labkit" in err and "error:" in err


def test_the_version_is_told(capsys):
    assert words("--version", capsys=capsys)[:2] == (0, f"labkit {__version__}\n")


def test_help_loads_nothing_heavy_and_python_m_labkit_is_the_same_command():
    def out(*program: str) -> str:
        done = subprocess.run([sys.executable, *program, "--help"], capture_output=True, text=True, check=True,
                              env={**os.environ, "PYTHONPATH": str(COURSE), "COLUMNS": "80"})
        return done.stdout

    assert out("-m", "labkit") == out("-m", "labkit.cli")
    code = ("import sys; from labkit.cli import _parser; _parser().format_help(); "
            "print(*{'torch', 'numpy', 'datasets', 'rich', 'labkit.job'} & set(sys.modules))")
    assert out("-c", code).strip() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="the pipe is made by bash")
def test_a_reader_that_closes_the_pipe_ends_it_quietly():
    done = subprocess.run(f"'{sys.executable}' -m labkit progress | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}",
                          shell=True, executable="/bin/bash", capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(COURSE)})
    assert done.stderr == "" and done.stdout.strip() == "0"


def test_a_closed_pipe_in_the_middle_of_the_answer_is_quiet_too(monkeypatch, tmp_path):
    code = ("import os, sys; from labkit import cli, doctor; "
            "doctor.examine = lambda: [doctor.Finding('x', 'y' * 1000)] * 1000; sys.exit(cli.main(['doctor']))")
    reader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env={**os.environ, "PYTHONPATH": str(COURSE)})
    reader.stdout.read(1)
    reader.stdout.close()
    assert (reader.wait(), reader.stderr.read()) == (0, "")


def test_results_are_on_stdout_and_everything_else_on_stderr_in_plain_lines(tmp_path):
    done = labkit("finetune", write_csv(tmp_path / "rows.csv", cases()), "--steps", 10, "--batch-size", 4, cwd=tmp_path)
    out, err = done.communicate()
    assert done.returncode == 0, err
    assert out.splitlines()[0] == "6 test rows; in brackets the 95 % interval"
    run = Path("runs/rows")
    assert str(run / "report.md") in out and f"Talk to it: labkit chat {run}" in out
    lines = err.splitlines()
    assert lines[0].endswith("rows.csv was read as text/label: 60 rows, 2 labels (boots, tents).")
    assert "step 10 of 10" in err and "\r" not in err and "\x1b" not in err
    assert not [line for line in lines if "Warning" in line or "kernels" in line], err


def test_the_demo_tunes_the_tiny_model_on_the_shipped_tickets_and_may_be_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABKIT_STEPS", "2")
    monkeypatch.setattr("labkit.job.MOST_TESTED", {"label": 40})
    demo = tmp_path / "runs/demo"
    demo.mkdir(parents=True)
    for name in ("settings.json", "run.json", "old.txt"):  # what an earlier demo left
        (demo / name).write_text("{}")
    code, out, err = words("demo", capsys=capsys)
    assert code == 0, err
    assert "majority class" in out and "bag of words" in out and "base (tiny)" in out and "tuned" in out
    assert [path.name for path in demo.parent.iterdir()] == ["demo"] and not (demo / "old.txt").exists()
    assert (demo / "curve.png").stat().st_size > 10_000
    assert "training loss (nats per counted token)" in out and "█" in out and "steps 1 to 2\n" in out
    assert out.endswith(f"The picture of the training: {Path('runs/demo/curve.png')}\n")  # nobody is at a display
    assert "6,432 shipped tickets, task tone, 6 labels (joy, anger, sadness, fear, surprise, neutral)." in err
    assert "32 of the 5,568 rows to learn from" in err and "parted by family" in err


@pytest.mark.parametrize("environ, platform, terminal, seen", [
    ({"DISPLAY": ":0"}, "linux", True, True),
    ({"WAYLAND_DISPLAY": "wayland-0", "CI": "false"}, "linux", True, True),
    ({}, "linux", True, False),
    ({"DISPLAY": ":0"}, "linux", False, False),
    ({"DISPLAY": ":0", "CI": "true"}, "linux", True, False),
    ({"DISPLAY": "localhost:10", "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}, "linux", True, False),
    ({}, "darwin", True, True),
    ({"CI": "1"}, "win32", True, False),
])
def test_a_window_is_opened_only_where_somebody_sits_before_a_display(environ, platform, terminal, seen):
    assert viewer.watched(environ, platform, terminal) is seen


@pytest.mark.skipif(sys.platform == "win32", reason="Windows opens files itself, not by a program on the path")
@pytest.mark.parametrize("does, took", [("exit 0", True), ("exit 3", False), ("exec sleep 1", True), (None, False)])
def test_a_picture_goes_to_the_systems_viewer_and_one_that_cannot_show_it_is_no_error(tmp_path, monkeypatch, does,
                                                                                     took):
    if does:
        opener = tmp_path / "xdg-open"
        opener.write_text(f'#!/bin/sh\necho "$1" > "{tmp_path}/asked"\n{does}\n')
        opener.chmod(0o755)
    for name in ("CI", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin" if does else str(tmp_path))
    monkeypatch.setattr(viewer, "OPENERS", {sys.platform: "xdg-open"})
    monkeypatch.setattr(viewer, "PATIENCE", 0.5)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.chdir(tmp_path)
    assert viewer.open_picture(Path("curve.png")) is took
    assert not does or (tmp_path / "asked").read_text() == f"{tmp_path / 'curve.png'}\n"


def test_fetch_of_a_profile_that_needs_none_says_so(capsys):
    code, _, err = words("fetch", "tiny", capsys=capsys)
    assert code == 2 and err.startswith("labkit: fetch: the profile 'tiny' needs no fetching. Use it: tiny is in the ")


def test_chat_with_what_is_no_run_is_refused(tmp_path, capsys):
    code, _, err = words("chat", str(tmp_path), capsys=capsys)
    assert code == 2 and "no run here" in err and "run.json" in err


def test_a_lab_that_does_not_exist_is_refused(capsys):
    code, _, err = words("course", "77", capsys=capsys)
    assert code == 2 and "no lab is called '77'" in err


@pytest.mark.parametrize("command, function", [("course", "run"), ("real", "real")])
def test_labs_that_fail_are_named_with_exit_code_1(command, function, monkeypatch, capsys):
    asked = []

    def labs(names, **_):
        asked.append(names)
        return [Result("03_lora", 4.2), Result("04_qlora", 1.0, 7, "By hand", "NameError: x")]

    monkeypatch.setattr(course, function, labs, raising=False)
    code, out, _ = words(command, "03", "04", capsys=capsys)
    assert asked == [["03", "04"]] and code == 1
    assert out.splitlines() == ["03_lora ran to the end in 4 s",
                                '04_qlora stopped at code cell 7, under "By hand", after 1 s: NameError: x']


def test_progress_is_that_of_the_learner(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LABKIT_PROGRESS", str(tmp_path / "progress.json"))
    code, out, _ = words("progress", "03", capsys=capsys)
    assert code == 0 and out.startswith("lab 03  [....................]  0 of ")
    assert words("progress", "77", capsys=capsys)[1].strip() == "there are no exercises in lab 77"


def test_a_terminal_that_lacks_a_letter_gets_a_question_mark_and_no_traceback(tmp_path):
    (tmp_path / "日本.csv").touch()
    done = subprocess.run([sys.executable, "-m", "labkit", "finetune", "日本.csv"], cwd=tmp_path, capture_output=True,
                          env={**os.environ, "PYTHONPATH": str(COURSE), "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2 and done.stderr.startswith(b"labkit: ??.csv: is empty")
