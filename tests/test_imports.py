"""Large libraries are imported in less time, and are what they would have been."""

from __future__ import annotations

import gc
import importlib
import inspect
import subprocess
import sys

import pytest

from labkit import imports


def _python(code: str) -> list[str]:
    """What the code prints, line by line, in a Python of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_peft_comes_without_a_compiler_and_leaves_the_collector_at_work():
    code = """import gc, sys, labkit, torch
compiles = torch.compile
import peft
print("torch._inductor.compile_fx" in sys.modules, gc.isenabled(), torch.compile is compiles, peft.__spec__.name)
from bitsandbytes.backends.default import ops
print(ops.__spec__.name)"""
    assert _python(code) == ["False True True peft", "bitsandbytes.backends.default.ops"]


def test_without_it_the_compiler_would_be_there():
    code = """import sys, torch, peft
print("torch._inductor.compile_fx" in sys.modules)"""
    assert _python(code) == ["True"], "bitsandbytes compiles nothing any more: labkit.imports can lose half of its code"


def test_what_bitsandbytes_compiles_later_gives_what_it_gave():
    import torch
    from bitsandbytes.backends.default import ops

    from labkit.models import quiet

    with quiet():
        weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        codes, scales = torch.ops.bitsandbytes.quantize_4bit.default(weights, 64, "nf4", torch.uint8)
        back = torch.ops.bitsandbytes.dequantize_4bit.default(codes, scales, 64, "nf4", (64, 64), torch.float32)
    assert (back - weights).abs().mean() < 0.1 and ops.__file__.endswith("ops.py")


def test_compiling_later_is_compiling_once_with_the_settings_that_were_given(monkeypatch):
    import torch

    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **settings: asked.append(settings) or function)

    @imports._later(dynamic=False)
    def twice(x):
        """Doubles."""
        return 2 * x

    assert imports._later(len)("ab") == 2 and asked.pop() == {}
    assert asked == [] and twice(3) == 6 and twice(x=4) == 8 and asked == [{"dynamic": False}]
    assert twice.__name__ == "twice" and twice.__doc__ == "Doubles."


@pytest.fixture()
def library(tmp_path, monkeypatch):
    """A package of our own that counts as a large one; gives a function that writes its first file."""
    (tmp_path / "large_one").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(imports, "LARGE", imports.LARGE | {"large_one"})

    def written(code: str) -> None:
        (tmp_path / "large_one" / "__init__.py").write_text(code)
        (tmp_path / "large_one" / "part.py").write_text("import gc\nrests = not gc.isenabled()\n")
        importlib.invalidate_caches()

    yield written
    for name in [name for name in sys.modules if name.partition(".")[0] == "large_one"]:
        del sys.modules[name]


def test_the_collector_rests_while_a_large_library_and_its_parts_are_imported(library):
    library("import gc\nfrom large_one.part import rests\nhere = not gc.isenabled()\n")
    import large_one

    assert large_one.here and large_one.rests and gc.isenabled()
    assert inspect.getsource(large_one).startswith("import gc") and large_one.__file__.endswith("__init__.py")
    importlib.reload(large_one)
    assert large_one.here and gc.isenabled()


def test_it_goes_on_after_an_import_that_fails_and_stays_off_where_it_was_off(library):
    library("raise ValueError('broken')\n")
    with pytest.raises(ValueError, match="broken"):
        importlib.import_module("large_one")
    assert gc.isenabled()
    library("name = 1  # longer than before\n")
    gc.disable()
    try:
        importlib.import_module("large_one")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_library_that_is_missing_is_missing_in_python_s_own_words(monkeypatch):
    monkeypatch.setattr(imports, "LARGE", imports.LARGE | {"not_installed_at_all"})
    with pytest.raises(ModuleNotFoundError, match="No module named 'not_installed_at_all'"):
        importlib.import_module("not_installed_at_all")


def test_once_there_are_models_nothing_more_is_kept_from_the_collector(library):
    """A model that only a cycle holds must be given back, whatever is imported later."""
    import transformers.modeling_utils  # noqa: F401

    library("x = 1\n")
    before = gc.get_freeze_count()
    importlib.import_module("large_one")
    assert gc.get_freeze_count() <= before  # frozen objects die now and then


def test_it_is_switched_on_once():
    imports.switch_on()
    assert sum(isinstance(finder, imports.Quick) for finder in sys.meta_path) == 1
