"""`inspect_files` reads the files that a command names, inspects them together, and says which rows could not be read.

What `labkit inspect` calls: `read`, then `inspect`; a notebook calls these two itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from labkit.data.inspection.inspect import inspect
from labkit.data.inspection.report import SHOWN, Report
from labkit.data.read import BadRow, read, title
from labkit.data.split import NAMES
from labkit.errors import LabError


def inspect_files(
    source: str,
    test: Sequence[str] = (),
    *,
    columns: str | None = None,
    labels: str | None = None,
    names: str | None = None,
    html: str | None = None,
) -> Report:
    """Inspect a file, and whether its rows leaked into others.

    Args:
        source: the file to train on, as `read` takes it; in the report it is "train".
        test: files to test on; one is called "test", several have the names of their files.
        columns: "text,label", or "text" where there are no labels; None leaves it to `inspect`.
        labels: the right ones, "joy,anger"; None takes them from the data.
        names: a text file of persons' names, one a line.
        html: where to write the report as a page, or None.

    Returns:
        What `inspect` found. Rows that could not be read are not in it, but among its `remarks`.

    Raises:
        LabError: a file cannot be read or written, or holds nothing to inspect; an option names nothing.
    """
    page = _page_file(html)
    persons = _lines_of(names) if names is not None else []
    text, label = _columns(columns)
    known = _listed(labels, "--labels") if labels is not None else None
    splits, remarks = {}, []
    for file, name in [(source, "train"), *zip(test, _names(test), strict=True)]:
        bad: list[BadRow] = []
        splits[name] = read(file, columns=(), left_out=bad)
        if bad:
            said = "; ".join(f"{row.line} ({row.reason})" for row in bad[:SHOWN])
            more = f"; and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
            remarks.append(f"{len(bad):,} row{'' if len(bad) == 1 else 's'} of {name} could not be read and "
                           f"{'is' if len(bad) == 1 else 'are'} left out, by line: {said}{more}.")
    report = inspect(splits, labels=known, text=text, label=label, names=persons)
    report = replace(report, remarks=(*report.remarks, *remarks))
    if page is not None:
        try:
            page.write_text(report.page(f"What is in {source}"), encoding="utf-8", errors="replace")
        except OSError as error:
            raise LabError(f"cannot be written ({error.strerror or error})", where=str(page),
                           todo="Name another file") from None
    return report


def _names(files: Sequence[str]) -> list[str]:
    """Names of splits, no two alike; none is "train"."""
    if len(files) == 1:
        return [NAMES[-1]]
    taken = [NAMES[0]]
    for file in files:
        name, number = title(file), 1
        while name in taken:
            number += 1
            name = f"{title(file)} {number}"
        taken.append(name)
    return taken[1:]


def _columns(columns: str | None) -> tuple[str | None, str | None]:
    if columns is None:
        return None, None
    names = _listed(columns, "--columns")
    if len(names) > 2:
        raise LabError(f"--columns names {len(names)}", expected="the column of texts and that of labels: text,label")
    return names[0], names[1] if len(names) == 2 else None


def _listed(value: str, option: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    if not all(names):
        raise LabError(f"{option} is {value!r}", expected="names with commas between them")
    return names


def _lines_of(file: str) -> list[str]:
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise LabError("is not UTF-8", where=file, expected="a text file, one name a line",
                       todo="Save it again as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise LabError(f"cannot be read ({getattr(error, 'strerror', None) or error})", where=file,
                       todo="Check the path") from None
    if not (names := [line.strip() for line in lines if line.strip()]):
        raise LabError("holds no names", where=file, expected="one name a line")
    return names


def _page_file(html: str | None) -> Path | None:
    """Where the page goes; a wrong place is told before the work begins, and no other kind of file is overwritten."""
    if html is None:
        return None
    page = Path(html).expanduser()
    if page.suffix.lower() not in (".html", ".htm"):
        raise LabError("is no name of a page", where=html, expected="a name that ends in .html")
    if not page.parent.is_dir():
        raise LabError("there is no such folder", where=str(page.parent), todo="Make it, or name another")
    return page
