"""Every example in a docstring of labkit says what really comes out."""

import doctest
import pkgutil
from importlib import import_module

import labkit


def test_the_examples_in_docstrings_are_true():
    names = [found.name for found in pkgutil.walk_packages(labkit.__path__, "labkit.") if "__main__" not in found.name]
    results = {name: doctest.testmod(import_module(name)) for name in names}
    assert {name: result.failed for name, result in results.items() if result.failed} == {}
    assert sum(result.attempted for result in results.values()) > 5
