"""The bench: measuring in turn, what it shows, and that no way and no lever teaches another lesson than the rest."""

from __future__ import annotations

import copy
import doctest
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from bench import __main__ as command
from bench import data, generate, gpu, report, score, start, train, turns
from bench.turns import Job, NotHere, Result, Way, absent, in_turn, profile

from labkit import models
from labkit.classroom import read_roster
from labkit.data import ticket_task
from labkit.data.encode import collate, encode, pack
from labkit.errors import LabError
from labkit.export import to_onnx
from labkit.profiles import COURSE

# -- measuring in turn ---------------------------------------------------------------------------------------------


def job(laps: dict[str, list], pairs=(), order: list | None = None, **more) -> Job:
    """A job whose ways give these figures, one a round; an exception among them is raised."""

    def run(name: str, left: list) -> dict:
        if order is not None:
            order.append(name)
        lap = left.pop(0)
        if isinstance(lap, Exception):
            raise lap
        return lap if isinstance(lap, dict) else {"rows/s": lap}

    ways = [Way(name, partial(run, name, list(values))) for name, values in laps.items()]
    return Job("fake", "rows", "rows/s", ways, list(pairs), **more)


def test_ways_take_turns():
    order = []
    in_turn(job({"a": [1, 1], "b": [1, 1], "c": [1, 1]}, order=order), 2)
    assert order == ["a", "b", "c", "a", "b", "c"]


def test_a_ratio_is_the_median_over_rounds_so_that_a_machine_that_slows_down_slows_both():
    """Rates of 30, 20, 3, 2, 1 against thirds of them, but once as fast: medians of rates alone would say 1.5."""
    result = in_turn(job({"new": [30, 20, 3, 2, 1], "old": [10, 20, 1, 2, 1 / 3]}, [("new", "old")]), 5)
    assert result.ratios("new", "old") == pytest.approx([3, 1, 3, 1, 3])
    [row] = report.ratios([result], 5).rows
    assert row["ratio"] == "3.00 (1.00-3.00)" and row["figures"] == "3 against 2 rows/s"


def test_where_less_is_better_half_the_seconds_are_twice_as_fast():
    result = in_turn(job({"new": [2], "old": [4]}, [("new", "old")], more=False), 1)
    assert result.ratios("new", "old") == [2]


def test_a_way_that_is_not_here_is_asked_once_and_named_with_the_reason():
    order = []
    result = in_turn(job({"a": [1, 2], "gone": [NotHere("no GPU")]}, [("a", "gone")], order), 2)
    assert order == ["a", "gone", "a"]
    [row] = report.ratios([result], 2).rows
    assert row["ratio"] == "not measured here" and row["figures"] == "no GPU."
    assert "not measured here: no GPU" in str(report.ways(result))


def test_a_way_that_goes_missing_half_way_leaves_no_half_of_a_measurement():
    result = in_turn(job({"a": [1, 2], "gone": [5, NotHere("the disk is full")]}, [("a", "gone")]), 2)
    assert "gone" not in result.laps and result.absent == {"gone": "the disk is full."}
    assert report.ratios([result], 2).rows[0]["ratio"] == "not measured here"


def test_a_way_that_breaks_is_not_passed_over():
    with pytest.raises(ZeroDivisionError):
        in_turn(job({"a": [1], "b": [ZeroDivisionError()]}), 1)


@pytest.mark.parametrize("laps, pairs, rounds, said", [
    ({"a": [1]}, [], 0, "rounds: 0"),
    ({"a": [1]}, [("a", "b")], 1, "no way is called b"),
])
def test_a_job_that_makes_no_sense_is_refused(laps, pairs, rounds, said):
    with pytest.raises(LabError, match=said):
        in_turn(job(laps, pairs), rounds)


def test_two_ways_of_one_name_are_refused():
    way = Way("a", dict)
    with pytest.raises(LabError, match="two ways have one name"):
        in_turn(Job("fake", "rows", "rows/s", [way, way]), 1)


