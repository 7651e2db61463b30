"""What people really hand in: each mistake gets one sentence with place and remedy, exit code 2, and no traceback."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.cli import main
from labkit.profiles import COURSE

THINGS = {
    "boots": ["my boots came unglued", "the sole of the left boot is loose", "laces of the boots snapped"],
    "tents": ["the tent pole broke", "rain comes through the tent", "the zip of the tent is stuck"],
}
STEPS = 60  # two checkpoints and a bit


def cases(rows: int = 60) -> list[dict]:
    rng = random.Random(1)
    found = []
    for _ in range(rows):
        label = rng.choice(list(THINGS))
        when = rng.choice(["Monday", "Friday", "the storm", "last week", "spring"])
        words = rng.sample(["please", "help", "thanks", "again", "sadly", "cold", "rope", "map", "snow"], 5)
        found.append({"text": f"{rng.choice(THINGS[label])} since {when}, {' '.join(words)}", "label": label})
    return found


def write_csv(path: Path, rows: list[dict], encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run `labkit finetune ...` in an empty folder; returns its sentence, if it has the form that it should have."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def run(*words: object) -> str:
        code = main(["finetune", *map(str, words)])
        out, err = capsys.readouterr()
        assert code == 2 and out == ""
        told = [line for line in err.splitlines() if line.startswith("labkit: ")]
        assert len(told) == 1 and err.splitlines()[-1] == told[0] and "Traceback" not in err
        assert told[0].endswith(".") and len(told[0]) < 500
        assert not list(work.rglob("adapter*")), "a refused job leaves no result"
        return told[0]

    return run


def labkit(*words: object, cwd: Path, **options) -> subprocess.Popen:
    """The real command in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(COURSE), "OMP_NUM_THREADS": "1", "LABKIT_PROFILE": "tiny"}
    return subprocess.Popen([sys.executable, "-m", "labkit", *map(str, words)], cwd=cwd, env=env, text=True,
                            encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


# -- the file --------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_its_likely_name_before_torch_is_loaded(tmp_path):
    write_csv(tmp_path / "cases_2024.csv", cases())
    code = ("import sys; from labkit.cli import main; code = main(sys.argv[1:]); "
            "print('torch' in sys.modules or 'transformers' in sys.modules); sys.exit(code)")
    done = subprocess.run([sys.executable, "-c", code, "finetune", "cases_2042.csv"], cwd=tmp_path, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(COURSE)})
    assert (done.returncode, done.stdout.strip()) == (2, "False")
    assert done.stderr.splitlines() == [
        "labkit: cases_2042.csv: there is no such file. Perhaps you mean cases_2024.csv."]


def test_an_empty_file_is_refused(refused, tmp_path):
    (tmp_path / "none.csv").touch()
    assert "none.csv: is empty" in refused(tmp_path / "none.csv")


def test_a_folder_is_refused(refused, tmp_path):
    assert "is a folder; expected a file" in refused(tmp_path)


def test_a_wrong_extension_is_refused_with_those_that_can_be_read(refused, tmp_path):
    (tmp_path / "rows.docx").write_bytes(b"PK\x03\x04")
    assert ".docx cannot be read; expected .json, .jsonl" in refused(tmp_path / "rows.docx")


def test_broken_json_is_named_by_its_line(refused, tmp_path):
    file = write_jsonl(tmp_path / "rows.jsonl", cases())
    lines = file.read_text().splitlines()
    lines[6] = lines[6][:-1]
    file.write_text("\n".join(lines))
    assert "rows.jsonl, line 7: broken JSON" in refused(file)


def test_a_row_without_its_label_is_named_by_its_line(refused, tmp_path):
    rows = cases()
    rows[3]["label"] = ""
    assert "rows.csv, line 5: label is empty" in refused(write_csv(tmp_path / "rows.csv", rows))


