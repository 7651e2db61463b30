"""Every example in a docstring of labkit says what really comes out."""

import doctest
import pkgutil
from importlib import import_module

import labkit

BY_PATH = "labkit.olive.script"  # Olive reads it by its path and registers what is in it; twice in a process is refused


def test_the_examples_in_docstrings_are_true():
    found = [module.name for module in pkgutil.walk_packages(labkit.__path__, "labkit.")]
    names = [name for name in found if "__main__" not in name and name != BY_PATH]
    results = {name: doctest.testmod(import_module(name)) for name in names}
    assert {name: result.failed for name, result in results.items() if result.failed} == {}
    assert sum(result.attempted for result in results.values()) > 5
