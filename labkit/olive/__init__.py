"""The `olive` command line from a notebook, what its commands make, and what its own parser says of a command.

Stands beside `export`: takes a base model and rows in files, gives adapters and ONNX models in folders.
"""

from labkit.olive.command import Desk, Done, installed, one_line, reason
from labkit.olive.weights import read_adapter, write_adapter
from labkit.olive.workflow import LINEAR, SCRIPT, masked_workflow, planned, text_template, trials, tried, tried_extras

__all__ = ["Desk", "Done", "LINEAR", "SCRIPT", "installed", "masked_workflow", "one_line", "planned", "read_adapter",
           "reason", "text_template", "trials", "tried", "tried_extras", "write_adapter"]