def test_what_takes_half_an_hour_is_done_once_whatever_the_rounds():
    order = []
    in_turn(job({"a": [1, 1, 1]}, order=order, rounds=1), 3)
    in_turn(job({"b": [1, 1, 1]}, order=order, rounds=5), 3)
    assert order == ["a", "b", "b", "b"]


def test_a_profile_names_the_function_that_takes_the_time():
    def slow() -> dict:
        return {"rows/s": sum(i * i for i in range(30_000))}

    text = profile(Job("fake", "rows", "rows/s", [Way("a", slow), Way("b", absent("", "", "no GPU").ways[0].run)]))
    assert "rows: a" in text and "<genexpr>" in text and "not measured here: no GPU" in text
    assert len(text.partition("rows: b")[0].strip().splitlines()) <= 25


def test_a_profile_of_another_process_is_as_long_and_names_no_folder_of_the_machine():
    lines = start.profiled("import json, random, string, textwrap; json.loads('1')").splitlines()
    assert "function calls" in lines[0] and len(lines) <= 24
    assert not any(tempfile.gettempdir() in line for line in lines)


def test_the_examples_in_docstrings_hold():
    found = [doctest.testmod(module) for module in (turns, report)]
    assert all(each.attempted and not each.failed for each in found)


# -- what is shown -------------------------------------------------------------------------------------------------


def test_a_figure_without_which_the_first_says_too_little_stands_beside_it():
    laps = {"a": [{"rows/s": 9.0, "KL, nats": 0.03}], "b": [{"rows/s": 3.0, "KL, nats": 0.01}]}
    (row,) = report.ratios([in_turn(job(laps, [("a", "b")], beside="KL, nats"), 1)], 1).rows
    assert row["ratio"].startswith("3.00") and row["figures"] == "9 against 3 rows/s; KL: 0.03 against 0.01 nats"


def test_the_table_of_ways_has_medians_with_their_spread_and_words_as_they_are():
    laps = [{"rows/s": value, "said": "48 of 48"} for value in (1000, 3000, 2000)]
    assert report.ways(in_turn(job({"a": laps}), 3)).rows == [
        {"way": "a", "rows/s": "2,000 (1,000-3,000)", "said": "48 of 48"}]


@pytest.mark.parametrize("took, code", [([61, 59, 60], "kept"), ([61, 59, 61], "BROKEN")])
def test_a_limit_is_broken_by_a_median_above_it(took, code):
    laps = {"a": [{"rows/s": 1, "seconds": seconds} for seconds in took]}
    result = in_turn(job(laps, limits=[("a", "seconds", 60)]), 3)
    assert bool(result.broken()) == (code == "BROKEN")
    assert [row["ratio"] for row in report.ratios([result], 3).rows] == [code]


def test_a_limit_that_was_not_measured_is_not_kept():
    result = in_turn(job({"a": [NotHere("no disk")]}, limits=[("a", "seconds", 60)]), 1)
    assert result.broken() and report.ratios([result], 1).rows[0]["ratio"] == "not measured here"


def test_results_are_the_same_again_after_json():
    result = in_turn(job({"a": [1, 2], "b": [NotHere("no GPU")]}, [("a", "b")], limits=[("a", "rows/s", 3)]), 2)
    again = Result(**json.loads(json.dumps(result.facts())))
    assert str(report.ratios([again], 2)) == str(report.ratios([result], 2)) and not again.broken()


def test_the_picture_has_a_bar_for_what_was_measured_and_a_name_for_what_was_not():
    result = in_turn(job({"a": [4], "b": [2], "c": [NotHere("no GPU")]}, [("a", "b"), ("b", "a"), ("a", "c")]), 1)
    [axes] = report.picture([result], 1).axes
    assert sorted(bar.get_width() + 1 for bar in axes.patches) == pytest.approx([0.5, 2])
    assert sum("not measured here" in label.get_text() for label in axes.get_yticklabels()) == 1


