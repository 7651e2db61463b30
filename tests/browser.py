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
    page.goto(f"{address}/tree/{notebook}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.locator("#jp-main-statusbar", has_text="(ipykernel) | Idle").wait_for(timeout=60_000)
    page.set_default_timeout(seconds * 1000)
    page.evaluate("""async () => {
        await window.jupyterapp.commands.execute('notebook:run-all-cells');
    }""")
    page.wait_for_function("""() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
        .map(prompt => prompt.textContent.trim()).filter(text => text)  // a folded cell shows no number
        .every(text => /\\[\\d+\\]/.test(text))""", timeout=seconds * 1000)
    page.set_default_timeout(30_000)


def too_wide(page) -> list[str]:
    """Outputs that do not fit the width of the page, by their first words."""
    return page.evaluate("""() => [...document.querySelectorAll('.jp-OutputArea-output')]
        .filter(output => output.scrollWidth > output.clientWidth + 2)
        .map(output => output.innerText.slice(0, 60))""")
