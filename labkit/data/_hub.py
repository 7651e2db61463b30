"""A dataset of the Hugging Face hub as a Parquet file here, so that `read` treats it like any other.

Private to `labkit.data.read`; the only part of the data's way that may use the network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from labkit.errors import LabError

PREFIX = "hub:"


def is_hub(source: str | Path) -> bool:
    """Whether a source names a dataset of the hub: "hub:owner/name" or "hub:owner/name/split"."""
    return isinstance(source, str) and source.startswith(PREFIX)


def fetch(source: str, folder: Path) -> Path:
    """Download one split (where none is named: train) and write it as Parquet.

    Raises:
        LabError: the name has another form, there is no such dataset or split, it wants to run code of its own, or
            the hub cannot be reached.
    """
    owner, _, rest = source.removeprefix(PREFIX).partition("/")
    name, _, split = rest.partition("/")
    if not owner or not name or "/" in split:
        raise LabError("is no dataset of the hub", where=source, expected="hub:owner/name or hub:owner/name/split")
    from datasets import Dataset, load_dataset
    from datasets.exceptions import DatasetNotFoundError

    from labkit.data.read import quiet

    try:
        with quiet():
            found = load_dataset(f"{owner}/{name}", split=split or "train")
    except DatasetNotFoundError:
        raise LabError("there is no such dataset on the hub, or it asks for an account", where=source,
                       todo="Look up its name; a gated one has to be downloaded by hand and read as a file") from None
    except ValueError as error:  # an unknown split, or several configurations
        raise LabError(_first_line(error), where=source,
                       todo="Name one of these, or download the file that you want and read that") from None
    except RuntimeError as error:  # a dataset script
        raise LabError(f"cannot be read without running its own code ({_first_line(error)})", where=source,
                       todo="Download its data files and read them") from None
    except OSError as error:  # ConnectionError is one
        raise LabError(f"the hub cannot be reached ({_first_line(error)})", where=source,
                       todo="Try again with a network, or download the file elsewhere and read it") from None
    assert isinstance(found, Dataset)
    target = Path(tempfile.mkstemp(".parquet", dir=folder)[1])
    with quiet():
        found.to_parquet(target)
    return target


def _first_line(error: Exception) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:160]