def test_the_machine_is_named():
    named = report.machine()
    assert {"processor", "cores", "memory", "gpu", "torch", "trl"} <= set(named) and "" not in named.values()


# -- the command ---------------------------------------------------------------------------------------------------


def test_the_command_says_what_is_not_measured_here_and_leaves_json_and_a_picture(tmp_path):
    words = [sys.executable, "tests/bench", "--only", "gpu", "--rounds", "1", "--out", str(tmp_path), "--profile"]
    done = subprocess.run(words, cwd=COURSE, capture_output=True, text=True, env={**os.environ, **command.ON_CPU})
    assert done.returncode == 0, done.stderr
    assert "not measured here" in done.stdout and "PyTorch sees no GPU" in done.stdout and "torch: " in done.stdout
    facts = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert facts["ratios"][0]["ratio"] == "not measured here" and facts["machine"]["cores"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bench.json", "bench.png", "profile_gpu.txt"]


def test_the_command_ends_with_1_where_a_part_broke_off_or_a_limit_is_broken(tmp_path, monkeypatch, capsys):
    slow = in_turn(job({"a": [70]}, limits=[("a", "rows/s", 60)]), 1)
    for found, whole, code in (([slow], True, 1), ([], False, 1), ([], True, 0)):
        monkeypatch.setattr(command, "part", lambda *_, found=found, whole=whole: (found, whole))
        assert command.main(["--only", "data", "--out", str(tmp_path)]) == code
    assert "part data broke off" in capsys.readouterr().out


def test_a_part_that_breaks_off_is_told_from_one_that_ends(tmp_path):
    asked = command.read(["--out", str(tmp_path)])
    assert command.part("data", asked, ["--gguf"]) == ([], False)


@pytest.mark.parametrize("words, said", [
    (["--only", "train,nothing"], "--only: there is no 'nothing'; expected train, gpu"),
    (["--model", "huge"], "--model: there is no 'huge'; expected tiny, small"),
    (["--whole", "courses"], "--whole: there is no 'courses'; expected course, tests"),
    (["--rounds", "0"], "--rounds: 0"),
    (["--steps", "1"], "--steps: 1; expected 2 or more"),
    (["--rows", "10"], "--rows: 10; expected 1,000 or more"),
])
def test_an_option_that_is_none_is_named(words, said):
    with pytest.raises(LabError) as error:
        command.read(words)
    assert said in str(error.value)


# -- what is kept, and README's table of it ------------------------------------------------------------------------


def cards():
    sys.path.insert(0, str(COURSE / "data"))
    import make_cards

    return make_cards


def test_the_table_of_readme_is_what_the_bench_recorded_and_empty_where_nothing_was():
    text = (COURSE / "README.md").read_text(encoding="utf-8")
    assert cards().readme(text) == text, "python data/make_cards.py writes it anew"
    part = text.partition(cards().SPEED[0])[2].partition(cards().SPEED[1])[0]
    assert ("Machine: " in part) == report.RECORD.is_file() and (part == "\n") != report.RECORD.is_file()


def test_a_record_of_the_bench_becomes_the_table_with_the_machine_and_what_was_not_measured(tmp_path):
    laps = {"new": [4], "old": [2], "gone": [NotHere("no GPU")]}
    result = in_turn(job(laps, [("new", "old"), ("gone", "old")], limits=[("new", "rows/s", 3)]), 1)
    report.record(tmp_path / "bench.json", {"train": [result]}, 1)
    page = cards().readme("before\n{}\nold\n{}\nafter".format(*cards().SPEED), tmp_path / "bench.json")
    assert page.startswith("before\n") and page.endswith("\nafter") and "\nold\n" not in page
    assert "| training | rows | new | old | 2.00 (2.00-2.00) | 4 against 2 rows/s |" in page
    assert "| training | rows | new | at most 3 | BROKEN | 4 rows/s |" in page
    assert f"{report.machine()['cores']} cores of {report.machine()['processor']}" in page
    assert "Not recorded yet: training on a GPU, writing answers, scoring labels, data, starting." in page
    assert page.count("no GPU") == 1 and "Not measured there: training, rows: gone (no GPU)." in page
    with pytest.raises(ValueError, match="README lacks"):
        cards().readme("no place for it", tmp_path / "bench.json")


def test_a_part_that_is_recorded_again_leaves_the_others_as_they_were_and_one_that_broke_off_is_not_recorded(
        tmp_path, monkeypatch, capsys):
    file, out = tmp_path / "kept/bench.json", tmp_path / "out"
    results = {name: [in_turn(job({"a": [rate], "b": [1]}, [("a", "b")]), 1)]
               for name, rate in (("train", 2), ("data", 3), ("score", 4))}
    report.record(file, {"train": results["train"], "data": results["train"]}, 1)
    out.mkdir()
    (out / "profile_data.txt").write_text("a profile", encoding="utf-8")
    monkeypatch.setattr(command, "part", lambda name, *_: (results[name], name != "score"))
    words = ["--only", "data,score", "--rounds", "1", "--out", str(out), "--profile", "--record", str(file)]
    assert command.main(words) == 1 and "recorded in" in capsys.readouterr().out
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert {name: part["ratios"][0]["ratio"][:4] for name, part in kept.items()} == {"train": "2.00", "data": "3.00"}
    assert [path.name for path in sorted(file.parent.iterdir())] == ["bench.json", "bench_profile_data.txt"]
    assert command.read(["--record"]).record == report.RECORD and command.read([]).record is None


# -- the same lesson, with and without each lever ------------------------------------------------------------------

ROWS, STEPS = 6, 3
# Nats a counted token of held-out rows, after three steps that move them by far more: what sums in another order may
# differ by, and what bf16 may round.
EXACT, ROUNDED = 1e-4, 0.02


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """Three steps over the same six rows: no order of rows and no share of packs can make another batch."""
    base, tokenizer = models.load("tiny")
    task = ticket_task("tone")
    rows = encode(task.train.shuffle(seed=1).select(range(ROWS)), tokenizer)
    packs = pack(rows, 256)
    assert 1 < len(packs) < ROWS, "packs hold several rows, and there are several packs"
    kept = {"packs": (packs, len(packs)), "TRL's packs": (1024, 1)}
    held = encode(task.validation.select(range(4)), tokenizer)
    return train.Lesson(partial(copy.deepcopy, base), tokenizer, rows, held, STEPS, ROWS, 256, 5e-3, 4,
                        tmp_path_factory.mktemp("lesson"), guard=False, kept=kept)


@pytest.fixture(scope="module")
def bare(lesson) -> dict:
    """The lesson with no lever."""
    return train.ours(lesson, "no lever", ())


def test_the_lesson_moves_the_loss_by_far_more_than_any_tolerance(lesson, bare):
    before = train.held_loss(lesson, train.trainable(lesson.base()))
    assert abs(before - bare["loss at the end"]) > 5 * ROUNDED


@pytest.mark.parametrize("lever", train.LEVERS)
def test_a_lever_changes_no_result(lesson, bare, lever):
    found = train.ours(lesson, lever, (lever,))
    tolerance = ROUNDED if lever in train.LOW else EXACT
    assert found["loss at the end"] == pytest.approx(bare["loss at the end"], abs=tolerance)
    assert found["counted tokens"] == bare["counted tokens"] and found["steps"] == STEPS


def test_rows_that_see_their_neighbours_in_a_pack_are_beyond_the_tolerance(lesson, bare, monkeypatch):
    monkeypatch.setattr(train, "collate_packed", collate)  # a mask of padding alone
    loss = train.ours(lesson, "packs without their mask", ("packs",))["loss at the end"]
    assert abs(loss - bare["loss at the end"]) > EXACT


def test_a_processor_without_bf16_is_not_asked_to_imitate_it(lesson, monkeypatch):
    monkeypatch.setattr(train.profiles, "bf16", lambda: False)
    ways = train.levers(lesson)
    assert list(ways) == ["no lever", *train.LEVERS, "all levers (4)"]
    with pytest.raises(NotHere, match="imitate bfloat16"):
        ways["bf16"]()
    with pytest.raises(NotHere, match="imitate bfloat16"):
        ways["kernels"]()


def test_a_lever_that_is_none_is_refused(lesson):
    with pytest.raises(LabError, match="there is no lever magic"):
        train.ours(lesson, "magic", ("magic",))


@pytest.mark.parametrize("way", [
    partial(train.plain, name="plain Trainer"),
    partial(train.trl, name="TRL", bf16=False),
    partial(train.trl, name="TRL, packing", bf16=False, packing=True),
], ids=lambda way: way.keywords["name"])
def test_what_others_use_gives_the_same_lesson(lesson, bare, way):
    found = way(lesson)
    assert found["loss at the end"] == pytest.approx(bare["loss at the end"], abs=EXACT)
    assert found["counted tokens"] == bare["counted tokens"] and found["steps"] == STEPS


def test_trl_that_is_not_installed_is_named_with_what_brings_it(lesson, monkeypatch):
    monkeypatch.setattr(train, "here", lambda module: False)
    with pytest.raises(NotHere, match="trl is not installed"):
        train.trl(lesson, "TRL")


def test_packs_are_as_long_as_they_can_be_and_shared_out_evenly():
    count = {10: 9, 11: 8, 12: 7, 13: 6, 14: 5}.get
    assert train.fitting(count, 4, 10, 14) == (11, 2) and train.fitting(count, 3, 10, 14) == (13, 2)
    with pytest.raises(NotHere, match="no packs of 12 to 14 tokens can be shared out over 4 steps"):
        train.fitting(count, 4, 12, 14)


# -- the other parts, as far as they go here -----------------------------------------------------------------------

SMALLER = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
               vocab_size=8192)