def test_a_label_seen_once_is_named_with_its_line(refused, tmp_path):
    rows = [*cases(), {"text": "a stove", "label": "stoves"}]
    said = refused(write_csv(tmp_path / "rows.csv", rows))
    assert "rows.csv, line 62: the label 'stoves' is seen only here" in said and "twice or more" in said


def test_rows_that_are_all_alike_are_refused(refused, tmp_path):
    file = write_csv(tmp_path / "rows.csv", [{"prompt": "hello", "completion": f"answer {i}"} for i in range(9)])
    assert "all 9 rows have the same prompt" in refused(file)


def test_rows_that_are_all_nearly_alike_are_refused_since_no_test_would_be_honest(refused, tmp_path):
    rows = [{"prompt": "hello there my dear old friend" + "!" * i, "completion": f"answer {i}"} for i in range(9)]
    assert "rows.csv: 9 rows make 1 groups of like rows" in refused(write_csv(tmp_path / "rows.csv", rows))


def test_columns_that_it_cannot_tell_are_named_with_the_option_that_settles_it(refused, tmp_path):
    file = write_csv(tmp_path / "rows.csv", [{"subject": f"s {i}", "team": "a"} for i in range(9)])
    said = refused(file)
    assert "'subject', 'team'" in said and "--columns subject,team" in said


def test_a_row_longer_than_the_limit_is_named_by_its_line_with_its_tokens(refused, tmp_path):
    rows = cases()
    rows[8]["text"] = "snow " * 400
    said = refused(write_csv(tmp_path / "rows.csv", rows))
    assert "rows.csv, line 10: prompt and completion have" in said and "at most 256" in said and "1 of 60" in said
    assert "--max-length" in said and "--skip-bad-rows" in said


def test_a_limit_beyond_what_the_model_takes_is_refused(refused, tmp_path):
    file = write_csv(tmp_path / "rows.csv", cases())
    assert "--max-length: 5,000 tokens are more than this model takes; expected at most 1,024" in refused(
        file, "--max-length", 5000)


def test_windows_1252_is_recognised_and_not_guessed_at(refused, tmp_path):
    rows = cases()
    rows[2]["text"] = "der Reißverschluss klemmt"
    said = refused(write_csv(tmp_path / "rows.csv", rows, "cp1252"))
    assert "rows.csv, line 4, byte 8: 0xDF is not UTF-8" in said and "Windows-1252" in said and "iconv" in said


def test_nul_bytes_are_named_by_line_and_character(refused, tmp_path):
    file = write_csv(tmp_path / "rows.csv", cases())
    file.write_bytes(file.read_bytes().replace(b"Monday", b"Mon\0day", 1))
    assert "holds a NUL byte at character" in refused(file)


def test_a_label_in_the_test_file_that_was_never_learnt_is_named_by_its_line(refused, tmp_path):
    file, test = write_csv(tmp_path / "rows.csv", cases()), write_csv(tmp_path / "t.csv", [
        {"text": "a boot", "label": "boots"}, {"text": "a stove", "label": "stoves"}])
    assert "t.csv, line 3: the label 'stoves' is none of" in refused(file, "--test", test)


def test_a_test_file_that_repeats_the_training_rows_is_refused(refused, tmp_path):
    file = write_csv(tmp_path / "rows.csv", cases())
    assert "test rows stand in the training rows too" in refused(file, "--test", file)


def test_a_group_column_with_a_gap_is_named_by_its_line(refused, tmp_path):
    rows = [{**row, "customer": f"c{i % 20}"} for i, row in enumerate(cases())]
    rows[4]["customer"] = ""
    file = write_csv(tmp_path / "rows.csv", rows)
    assert "rows.csv, line 6: the row has no customer" in refused(file, "--group", "customer")
    assert "there is no column 'client' to group by" in refused(file, "--group", "client")


