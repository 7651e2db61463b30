"""Widgets: what they show without a browser, and that their buttons do what they say."""

import base64
import json
import sys

import nbformat
import pytest
from IPython.core.formatters import DisplayFormatter

from labkit import models, profiles
from labkit.errors import LabError
from labkit.evaluation import generate
from labkit.evaluation.rating import Ratings
from labkit.exercises import atlas
from labkit.memory import GPUS
from labkit.tables import table
from labkit.widgets.memory import WillItFit
from labkit.widgets.profile import ProfileSwitch
from labkit.widgets.rating import RatingBox
from labkit.widgets.shown import LONGEST
from labkit.widgets.sidebyside import SideBySide
from labkit.widgets.tokens import COUNTED, MOST, TokenView


def shout(text):
    if not text:
        raise LabError("there is nothing to answer", todo="Write something")
    return text.upper()


def test_every_model_answers_the_same_text_and_an_error_stands_in_its_place():
    both = SideBySide({"loud": shout, "twice": lambda text: text * 2}, "a <b>")
    assert both.answers == {"loud": "A <B>", "twice": "a <b>a <b>"}
    assert "a &lt;b&gt;" in both._repr_mimebundle_()["text/html"]
    assert "nothing to answer" in both.ask("")["loud"]


def test_pressing_ask_answers_what_stands_in_the_box():
    both = SideBySide({"loud": shout}, "first")
    box, button, answers = both.widget().children
    box.value = "second"
    button.click()
    assert both.answers == {"loud": "SECOND"} and "SECOND" in answers.value


def test_the_tokens_of_a_row_are_shown_with_those_that_count_marked_and_counted():
    tokenizer = models.load("tiny")[1]
    asked, said = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Is 1 < 2?", " Yes."))
    view = TokenView(tokenizer, {"input_ids": asked + said, "labels": [-100] * len(asked) + said})
    page = view._repr_html_()
    assert page.count("<span") == len(asked) + len(said) and page.count(COUNTED) == len(said)
    assert "&lt;" in page and "Is 1 < 2?" not in page
    assert view.caption == f"{len(said)} of {len(asked) + len(said)} tokens count in the loss"
    assert str(view).startswith("Is 1 < 2?[") and view.caption in str(view)


def test_the_profile_switch_changes_the_profile_of_this_kernel(monkeypatch):
    monkeypatch.setattr(profiles, "_chosen", None)
    switch = ProfileSwitch("Because.")
    buttons, said = switch.widget().children
    assert buttons.value == profiles.current().name
    buttons.value = "small"
    assert profiles.current().name == "small" and "SmolLM2" in said.value and "Because." in said.value


def lab(folder, name, text):
    cells = [{"cell_type": "markdown", "source": text.splitlines(keepends=True)}]
    (folder / f"{name}.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")