@pytest.mark.parametrize("name, millions", [("Qwen2.5-0.5B", 494), ("Llama-3.2-1B", 1236)])
def test_the_architectures_for_a_gpu_have_as_many_parameters_as_those_they_are_named_for(name, millions):
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(gpu.config(name))
    assert round(models.count_parameters(model).total / 1e6) == millions


@pytest.mark.parametrize("name, quantize", [("Qwen2.5-0.5B", None), ("Llama-3.2-1B", "nf4")])
def test_the_code_for_a_gpu_runs_on_a_cpu_when_the_model_is_small(tmp_path, name, quantize):
    folder = gpu.written(name, tmp_path / "model", **SMALLER)
    ways = gpu.ways(gpu.lesson(folder, quantize, tmp_path, length=16, batch=2, steps=2))
    for way in ("finetune", "plain Trainer"):
        assert ways[way]()["read tokens"] == 2 * 2 * 16


def test_a_call_a_label_gives_the_answers_of_classify():
    made = score.job("tiny", 4)
    result = in_turn(made, 1)
    assert {lap["same answers"] for [lap] in result.laps.values()} == {"4 of 4"}


def test_an_exported_model_reads_as_many_bytes_a_token_as_its_source(tmp_path):
    base, tokenizer = models.load("tiny")
    onnx = to_onnx("tiny", "fp32", out=tmp_path / "onnx")
    assert generate.onnx_bytes(onnx.folder) == pytest.approx(generate.torch_bytes(base), rel=0.05)
    ids = generate.texts(tokenizer, "tone")[:1]
    way = generate.contender("ONNX", lambda: 10.0, onnx.logits, 10**6, partial(generate.torch_logits, base), ids)
    found = way.run()
    assert found["KL from fp32, nats"] < 1e-4 and 0 < found["share of bandwidth"] < 1


