"""A real JupyterLab in a real chromium, for the tests that look at a lab as a learner does."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit import course

SETTINGS = {  # every cell stands in the page, not only those in sight
    "notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
    "apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false", "checkForUpdates": False},
}
INPUTS = ".jp-OutputArea-output :is(input, textarea, select, button)"
ERRORS = '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'


@contextmanager
def jupyterlab(folder: Path, scratch: Path, **settings: str) -> Iterator[str]:
    """JupyterLab over a folder, as `make lab` opens it; gives the address of its front page."""
    for name, content in SETTINGS.items():
        file = scratch / "settings" / "@jupyterlab" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = course.kernel_environment(scratch, **course.OFFLINE | settings)
    env |= {"JUPYTERLAB_SETTINGS_DIR": str(scratch / "settings"), "JUPYTER_CONFIG_DIR": str(scratch / "config"),
            "JUPYTERLAB_WORKSPACES_DIR": str(scratch / "workspaces")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1",
               "--IdentityProvider.token=", "--expose-app-in-browser", f"--ServerApp.root_dir={folder}"]
    with (scratch / "jupyterlab.log").open("w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=2).read()
                break
            except OSError:
                time.sleep(0.25)
        yield f"{address}/lab"
    finally:
        server.terminate()
        server.wait(timeout=30)


@contextmanager
def page(width: int = 1280, height: int = 900) -> Iterator:
    """An empty page of the system's chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"] if _root() else [])
        try:
            yield browser.new_page(viewport={"width": width, "height": height})
        finally:
            browser.close()


def _root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def run_all(page, address: str, notebook: str, seconds: float) -> None:
    """Open a notebook and run all of its cells; comes back when the last one is done."""
    open_notebook(page, address, notebook)
    page.set_default_timeout(seconds * 1000)
    page.evaluate("""async () => {
        await window.jupyterapp.commands.execute('notebook:run-all-cells');
    }""")
    page.wait_for_function("""() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
        .map(prompt => prompt.textContent.trim()).filter(text => text)  // a folded cell shows no number
        .every(text => /\\[\\d+\\]/.test(text))""", timeout=seconds * 1000)
    page.set_default_timeout(120_000)


def too_wide(page) -> list[str]:
    """Outputs that do not fit the width of the page, by their first words."""
    return page.evaluate("""() => [...document.querySelectorAll('.jp-OutputArea-output')]
        .filter(output => output.scrollWidth > output.clientWidth + 2)
        .map(output => output.innerText.slice(0, 60))""")


def open_notebook(page, address: str, notebook: str) -> None:
    """Open a notebook in a fresh workspace and wait for its kernel."""
    page.goto(f"{address}/tree/{notebook}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
    page.locator("#jp-main-statusbar", has_text="(ipykernel) | Idle").wait_for(timeout=120_000)


def wait_until_run(page, seconds: float) -> None:
    """Come back when no cell waits or runs any more."""
    page.wait_for_function("""() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
        .map(prompt => prompt.textContent.trim()).filter(text => text)  // a folded cell shows no number
        .every(text => !text.includes('*'))""", timeout=seconds * 1000)


def command(page, name: str, **arguments) -> None:
    """One of JupyterLab's own commands, for what the tests need and a learner does by menu."""
    page.evaluate("([name, args]) => { window.jupyterapp.commands.execute(name, args); }", [name, arguments])


def wear(page, theme: str) -> None:
    """Put on JupyterLab's "Light" or "Dark" theme."""
    command(page, "apputils:change-theme", theme=f"JupyterLab {theme}")
    page.wait_for_function("light => document.body.dataset.jpThemeLight === String(light)", arg=theme == "Light")


def nameless(page) -> list[str]:
    """Things to click or to write in, in the outputs, that neither a label nor their own text names."""
    return page.evaluate("""inputs => [...document.querySelectorAll(inputs)]
        .filter(node => ![node.getAttribute('aria-label'), node.matches('button') && node.innerText,
                          ...[...node.labels ?? []].map(label => label.innerText)].some(name => name && name.trim()))
        .map(node => node.outerHTML.slice(0, 120))""", INPUTS)


# Text colour over all backgrounds behind it, opacity of every box around it counted; WCAG 2.2's formula (1.4.3).
FAINT = """([within, least]) => {
    const parse = colour => {
        const [r, g, b, alpha = 1] = colour.match(/[\\d.]+(?:e-?\\d+)?/g).map(Number);
        const scale = colour.startsWith('color(srgb') ? 255 : 1;
        return [r * scale, g * scale, b * scale, alpha];
    };
    const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
    const around = node => { const all = []; for (; node; node = node.parentElement) all.push(node); return all; };
    const behind = node => {
        const layers = around(node).map(box => parse(getComputedStyle(box).backgroundColor));
        const solid = layers.findIndex(layer => layer[3] === 1);
        return layers.slice(0, solid < 0 ? undefined : solid + 1).reduceRight((below, top) => over(top, below),
                                                                             [255, 255, 255, 1]);
    };
    const light = colour => colour.slice(0, 3).map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ratio = (node, colour) => {
        const ground = behind(node), ink = parse(colour);
        ink[3] *= around(node).reduce((all, box) => all * getComputedStyle(box).opacity, 1);
        const [dark, pale] = [light(over(ink, ground)), light(ground)].sort((a, b) => a - b);
        return (pale + 0.05) / (dark + 0.05);
    };
    const found = [], seen = new Set();
    const look = (node, text, colour) => {
        if (!text.replaceAll('\\u200b', '').trim()) return;  // ipywidgets' placeholder where there is none
        if (!node.getClientRects().length || node.closest(':disabled')) return;
        const value = ratio(node, colour);
        seen.add(colour);
        if (value < least) found.push([value.toFixed(2), colour, node.outerHTML.slice(0, 80)].join(' '));
    };
    for (const output of document.querySelectorAll(within)) {
        const walk = document.createTreeWalker(output, NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) {
            const node = walk.currentNode.parentElement, style = getComputedStyle(node);
            if (node.closest('style, script')) continue;
            look(node, walk.currentNode.data, node instanceof SVGElement ? style.fill : style.color);
        }
        for (const box of output.querySelectorAll('input, textarea, select')) {
            look(box, box.value, getComputedStyle(box).color);
            look(box, box.placeholder ?? '', getComputedStyle(box, '::placeholder').color);
        }
    }
    return [found, seen.size];
}"""


def faint(page, within: str = ".jp-OutputArea-output", least: float = 4.5) -> tuple[list[str], int]:
    """Texts with less contrast than WCAG AA asks for, and how many colours of text were looked at."""
    found, colours = page.evaluate(FAINT, [within, least])
    return sorted(set(found)), colours
