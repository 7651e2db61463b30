"""The labs as a learner sees them: in a real JupyterLab, in a real browser, by mouse and keyboard."""

from __future__ import annotations

import re
import shutil

import browser
import pytest

from labkit import course

pytestmark = pytest.mark.browser


def test_lab_03_runs_whole_in_jupyterlab_and_its_explorer_answers_the_keyboard(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(course.COURSE / "notebooks" / "03_lora.ipynb", folder)
    with browser.jupyterlab(folder, tmp_path, LABKIT_STEPS="8") as address, browser.page() as page:
        browser.run_all(page, address, "03_lora.ipynb", seconds=300)
        assert page.locator(browser.ERRORS).all_inner_texts() == []
        outputs = page.locator(".jp-OutputArea-output")
        assert outputs.filter(has_text="not attempted yet").count() >= 8
        for image in page.locator(".widget-html img").all():  # JupyterLab itself drops the words of a plain picture
            assert image.get_attribute("alt"), "a picture without words for those who cannot see it"

        explorer = page.locator(".jp-OutputArea-output", has=page.locator(".widget-slider")).first
        said = explorer.locator('[role="status"]')
        assert said.inner_text().startswith("Loss curve") and "rank 16" not in said.inner_text()
        handle = explorer.locator(".noUi-handle").first
        handle.scroll_into_view_if_needed()
        handle.focus()
        page.keyboard.press("ArrowRight")
        explorer.locator('[role="status"]', has_text=re.compile("^Loss curve.*rank 16")).wait_for(timeout=60_000)

        page.evaluate("() => { window.jupyterapp.commands.execute('application:toggle-left-area'); }")
        for width in (1280, 800):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(500)
            assert browser.too_wide(page) == [], width