def test_the_compiled_step_says_what_the_model_says():
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_config(gpu.config("Llama-3.2-1B", **SMALLER)).eval()
    ids = [[5, 700, 6, 8000, 7, 5]]
    way = generate.compiled(base, None, partial(generate.torch_logits, base), ids, backend="eager")
    found = way.run()
    assert found["KL from fp32, nats"] < 1e-6 and found[generate.FIGURE] > 0
    assert base.generation_config.cache_implementation is None  # the model that the others are measured with


def test_without_a_compiler_the_table_says_so(monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def no_compiler(model):
        raise TorchDynamoException("No working C++ compiler found\nand much more")

    monkeypatch.setattr(generate, "decode", no_compiler)
    with pytest.raises(NotHere, match="torch.compile does not work on this machine .No working C.. compiler found"):
        generate.compiled(*models.load("tiny"), None, []).run()


@pytest.mark.parametrize("model, said", [("tiny", "no GGUF of this model"), ("small", "not installed|with --gguf")])
def test_llama_cpp_says_what_it_lacks(model, said):
    with pytest.raises(NotHere, match=said):
        generate.llama(model, None, None, []).run()


def test_rows_of_a_seed_are_the_same_bytes_and_go_all_the_way(tmp_path, monkeypatch):
    for name in ("a", "b"):
        data.write_rows(tmp_path / name, 30)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    monkeypatch.setattr(data, "LEAST", 100)
    made = data.growth(tmp_path, 999)
    assert [way.name for way in made.ways] == ["100 rows"] and not made.limits
    [lap] = in_turn(made, 1).laps["100 rows"]
    assert {"rows/s", "read, s", "inspect, s", "split, s", "encode, s", "pack, s", "all, s", "memory, MB"} <= set(lap)
    assert lap["all, s"] == pytest.approx(100 / lap["rows/s"])


def test_a_kernel_is_timed_until_its_cell_says_that_it_is_done():
    found = start.kernel(f"print({start.DONE!r})")
    assert 0 < found["kernel ready, s"] < found["seconds"]
    with pytest.raises(LabError, match="without a trained step .no such thing"):
        start.kernel("raise ValueError('no such thing')")


def test_a_class_is_generated_and_shown_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "LEARNERS", 3)
    made = start.class_job(tmp_path / "class")
    assert made.limits == [("labkit progress --class", "seconds", 10)]
    [lap] = in_turn(made, 1).laps["labkit progress --class"]
    assert lap["seconds"] > 0
    roster = read_roster(tmp_path / "class")
    assert len(roster.learners) == 3 and not roster.skipped
    assert any(roster.stopped(exercise.name) for exercise in roster.exercises)


