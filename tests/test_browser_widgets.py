"""Every widget in a real JupyterLab, by mouse and keyboard, in both themes; and texts that would like to be HTML."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from textwrap import dedent

import browser
import nbformat
import pytest

from labkit import course

pytestmark = pytest.mark.browser

EVIL = ('<script>window.flag = 1</script><img src="x" onerror="window.flag = 1"> <a href="javascript:window.flag=1">a '
        'link</a> [a link](javascript:window.flag=1) $\\href{javascript:window.flag=1}{x}$')
SETUP = f"""
    import sys

    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from exported import random_adapter
    from IPython.display import HTML

    from labkit import data, finetune, models, monitoring, runs
    from labkit.adapters import Bank
    from labkit.data.encode import encode

    evil = {EVIL!r}
    long = evil + "x" * 1_000_000
    letters = data.read("tickets/test")["text"][:4]
    tuned = {{name: random_adapter(runs(name), 4, seed) for seed, name in enumerate(("tone", "summary"))}}
    base, tokenizer = models.load("tiny")
    bank = Bank(base)
    for name, folder in tuned.items():
        bank.add(name, folder)
"""
CELLS = {  # name to source; each shows one widget
    "set-up": SETUP,
    "side by side": """
        from labkit.widgets.sidebyside import SideBySide

        SideBySide({"as it is": str, "loud": str.upper}, letters[0], label="a letter to Tatra Trail")
    """,
    "bank": """
        from labkit.widgets.bank import bank_answers

        bank_answers(bank, tokenizer, letters[1], max_new_tokens=12)
    """,
    "memory": """
        from labkit.widgets.memory import WillItFit

        WillItFit()
    """,
    "profile": """
        from labkit.widgets.profile import ProfileSwitch

        ProfileSwitch("Two cores and no GPU: tiny suits this machine.")
    """,
    "tokens": """
        from datasets import Dataset

        from labkit.widgets.tokens import TokenView

        def row(asked, said="joy"):
            return encode(Dataset.from_dict({"prompt": [asked], "completion": [said]}), tokenizer)[0]

        TokenView(tokenizer, row(letters[2]))
    """,
    "live": """
        run = finetune(data.ticket_task("tone").train, steps=12, batch_size=8, out=runs("live"),
                       callbacks=[monitoring.live(every=0.1)])
    """,
    "chat": """
        from labkit.export import to_onnx
        from labkit.widgets.serve import AdapterChat

        many = to_onnx("tiny", "fp32", adapters=tuned, out=runs("onnx"))
        AdapterChat(many, letters[3], tokens=12)
    """,
    "rank": """
        from labkit.search import trial
        from labkit.widgets.rank import RankExplorer

        asked = data.ticket_examples(data.read("tickets/train").select(range(8)), "tone")
        fast = {"steps": 2, "batch_size": 2}
        labels = sorted(set(asked["label"]))
        RankExplorer(lambda rank, alpha: trial(asked, asked, labels, rank=rank, alpha=alpha, **fast),
                     start=((1, 2.0), (8, 2.0)))
    """,
    "rating": """
        from labkit import data, runs
        from labkit.evaluation.rating import Ratings
        from labkit.widgets.rating import RatingBox

        letters = data.read("tickets/test")["text"][:4]
        replies = {"first": ["Thank you, we look into it."] * 4, "second": ["Please send it back to us."] * 4}
        RatingBox(Ratings(letters, replies, rater="you", file=runs("ratings.jsonl")))
    """,
    "canary": """HTML('<img src="x" onerror="window.canary = 1">')""",  # that a handler would run here if one got in
    "evil side by side": "SideBySide({evil: str, 'long': lambda text: long}, evil)",
    "evil bank": "bank_answers(bank, tokenizer, long)",
    "evil rating": """
        replies = {"one": [evil, long], "two": [long, evil]}
        RatingBox(Ratings([evil, long], replies, rater=evil, file=runs("evil.jsonl")))
    """,
    "evil chat": "AdapterChat(many, long)",
    "evil profile": "ProfileSwitch(evil)",
    "evil tokens": "TokenView(tokenizer, row(evil, evil))",
    "long tokens": "TokenView(tokenizer, row(long, evil))",
    "evil table": """
        from labkit.tables import Table

        Table([{evil: evil, "long": long, "number": 1}], caption=evil)
    """,
    "evil report": """
        from labkit.data import inspect

        inspect(Dataset.from_dict({"text": [evil, long, evil, ""], "label": [evil, long, "b", "b"]}))
    """,
    "evil map": """
        import json
        from pathlib import Path

        from labkit import check, course_map, progress

        cell = {"cell_type": "markdown", "source": f"# 00 · {evil}"}
        Path("00_evil.ipynb").write_text(json.dumps({"cells": [cell]}))
        check("accuracy", lambda said, truth: evil)
        progress("00")
        course_map(Path("."))
    """,
    "evil log": """
        from labkit.olive.command import Done

        Path("log.txt").write_text(long)
        Done(evil, 1.0, (evil,), {evil: 1}, Path("."), Path("log.txt"))
    """,
}


def write(folder: Path) -> None:
    """The notebook of all widgets, and lab 00 beside it."""
    cells = [nbformat.v4.new_code_cell(dedent(source).strip()) for source in CELLS.values()]
    kernel = {"kernelspec": course.KERNEL, "language_info": course.LANGUAGE}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "widgets.ipynb")
    shutil.copy(course.COURSE / "notebooks" / "00_start_here.ipynb", folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """JupyterLab on a machine that has fetched nothing; its address and its folder."""
    scratch = tmp_path_factory.mktemp("seat")
    folder = scratch / "notebooks"
    folder.mkdir()
    write(folder)
    settings = {"LABKIT_STEPS": "12", "LABKIT_CACHE": str(scratch / "cache"), "OMP_NUM_THREADS": "2"}
    with browser.jupyterlab(folder, scratch, **settings) as address, browser.page() as page:
        yield address, folder, page


@pytest.fixture(scope="module")
def page(server):
    """The page with every cell run."""
    address, _, page = server
    browser.run_all(page, address, "widgets.ipynb", seconds=240)
    browser.command(page, "application:toggle-left-area")
    page.set_default_timeout(120_000)
    return page


def cell(page, name: str):
    """A code cell, by its name in CELLS."""
    return page.locator(".jp-CodeCell").nth(list(CELLS).index(name))


def status(page, name: str, text: str) -> None:
    """Wait until the sentence that a widget says holds a text."""
    cell(page, name).locator('[role="status"]', has_text=re.compile(text, re.IGNORECASE)).wait_for()


def write_over(page, box, text: str) -> None:
    """What a learner does at a box: click into it, mark all, type."""
    box.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(text)


def pick_next(page, menu) -> None:
    """Choose the entry below by keyboard. A menu has to be opened for it: JupyterLab takes bare arrows for itself."""
    menu.focus()
    for key in ("Space", "ArrowDown", "Enter"):
        page.keyboard.press(key)


def test_every_cell_runs_and_everything_to_click_has_a_name(page):
    assert page.locator(browser.ERRORS).all_inner_texts() == []
    assert page.locator(browser.INPUTS).count() >= 30
    assert browser.nameless(page) == []


def test_side_by_side_answers_what_is_typed_and_the_button_keeps_the_focus(page):
    here = cell(page, "side by side")
    write_over(page, here.get_by_label("a letter to Tatra Trail"), "the stove is cold")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    status(page, "side by side", "the stove is cold[^$]*THE STOVE IS COLD")
    page.wait_for_function("() => document.activeElement.innerText === 'Ask'")


def test_the_bank_answers_a_new_ticket_with_the_base_and_each_adapter(page):
    here = cell(page, "bank")
    before = here.locator('[role="status"] > div').all_inner_texts()
    assert [text.split("\n")[0] for text in before] == ["base, asked for tone", "tone", "summary"]
    write_over(page, here.get_by_label("your ticket"), "My tent leaks, and nobody answers the telephone!")
    here.get_by_role("button", name="Ask").click()
    page.wait_for_function("([node, old]) => node.querySelector('[role=status]').innerText !== old",
                           arg=[here.element_handle(), "\n".join(before)])
    write_over(page, here.get_by_label("your ticket"), " ")
    here.get_by_role("button", name="Ask").click()
    status(page, "bank", "there is no ticket to answer")


def test_the_memory_calculator_says_and_draws_what_the_keyboard_chose(page):
    here = cell(page, "memory")
    before = here.locator("img").last.get_attribute("src")
    here.get_by_label("rows a batch").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("64")
    page.keyboard.press("Tab")
    status(page, "memory", "64 rows of 512 tokens")
    pick_next(page, here.get_by_label("GPU"))
    status(page, "memory", r"count\. L4:")
    here.get_by_label("checkpointing").focus()
    page.keyboard.press("Space")
    page.wait_for_function("([node, old]) => node.src !== old && node.alt.includes('64 rows')",
                           arg=[here.locator("img").last.element_handle(), before])


def test_the_profile_is_chosen_by_mouse_and_by_keyboard(page):
    here = cell(page, "profile")
    here.get_by_role("button", name="small").click()
    status(page, "profile", "^small: .*SmolLM2")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    status(page, "profile", "^tiny: tiny-base")


def test_tokens_that_count_are_underlined_and_counted(page):
    here = cell(page, "tokens")
    marked = [span for span in here.locator("span[style]").all()
              if "underline" in span.evaluate("node => getComputedStyle(node).textDecorationLine")]
    assert marked and "".join(span.inner_text() for span in marked).startswith("joy")
    assert here.get_by_text(f"{len(marked)} of ").count() == 1


def test_a_training_draws_while_it_runs_and_leaves_a_picture(page):
    here = cell(page, "live")
    here.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    drawing = here.locator('[role="img"][aria-label^="training: step"]', has=page.locator("polyline"))
    drawing.wait_for(timeout=120_000)
    assert "loss" in drawing.inner_text() and "step" in drawing.get_attribute("aria-label")
    here.locator("img").wait_for(timeout=120_000)


def test_the_rank_slider_is_moved_by_keyboard_and_the_words_go_with_it(page):
    here = cell(page, "rank")
    assert "rank 16" not in here.locator('[role="status"]').inner_text()
    here.locator(".noUi-handle").first.focus()
    page.keyboard.press("ArrowRight")
    status(page, "rank", "^Loss curve.*rank 16")


def test_the_chat_answers_through_the_adapter_that_the_keyboard_chose(page):
    here = cell(page, "chat")
    here.locator('[role="status"]').evaluate("old => { old.dataset.old = 1; }")  # two adapters may say the same
    pick_next(page, here.get_by_label("adapter"))
    assert here.get_by_label("adapter").input_value() == "tone"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_function("""node => {
        const said = node.querySelector('[role=status]');
        return !said.dataset.old && !['', '...'].includes(said.innerText);
    }""", arg=here.element_handle())
    page.wait_for_function("() => document.activeElement.innerText === 'Ask'")


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_every_text_is_legible_and_every_output_fits_the_page(page, theme):
    browser.wear(page, theme)
    faint, colours = browser.faint(page)
    assert faint == [] and colours >= 3
    for width in (1280, 800):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)
        assert browser.too_wide(page) == [], width
        shoot(page, f"{theme}-{width}")
    page.set_viewport_size({"width": 1280, "height": 900})


def shoot(page, name: str) -> None:
    """Pictures of all outputs to look at, where LABKIT_SHOTS names a folder."""
    if folder := os.environ.get("LABKIT_SHOTS"):
        for place, which in enumerate(CELLS):
            output = page.locator(".jp-CodeCell").nth(place).locator(".jp-Cell-outputArea")
            if output.count() and output.is_visible():
                output.screenshot(path=Path(folder) / f"{which.replace(' ', '-')}-{name}.png")


def test_a_text_that_tries_to_be_html_is_shown_as_it_is_and_does_nothing(page):
    outputs = ".jp-OutputArea-output"
    others = {"evil bank": "the prompt has", "evil chat": "the prompt has", "evil report": "Tags or entities of HTML"}
    for name in (name for name in CELLS if name.startswith("evil")):
        said = others.get(name, EVIL)
        assert cell(page, name).locator(outputs, has_text=said).count(), name
    assert page.locator(f'{outputs} a[href^="javascript"], {outputs} mjx-container').count() == 0
    assert page.evaluate("[window.canary, window.flag]") == [1, None]


def test_ratings_by_key_and_button_are_kept_when_the_kernel_restarts(page):
    here = cell(page, "rating")
    here.get_by_label("keys").click()
    for key, rated in (("a", 1), ("t", 2), ("Backspace", 1), ("b", 2)):
        page.keyboard.press(key)
        status(page, "rating", f"{rated} of 4 pairs rated by you")
    here.get_by_role("button", name="left").click()
    status(page, "rating", "3 of 4 pairs")
    here.get_by_role("button", name="undo").click()
    status(page, "rating", "2 of 4 pairs")

    here.locator(".cm-content").click()
    for key in ("Escape", "0", "0"):
        page.keyboard.press(key)
    page.locator(".jp-Dialog").wait_for()
    page.keyboard.press("Enter")
    page.locator("#jp-main-statusbar", has_text="(ipykernel) | Idle").wait_for()
    here.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    page.wait_for_function("node => node.querySelector('.jp-InputPrompt').innerText.includes('[1]')",
                           arg=here.element_handle())
    status(page, "rating", "2 of 4 pairs")


def reports(folder: Path) -> dict[str, Path]:
    """Every kind of report file, made of texts that would like to be HTML."""
    from datasets import Dataset

    from labkit import evaluation, guards
    from labkit.classroom.grading import Grade, Work
    from labkit.classroom.roster import Roster
    from labkit.data import inspect
    from labkit.evaluation.card import model_card
    from labkit.exercises.progress import EMPTY
    from labkit.exercises.registry import load_lab
    from labkit.intake import Intake
    from labkit.report import JobResult, write_report
    from labkit.tables import Table
    from labkit.training import Run

    roster = Roster({EVIL: {"accuracy": EMPTY | {"lab": "00", "attempts": 1, "last": EVIL}}}, load_lab("00"),
                    {EVIL: EVIL})
    found = {"roster": roster.page(folder / "roster.html")}
    found["grades"] = Grade(roster, [Work(EVIL, EVIL, EVIL, remarks=[EVIL])]).write(folder)[1]
    found["data"] = folder / "data.html"
    rows = Dataset.from_dict({"text": [EVIL, EVIL, ""], "label": [EVIL, "b", "b"]})
    found["data"].write_text(inspect(rows).page(EVIL), encoding="utf-8")

    run = Run(folder, {"model": "tiny", "method": "lora", "rows": 8, "batch_size": 8, "rank": 8}, [], 1.0, 1, 2,
              findings=[guards.Finding("no_leak", EVIL)])
    intake = Intake(EVIL, "", "label", (EVIL, "b"), EVIL + "{text}", {}, said=[EVIL],
                    left_out=[{"file": EVIL, "line": 1, "reason": EVIL}])
    settings = {"model": EVIL, "epochs": EVIL, "origin": EVIL, "sha256": "", "versions": {EVIL: EVIL}, "machine": {}}
    wrong = [{"text": EVIL, "truth": EVIL, "answer": EVIL}]
    found["report"] = write_report(JobResult(folder, run, intake, {}, Table([{"model": "base"}]), [EVIL], wrong,
                                             settings, 1.0), EVIL)
    scored = evaluation.Evaluation("classification", EVIL, {"accuracy": evaluation.accuracy([EVIL, "b"], ["b", "b"])},
                                   [0.0, 1.0], [EVIL, "b"], ["b", "b"], [EVIL, "b"], {"label": [EVIL, "b"]}, 1.0, 2)
    model_card(run, scored, out=folder)
    return found | {"card": folder / "README.md"}


def test_a_report_made_of_such_texts_shows_them_and_does_nothing(server):
    address, folder, page = server
    (folder / "reports").mkdir()
    for name, file in reports(folder / "reports").items():
        if file.suffix == ".html":
            page.goto(file.as_uri())
            inside = "body"
        else:
            page.goto(f"{address}?reset")
            page.locator(".jp-Launcher").wait_for()
            browser.command(page, "docmanager:open", path=f"reports/{file.name}", factory="Markdown Preview")
            inside = ".jp-RenderedMarkdown"
            page.locator(inside, has_text="window.flag").wait_for()
        assert "<script>window.flag = 1</script>" in page.locator(inside).inner_text(), name
        assert page.locator(f'{inside} :is(a, img):is([href^="javascript"], [src="x"])').count() == 0, name
        assert page.evaluate("window.flag") is None, name


def test_lab_00_runs_whole_says_what_is_wrong_gives_a_hint_and_moves_the_progress(server):
    address, _, page = server
    browser.run_all(page, address, "00_start_here.ipynb", seconds=300)
    codes = page.locator(".jp-CodeCell")
    doctor, profile, exercise, hint, course_map = (codes.filter(has_text=text).last for text in (
        "doctor.examine()", "ProfileSwitch(", 'check("accuracy", accuracy)', 'hint("accuracy")', "course_map()"))

    def says(cell, said: str) -> None:
        cell.locator(".jp-OutputArea", has_text=re.compile(said.replace(" ", r"\s*"))).wait_for(timeout=120_000)

    def run(cell, said: str) -> None:
        cell.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        says(cell, said)

    def answer(code: str) -> None:
        exercise.locator(".cm-line").nth(4).click()
        for key in ("End", "Shift+Home"):
            page.keyboard.press(key)
        page.keyboard.insert_text(code)

    assert page.locator(browser.ERRORS).all_inner_texts() == []
    says(doctor, "real model")
    says(profile, "tiny: tiny-base")
    for chosen, model in (("small", "SmolLM2"), ("tiny", "tiny-base")):
        profile.get_by_role("button", name=chosen).click()
        says(profile, f"{chosen}: .*{model}")
    says(exercise, "not attempted yet")
    says(hint, "hint 1 of 3: Compare the two lists place by place")
    says(course_map, "Start here: a warm start 15 0 of 1")
    answer("return sum(s == t for s, t in zip(said, truth))")
    run(exercise, "got 3: that is the number of right answers")
    run(hint, "hint 2 of 3")
    answer("return sum(s == t for s, t in zip(said, truth)) / len(truth)")
    run(exercise, "passed")
    run(course_map, "Start here: a warm start 15 1 of 1")
    assert page.locator(browser.ERRORS).all_inner_texts() == []
