"""Which labs still run with the libraries that are installed: a table in Markdown, for the weekly run on the newest.

Run: python tests/newest.py. It runs the solved labs and ends with code 1 if one of them stops.
"""

from __future__ import annotations

import sys

from labkit import course, doctor
from labkit.tables import Table

WATCHED = ("torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes", "evaluate", "optuna", "olive-ai",
           "onnxruntime-genai", "jupyterlab", "ipywidgets", "nbval")


def versions() -> Table:
    """Of each library that the course leans on: tried, and installed now."""
    tried = doctor.pins()
    rows = [{"library": name, "tried": tried.get(name, "-"), "installed": doctor.installed(name) or "not installed"}
            for name in WATCHED]
    for row in rows:
        row[""] = "" if row["installed"] == row["tried"] else "newer or other"
    return Table(rows)


def main() -> int:
    """Print both tables; 1 if a lab stopped."""
    results = course.run(folder="solutions", progress=False)
    print(versions().markdown(), "", Table([{"lab": r.name, "runs": r.ok, "seconds": round(r.seconds),
                                             "where it stopped": "" if r.ok else f"cell {r.cell}, {r.heading}",
                                             "error": r.error} for r in results]).markdown(), sep="\n")
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
