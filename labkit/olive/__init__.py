"""The `olive` command line from a notebook, what its commands make, and what its own parser says of a command.

Stands beside `export`: takes a base model and rows in files, gives adapters and ONNX models in folders.
"""

from labkit.olive.command import Desk, Done, installed, one_line, reason
from labkit.olive.weights import read_adapter, write_adapter

__all__ = ["Desk", "Done", "installed", "one_line", "read_adapter", "reason", "write_adapter"]