def test_columns_and_labels_of_a_wrong_kind_are_refused_with_their_place(refused, tmp_path):
    (tmp_path / "twice.csv").write_text("text,label,text\na,b,c\n")
    assert "the column 'text' is there 2 times" in refused(tmp_path / "twice.csv")
    nested = write_jsonl(tmp_path / "nested.jsonl", [{"text": {"body": "a"}, "label": "b"}])
    assert "nested.jsonl, line 1: text is an object, not text" in refused(nested)
    mixed = write_jsonl(tmp_path / "mixed.jsonl", [*cases(3), {"text": 5, "label": "boots"}])
    assert "mixed.jsonl, line 4: text holds a whole number" in refused(mixed)
    floats = write_jsonl(tmp_path / "floats.jsonl", [{**row, "label": 0.5} for row in cases(4)])
    assert "floats.jsonl, line 1: label is a number, not text" in refused(floats)


def test_ten_thousand_labels_are_refused_with_a_way_out(refused, tmp_path):
    rows = [{"text": f"ticket {i}", "label": f"l{i // 2}"} for i in range(20_000)]
    said = refused(write_csv(tmp_path / "rows.csv", rows))
    assert "more than 50 different labels in 20,000 rows" in said and "free text" in said


def test_a_text_of_a_megabyte_is_named_by_its_line_and_not_cut(refused, tmp_path):
    rows = cases()
    rows[8]["text"], rows[9]["text"] = "snow " * 2**18, "x"
    said = refused(write_csv(tmp_path / "rows.csv", rows))
    assert "rows.csv, line 10: prompt and completion have" in said and "1 of 60" in said


# -- the model -------------------------------------------------------------------------------------------------------


