"""Writes the weighted mean of two finished models: python data/recipe/mean.py A B --share 0.4 --out FOLDER.

What a run teaches in its last steps (a habit, say) can be had in part: B is the run's end, A the state before.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


def mean(a: Path, b: Path, share: float, out: Path) -> None:
    """Write (1 - share) of A and share of B, in B's dtype, with B's settings and tokenizer.

    What is known of the run B, its facts and curve, is left out: it does not hold for the mean.

    Args:
        a, b: folders with a finished model each.
        share: of B, from 0 to 1.
        out: a folder that is not there yet.

    Raises:
        SystemExit: the two models have not the same weights by name and shape, the share lies outside 0 to 1, or the
            folder is there.
    """
    if not 0 <= share <= 1:
        raise SystemExit(f"--share is {share}; give a number from 0 to 1")
    if out.exists():
        raise SystemExit(f"{out} is there already; give --out another folder")
    ours, theirs = load_file(a / WEIGHTS), load_file(b / WEIGHTS)
    if {k: w.shape for k, w in ours.items()} != {k: w.shape for k, w in theirs.items()}:
        raise SystemExit(f"{a} and {b} hold models of different shapes; give two states of one model")
    shutil.copytree(b, out, ignore=shutil.ignore_patterns(WEIGHTS, "facts.json", "curve.jsonl"))
    mixed = {k: ((1 - share) * ours[k].float() + share * w.float()).to(w.dtype) for k, w in theirs.items()}
    save_file(mixed, out / WEIGHTS, metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    parser.add_argument("--share", type=float, required=True, help="of B, from 0 to 1")
    parser.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    args = parser.parse_args()
    mean(args.a, args.b, args.share, args.out)


if __name__ == "__main__":
    main()