def test_a_command_that_fails_ends_the_bench_with_what_it_said():
    with pytest.raises(LabError, match="ended with 3: no room"):
        start.command([sys.executable, "-c", "print('no room'); raise SystemExit(3)"])


def test_the_whole_course_and_its_tests_are_run_once_and_only_where_they_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "LEARNERS", 1)
    options = command.Options(("tiny",), "tone", data.ROWS, tmp_path)
    usual, course, both = ([made.what for made in start.jobs(replace(options, whole=whole))]
                           for whole in ((), ("course",), start.WHOLE))
    assert course == [*usual, "the whole course, once"]
    assert both == [*course, "the whole of the tests, once"]
    assert [made.rounds for made in start.whole_jobs()] == [1, 1]
    assert [made.limits[0][2] for made in start.whole_jobs()] == [12 * 60, 30 * 60]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert in_turn(list(start.whole_jobs())[1], 1).absent == {"make test": "there is no make."}


@pytest.mark.parametrize("code", [start.FINETUNE, start.PLAIN])
def test_the_first_cells_are_python(code):
    compile(code, "cell", "exec")


def test_make_bench_is_this_bench():
    assert "$(PY) tests/bench $(BENCH)" in (COURSE / "Makefile").read_text(encoding="utf-8")
    assert Path(command.__file__).parent == COURSE / "tests/bench"
