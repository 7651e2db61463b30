"""What is wrong with a dataset (`inspect`), and what to do about it row by row (`clean`); beside the data's way.

The functions have the names of their modules, so `labkit.data.inspection.inspect` is the function; nothing heavy is
loaded.
"""

from labkit.data.inspection.clean import Change, Log, clean
from labkit.data.inspection.files import inspect_files
from labkit.data.inspection.inspect import inspect
from labkit.data.inspection.report import KINDS, Finding, Report

__all__ = ["KINDS", "Change", "Finding", "Log", "Report", "clean", "inspect", "inspect_files"]