def test_the_map_has_every_lab_with_its_title_minutes_and_passed_exercises(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_PROGRESS", str(tmp_path / "progress.json"))
    lab(tmp_path, "03_lora", "# 03 · LoRA: train a twentieth\n**You will** write a layer,\nand more.\n\n*60 minutes.*")
    lab(tmp_path, "98_none", "# 98 · Nothing yet")
    rows = atlas.course_map(tmp_path).rows
    assert [row["lab"] for row in rows] == ["03", "98"]
    assert rows[0]["title"] == "LoRA: train a twentieth" and rows[0]["minutes"] == 60
    assert rows[0]["exercises passed"].startswith("0 of ") and rows[1]["exercises passed"] == "-"
    assert atlas.labs(tmp_path)[0].goal == "write a layer, and more."


@pytest.mark.parametrize("name", [lab.name for lab in atlas.labs()])
def test_every_lab_says_its_title_goal_and_minutes_in_its_first_cell(name):
    [found] = [lab for lab in atlas.labs() if lab.name == name]
    assert found.title != name and found.goal and found.minutes >= 15


def test_will_it_fit_says_and_draws_the_same_without_a_browser():
    fit = WillItFit("Qwen/Qwen2.5-1.5B-Instruct", "full", batch=8, length=512, gpu="T4")
    data, metadata = fit._repr_mimebundle_()
    assert data["text/plain"] == metadata["image/png"]["alt"] == fit.said()
    assert "T4: " in fit.said() and "does not fit" in fit.said() and data["image/png"].startswith(b"\x89PNG")
    assert [row["GPU"] for row in fit.table().rows] == list(GPUS)


def test_every_menu_has_a_label_and_moving_one_changes_sentence_and_picture():
    fit = WillItFit("Qwen/Qwen2.5-1.5B-Instruct", "lora", batch=1, length=128)
    *menus, said, picture = fit.widget().children
    assert all(menu.description for menu in menus)
    by = {menu.description: menu for menu in menus}
    before = picture.value
    by["model"].value = "meta-llama/Llama-3.1-8B-Instruct"
    by["method"].value = "full"
    by["GPU"].value = "H100"
    assert "H100" in said.value and "does not fit" in said.value and picture.value != before
    assert fit.settings["model"] == "meta-llama/Llama-3.1-8B-Instruct" and fit.said().split(".")[0] in picture.value


def test_a_gpu_without_figures_is_refused():
    with pytest.raises(LabError, match="expected T4, L4"):
        WillItFit(gpu="K80")


NASTY = "<script>alert(1)</script> costs $5 & "


@pytest.fixture
def every(tmp_path):
    """One of each widget that needs no training, with a text in it that would like to be HTML."""
    tokenizer = models.load("tiny")[1]
    ids = tokenizer(NASTY, add_special_tokens=False)["input_ids"]
    replies = {"one": [NASTY], "two": ["Thank you."]}
    return {
        "side by side": SideBySide({NASTY: lambda text: f"{text}, heard"}, NASTY),
        "tokens": TokenView(tokenizer, {"input_ids": ids, "labels": ids}),
        "profile": ProfileSwitch(NASTY),
        "memory": WillItFit(),
        "rating": RatingBox(Ratings([NASTY], replies, NASTY, tmp_path / "ratings.jsonl")),
    }


def outputs(widgets) -> list:
    """What a notebook file keeps of each."""
    def kept(data) -> dict:
        return {kind: base64.b64encode(part).decode() if isinstance(part, bytes) else part
                for kind, part in data.items()}

    formatted = (DisplayFormatter().format(widget) for widget in widgets.values())
    return [nbformat.v4.new_output("display_data", kept(data), metadata=more) for data, more in formatted]


def test_without_ipywidgets_each_widget_leaves_a_text_and_a_picture_or_a_table(every, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # as where it is not installed
    left = {name: set(output.data) for name, output in zip(every, outputs(every), strict=True)}
    assert left == {"side by side": {"text/plain", "text/html"}, "tokens": {"text/plain", "text/html"},
                    "profile": {"text/plain", "text/html"}, "memory": {"text/plain", "image/png"},
                    "rating": {"text/plain", "text/html"}}


def test_nbconvert_shows_something_still_of_each_widget_and_no_markup_out_of_the_data(every):
    exporter = pytest.importorskip("nbconvert").HTMLExporter(template_name="basic")
    for name, output in zip(every, outputs(every), strict=True):
        cell = nbformat.v4.new_code_cell(execution_count=1, outputs=[output])
        page, _ = exporter.from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
        told = {"memory": "<img alt=", "profile": "steps of 16 rows", "tokens": "tokens count"}
        assert told.get(name, "&lt;script&gt;") in page and "<script>alert" not in page, name
        assert "widget-view" not in page, name


def test_of_a_text_of_a_megabyte_both_ends_are_shown_and_the_rest_is_counted(tmp_path):
    long = "A" + "x" * 1_000_000 + "Z"
    replies = {"one": [long], "two": ["short"]}
    for widget in (SideBySide({"echo": str}, long), RatingBox(Ratings([long], replies, "Ann", tmp_path / "file"))):
        page = widget._repr_mimebundle_()["text/html"]
        assert f"{1_000_002 - LONGEST:,} characters are not shown" in page and len(page) < 3 * LONGEST
        assert page.count("Ax") == page.count("xZ") >= 1


def test_of_a_row_of_very_many_tokens_both_ends_are_shown_and_all_are_counted():
    tokenizer = models.load("tiny")[1]
    ids = tokenizer(" yes" * (3 * MOST), add_special_tokens=False)["input_ids"]
    view = TokenView(tokenizer, {"input_ids": ids, "labels": [-100, *ids[1:]]})
    assert view._repr_html_().count("<span") == MOST + 1
    assert f"({len(ids) - MOST:,} tokens are not shown)" in str(view)
    assert view.caption == f"{len(ids) - 1} of {len(ids)} tokens count in the loss"


def test_a_text_with_dollars_is_no_formula_in_a_table():
    assert 'class="mathjax_ignore tex2jax_ignore"' in table(price="$5 and $6")._repr_html_()
    assert "class" not in table(price="5 and 6")._repr_html_()


def test_a_prompt_that_fills_the_context_is_refused_and_not_read():
    model, tokenizer = models.load("tiny")
    with pytest.raises(LabError, match="prompt 2 of 2: .*fewer than 1,024"):
        generate(model, tokenizer, ["short", "one more word " * 1000])
