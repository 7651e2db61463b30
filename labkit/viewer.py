"""Opens a picture in the system's viewer, where somebody sits before a display; a terminal alone shows text.

Beside the command line: nothing depends on whether a picture could be opened.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

OPENERS = {"darwin": "open", "linux": "xdg-open"}
PATIENCE = 3  # seconds in which an opener says that it cannot; one that runs longer is the viewer itself


def watched(environ: Mapping[str, str], platform: str, terminal: bool) -> bool:
    """Whether somebody is there who would see a window.

    Args:
        environ: the process's variables; CI and an SSH connection mean that nobody is.
        platform: as `sys.platform`; on Linux a display has to be named.
        terminal: whether the output goes to a terminal, and not to a file or another program.
    """
    if not terminal or environ.get("CI", "false") not in ("", "0", "false") or environ.get("SSH_CONNECTION"):
        return False
    return platform in ("darwin", "win32") or bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def open_picture(file: Path) -> bool:
    """Open a picture, where `watched` says that somebody would see it; never an error.

    Returns:
        Whether a viewer took it.
    """
    if not watched(os.environ, sys.platform, sys.stdout.isatty()):
        return False
    try:
        if sys.platform == "win32":
            os.startfile(file)  # there is none elsewhere
            return True
        if not (opener := shutil.which(OPENERS.get(sys.platform, ""))):
            return False
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        started = subprocess.Popen([opener, str(file.absolute())], start_new_session=True, **quiet)
        return started.wait(PATIENCE) == 0
    except subprocess.TimeoutExpired:
        return True
    except OSError:
        return False
