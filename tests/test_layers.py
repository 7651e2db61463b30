"""Who imports whom in labkit: arrows point down only, and `import labkit` stays light."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
import time
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import labkit
from labkit.profiles import COURSE

LAYERS = [  # from the bottom; a module may import from its own layer and from those before it
    {"errors", "imports"},
    {"profiles", "tables", "plots", "processes", "launch", "cluster"},
    {"memory", "livebytes"},
    {"models", "fetch", "data", "scratch", "choosing"},
    {"monitoring", "parallel", "guards", "losses", "adapters", "kernels", "narrow", "measured", "muon",
     "teller", "checkpoints"},
    {"training", "trainer", "scaling", "evaluation", "similarity", "intake", "report", "texts", "ratefinder",
     "relatives", "wording"},
    {"export", "olive"},
    {"serving", "search", "ledger", "job", "chat", "inbox", "clinic"},
    {"capstone"},
    {"widgets", "exercises", "blanks", "sections", "stamps", "colab"},
    {"cli", "course", "doctor", "classroom", "site", "viewer"},
]
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}


def arrows(package: Path) -> list[tuple[str, str, str]]:
    """(importing module, imported module, place) for each import inside the package, those in functions included.

    A module is what stands directly below `labkit`: `labkit.data.read` counts as `data`.
    """
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts in [("__init__",), ("__main__",)]:
            continue  # the lazy table of names, and the door to the command line
        here = ["labkit", *(part for part in parts if part != "__init__")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for target in _targets(node, here, is_package=parts[-1] == "__init__"):
                if target[:1] == ["labkit"] and len(target) > 1 and target[1] != "__version__":
                    module = getattr(labkit, "_HOMES", {}).get(target[1], f"labkit.{target[1]}").split(".")[1]
                    found.append((parts[0], module, f"{path.relative_to(package.parent)}:{node.lineno}"))
    return found


def _targets(node: ast.AST, here: list[str], is_package: bool) -> list[list[str]]:
    """Dotted names that a statement imports, as lists; `import_module("...")` counts."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".") for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        up = node.level - 1 if is_package else node.level
        base = here[: len(here) - up] if node.level else []
        base = base + (node.module.split(".") if node.module else [])
        return [[*base, alias.name] for alias in node.names]
    if isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func) and node.args:
        name = node.args[0]
        if isinstance(name, ast.JoinedStr):  # f"labkit.exercises.lab{n}": its fixed beginning tells the module
            name = name.values[0]
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            return [name.value.split(".")]
    return []


def wrong(found: list[tuple[str, str, str]]) -> list[str]:
    """Sentences for arrows that point up, and for modules that no layer knows."""
    out = []
    for module, target, place in found:
        unknown = [name for name in (module, target) if name not in LEVEL]
        if unknown:
            out.append(f"{place}: labkit.{unknown[0]} is in no layer")
        elif LEVEL[target] > LEVEL[module]:
            out.append(f"{place}: labkit.{module} imports labkit.{target}, which stands above it")
    return out


def test_no_import_in_labkit_points_up():
    found = arrows(COURSE / "labkit")
    assert found, "no import found: the reader is broken"
    assert wrong(found) == []


def test_every_module_of_labkit_has_a_layer():
    modules = {path.stem for path in (COURSE / "labkit").glob("*.py")} - {"__init__", "__main__"}
    modules |= {path.parent.name for path in (COURSE / "labkit").glob("*/*.py")}
    assert modules - set(LEVEL) == set()


def test_modules_do_not_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for module, target, _ in arrows(COURSE / "labkit"):
        if module != target:
            graph.setdefault(module, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_the_reader_sees_an_upward_arrow_in_every_form_of_import(tmp_path):
    package = tmp_path / "labkit"
    (package / "data").mkdir(parents=True)
    forms = [
        "import labkit.cli",
        "from labkit.cli import main",
        "from labkit import cli",
        "from labkit import check",  # lives in labkit.exercises
        "def f():\n    from .training import finetune",
        "from importlib import import_module\nimport_module('labkit.export')",
        "from importlib import import_module\nimport_module(f'labkit.exercises.lab{3}')",
        "import labkit.elsewhere",
    ]
    for form in forms:
        (package / "models.py").write_text(form)
        assert len(wrong(arrows(package))) == 1, form
    (package / "models.py").write_text("import labkit\nfrom labkit.errors import LabError\nimport os\n")
    (package / "data" / "__init__.py").write_text("from .read import read\nfrom ..profiles import current\n")
    (package / "data" / "read.py").write_text("from .split import split\n")
    assert wrong(arrows(package)) == []
    (package / "data" / "read.py").write_text("from ..training import Run\n")
    assert len(wrong(arrows(package))) == 1


def test_import_labkit_loads_nothing_heavy():
    code = "import sys, labkit; print(*(m for m in ('torch', 'transformers', 'IPython', 'numpy') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=COURSE, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_import_labkit_takes_at_most_50_ms():
    def seconds(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], cwd=COURSE, check=True)
        return time.perf_counter() - started

    seconds("import labkit")  # byte code is written once
    pairs = [(seconds("import labkit"), seconds("pass")) for _ in range(5)]
    assert statistics.median(with_labkit for with_labkit, _ in pairs) - statistics.median(b for _, b in pairs) <= 0.050