def test_a_model_folder_without_a_tokenizer_is_refused(refused, tmp_path):
    shutil.copytree(COURSE / "data/tiny-base", tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    said = refused(write_csv(tmp_path / "rows.csv", cases()), "--model", tmp_path / "bare")
    assert "bare: no tokenizer" in said and "save_pretrained" in said


def test_a_model_whose_tokenizer_has_no_chat_template_is_refused(refused, tmp_path):
    shutil.copytree(COURSE / "data/tiny-base", tmp_path / "plain", ignore=shutil.ignore_patterns("chat_template*"))
    said = refused(write_csv(tmp_path / "rows.csv", cases()), "--model", tmp_path / "plain")
    assert "plain: the tokenizer has no chat template" in said and "instruction-tuned" in said
    assert "rows.csv" not in said and "--skip-bad-rows" not in said


def test_a_damaged_download_is_refused(refused, tmp_path, monkeypatch):
    home = tmp_path / "cache/SmolLM2-135M-Instruct"
    shutil.copytree(COURSE / "data/tiny-base", home)
    weights = home / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    said = refused(write_csv(tmp_path / "rows.csv", cases()), "--model", "small")
    assert "model.safetensors: the weights are damaged" in said and "Fetch" in said


def test_a_model_that_was_not_fetched_yet_is_named_with_the_command_that_fetches_it(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    assert "labkit fetch small" in refused(write_csv(tmp_path / "rows.csv", cases()), "--model", "small")


# -- the disk --------------------------------------------------------------------------------------------------------


def test_an_output_folder_that_cannot_be_made_is_refused(refused, tmp_path):
    file = write_csv(tmp_path / "rows.csv", cases())
    said = refused(file, "--out", file / "run")
    why = "" if sys.platform == "win32" else "Not a directory)"  # Windows has other words
    assert f"{Path('rows.csv') / 'run'}: cannot write here ({why}" in said and "--out" in said


def test_a_result_that_is_there_already_is_not_written_over(refused, tmp_path):
    file = write_csv(tmp_path / "rows.csv", cases())
    (tmp_path / "old").mkdir()
    (tmp_path / "old/run.json").write_text("{}")
    assert "there is a result here already" in refused(file, "--out", tmp_path / "old")
    assert (tmp_path / "old/run.json").read_text() == "{}"


@pytest.fixture
def narrow(tmp_path):
    """A place with room for one checkpoint only, and a call that widens it: a tmpfs, else a limit on a file's size."""
    if sys.platform == "win32":
        pytest.skip("Windows has neither a tmpfs nor a limit on a file's size")
    place = tmp_path / "narrow"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", str(place)]
    if sys.platform == "linux" and os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        yield place, {}, lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        subprocess.run(["umount", str(place)], check=True)
    else:
        import resource

        most = (600_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        yield place, {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, most)}, lambda: None


def test_a_disk_that_fills_up_in_mid_training_is_told_and_the_training_goes_on_when_there_is_room(narrow, tmp_path):
    place, limit, widen = narrow
    file = write_csv(tmp_path / "rows.csv", cases())
    words = ["finetune", file, "--out", place / "run", "--steps", STEPS, "--batch-size", 4]
    first = labkit(*words, cwd=tmp_path, **limit)
    out, err = first.communicate()
    last = err.splitlines()[-1]
    assert (first.returncode, out) == (2, "") and "Traceback" not in err, err
    assert "the disk became full, or the file too large for it. Free some space" in last
    widen()
    again = labkit(*words, *(["--resume"] if "resume goes on" in last else []), cwd=tmp_path)
    out, err = again.communicate()
    assert again.returncode == 0 and "tuned" in out, err
    if not limit:  # the file size limit already stops the first checkpoint
        assert "going on after step 25" in err


def test_a_path_with_spaces_and_other_letters_works(odd_path):
    folder, out, err = odd_path
    assert "tuned" in out and f"labkit chat {folder}" in out
    assert (folder / "report.md").read_text(encoding="utf-8").startswith("# Fine-tuning on meine Fälle.csv")


@pytest.fixture(scope="module")
def odd_path(tmp_path_factory) -> tuple[Path, str, str]:
    """A whole job, from a file with BOM in a folder of spaces and letters beyond ASCII."""
    folder = tmp_path_factory.mktemp("Grüße aus Łódź 日本")
    file = write_csv(folder / "meine Fälle.csv", cases(), "utf-8-sig")
    done = labkit("finetune", file, "--out", folder / "ein Lauf", "--steps", STEPS, "--batch-size", 4, cwd=folder)
    out, err = done.communicate()
    assert done.returncode == 0, err
    return folder / "ein Lauf", out, err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to a whole console, this test with it")
def test_ctrl_c_keeps_a_checkpoint_and_resume_ends_where_an_undisturbed_training_does(odd_path, tmp_path):
    file, run = write_csv(tmp_path / "rows.csv", cases(), "utf-8-sig"), tmp_path / "run"
    words = ["finetune", file, "--out", run, "--steps", STEPS, "--batch-size", 4]
    first = labkit(*words, cwd=tmp_path)
    for line in first.stderr:
        if line.startswith("step 6 "):
            first.send_signal(signal.SIGINT)
            break
    out, err = first.communicate()
    assert (first.returncode, out) == (130, "") and "Traceback" not in err, err
    [checkpoint] = (run / "checkpoints").iterdir()
    said = err.splitlines()[-1]
    assert str(checkpoint) in said and "--resume` goes on from there" in said

    again = labkit(*words, "--resume", cwd=tmp_path)
    out, err = again.communicate()
    assert again.returncode == 0 and f"going on after step {checkpoint.name.split('-')[1]}" in err, err
    assert not (run / "checkpoints").exists() and json.loads((run / "run.json").read_text())["finished"]
    assert same_bytes(run, odd_path[0], "adapter/adapter_model.safetensors")


def same_bytes(one: Path, other: Path, name: str) -> bool:
    return (one / name).read_bytes() == (other / name).read_bytes()


def test_ctrl_c_before_the_training_is_told_too(monkeypatch, tmp_path, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("labkit.job.understand", stopped)
    assert main(["finetune", "rows.csv"]) == 130
    assert capsys.readouterr().err.strip() == (
        "labkit: Stopped before the first checkpoint: nothing was kept, and the same command begins anew.")
