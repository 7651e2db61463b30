"""From a file's bytes to rows, one at a time, each with its line: encodings, broken JSON and ragged CSV are named here.

The first step of `labkit.data.read`, and private to it; needs the standard library only, so bad news comes at once.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from labkit.errors import LabError
from labkit.profiles import COURSE

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
FORMATS = ", ".join(SUFFIXES[:-1]) + " or " + SUFFIXES[-1]
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SIGNATURES = {b"PK\x03\x04": "a zip or Excel file", b"\x1f\x8b": "a gzip file", b"PAR1": "a Parquet file"}
TODO = {
    ".xlsx": "Save it from the spreadsheet as CSV UTF-8",
    ".xls": "Save it from the spreadsheet as CSV UTF-8",
    ".gz": "Unpack it first",
    ".zip": "Unpack it first",
}
Row = tuple[int, dict | str]  # the line (or, in .json, the number of the row), and the row or why it is none


def locate(source: str | Path) -> tuple[Path, str]:
    """The file that `source` means, and the name to call it by in messages.

    Raises:
        LabError: nothing is there, a folder is, the extension is none that can be read, or the file is empty.
    """
    where, path = str(source), Path(source).expanduser()
    if isinstance(source, str) and not path.suffix:  # perhaps a shipped dataset: "tickets", "tickets/test"
        for name in (source, f"{source}/train"):
            for suffix in (".jsonl", ".csv"):
                if (COURSE / "data" / f"{name}{suffix}").is_file():
                    return COURSE / "data" / f"{name}{suffix}", name
    try:
        if path.is_dir():
            raise LabError("is a folder", where=where, expected="a file", todo="Name one of the files in it")
        if not path.exists():
            raise LabError("there is no such file", where=where, todo=_near(path))
        if not path.is_file():
            raise LabError("is not a plain file", where=where, expected="a file on disk")
        if path.suffix.lower() not in SUFFIXES:
            todo = TODO.get(path.suffix.lower(), f"Save it as {FORMATS}")
            kind = f"{path.suffix} cannot be read" if path.suffix else "has no extension"
            raise LabError(kind, where=where, expected=FORMATS, todo=todo)
        with path.open("rb") as file:
            head = file.read(512)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise unreadable(error, where) from None
    if not head:
        raise LabError("is empty", where=where, expected="rows", todo="Check that it was saved, or fetched whole")
    if path.suffix.lower() != ".parquet":
        _check_head(head, path, where)
    return path, where


def unreadable(error: Exception, where: str) -> LabError:
    """What the operating system said when it would not hand over a file."""
    if isinstance(error, PermissionError):
        return LabError("may not be read by you", where=where, todo="Change its permissions, or copy it to your folder")
    return LabError(f"cannot be read ({getattr(error, 'strerror', None) or error})", where=where)


def text_rows(path: Path, where: str) -> Iterator[Row]:
    """Rows of a JSON, JSONL, CSV or TSV file in their order; blank lines are no rows.

    JSONL, CSV and TSV are read line by line; a .json list is held as text and decoded object by object.

    Returns:
        An iterator over (line, row). A row that cannot be read is a sentence that says why, in place of a dict.

    Raises:
        LabError: no row can be made out at all: encoding, NUL bytes, header, a list or a quote that never closes.
    """
    suffix = path.suffix.lower()
    if suffix in DELIMITERS:
        return _csv_rows(path, where, DELIMITERS[suffix])
    return _list_rows(path, where) if suffix == ".json" else _jsonl_rows(path, where)


def _near(path: Path) -> str:
    """What to do about a missing file: names like it in its folder and among the shipped datasets."""
    files = [file for suffix in ("jsonl", "csv") for file in COURSE.glob(f"data/*/*.{suffix}")]
    shipped = [file.relative_to(COURSE / "data").with_suffix("").as_posix() for file in files]
    names = shipped + [name.split("/")[0] for name in shipped]
    near = difflib.get_close_matches(str(path), dict.fromkeys(names), n=3, cutoff=0.6)
    if path.parent.is_dir():
        near += difflib.get_close_matches(path.name, [file.name for file in path.parent.iterdir()], n=3, cutoff=0.6)
    if near:
        return f"Perhaps you mean {' or '.join(near)}"
    if path.parent.is_dir():
        return "Check the path"
    return f"The folder {path.parent} is not there either; check the path"


def _check_head(head: bytes, path: Path, where: str) -> None:
    """Refuse what the first bytes give away: another kind of file, UTF-16, JSON called CSV."""
    for signature, kind in SIGNATURES.items():
        if head.startswith(signature):
            raise LabError(f"is {kind}, whatever its name says", where=where, expected="a text file",
                           todo="Give it its right extension, or save it as CSV UTF-8")
    wide = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    if wide or max(head[::2].count(0), head[1::2].count(0)) > len(head) // 4 > 0:
        mark = "its first two bytes are a UTF-16 mark" if wide else "every other byte in line 1 is NUL"
        raise LabError(f"seems to be UTF-16 ({mark})", where=f"{where}, line 1, byte 1", expected="UTF-8",
                       todo=f"Convert it: {_convert(path, 'utf-16')}")
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if path.suffix.lower() in DELIMITERS and first in (b"{", b"["):
        raise LabError(f"holds JSON, not {path.suffix[1:].upper()}", where=f"{where}, line 1",
                       todo=f"Rename it to {'.json' if first == b'[' else '.jsonl'}")
    if path.suffix.lower() in (".jsonl", ".ndjson") and first == b"[":
        raise LabError("holds a JSON list", where=f"{where}, line 1", expected="one object a line",
                       todo="Rename it to .json")


def _convert(path: Path, encoding: str) -> str:
    return f"iconv -f {encoding.upper()} -t UTF-8 '{path.name}' > 'new{path.suffix}', or save it again as UTF-8"


def _lines(path: Path, where: str) -> Iterator[str]:
    """Lines of a UTF-8 file, with or without BOM; anything else is refused with line and byte."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise LabError(f"holds a NUL byte at character {line.index(chr(0)) + 1}", expected="text",
                                   where=f"{where}, line {number}",
                                   todo="The file may be damaged; fetch or save it again")
                yield line
    except UnicodeDecodeError:
        raise _wrong_encoding(path, where) from None
    except OSError as error:
        raise unreadable(error, where) from None


def _wrong_encoding(path: Path, where: str) -> LabError:
    """Where the first byte stands that is not UTF-8, and what encoding would make sense of it."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                place, byte = f"{where}, line {number}, byte {error.start + 1}", line[error.start]
                try:
                    line.decode("cp1252")
                except UnicodeDecodeError:
                    return LabError(f"0x{byte:02X} is not UTF-8", where=place, expected="UTF-8",
                                    todo="Save it again as UTF-8 where it was made")
                return LabError(f"0x{byte:02X} is not UTF-8; the file seems to be Windows-1252, where it is "
                                f"{bytes([byte]).decode('cp1252')!r}", where=place, expected="UTF-8",
                                todo=f"Convert it: {_convert(path, 'windows-1252')}")
    return LabError("is not UTF-8", where=where, expected="UTF-8", todo="Save it again as UTF-8")


def _csv_rows(path: Path, where: str, delimiter: str) -> Iterator[Row]:
    limit = csv.field_size_limit(2**31 - 1)  # texts of a megabyte are texts; the module's own limit is 128 kB
    try:
        reader = csv.reader(_lines(path, where), delimiter=delimiter, strict=True)
        header: list[str] = []
        while True:
            line = reader.line_num + 1  # a row may run over many lines: it is called by its first
            try:
                cells = next(reader, None)
            except csv.Error as error:
                what = "a quote opens here and never closes" if "end of data" in str(error) else f"{error}"
                raise LabError(what, where=f"{where}, line {line}", todo="Mend that row",
                               expected='quotes in pairs, "" for a quote in a text') from None
            if cells is None:
                return
            if not cells:
                continue
            if not header:
                header = _checked_header(cells, delimiter, f"{where}, line {line}")
            elif len(cells) != len(header):
                yield line, f"has {len(cells)} cells, the header has {len(header)}"
            else:
                yield line, dict(zip(header, cells, strict=True))
    finally:
        csv.field_size_limit(limit)


def _checked_header(names: list[str], delimiter: str, where: str) -> list[str]:
    for other in ";\t,":
        if len(names) == 1 and other != delimiter and other in names[0]:
            kind = {";": "semicolons", "\t": "tabs (then call it .tsv)", ",": "commas (then call it .csv)"}[other]
            raise LabError(f"the header is one cell that holds {other!r}", where=where,
                           expected="commas" if delimiter == "," else "tabs",
                           todo=f"The columns seem to be parted by {kind}; save the file again")
    if "" in names:
        raise LabError(f"column {names.index('') + 1} has no name", where=where,
                       todo="Name it in the header (pandas writes its row numbers so: save with index=False)")
    if doubled := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise LabError(f"the column {doubled[0]!r} is there {names.count(doubled[0])} times", where=where,
                       todo="Rename or remove one of them")
    return names


def _no_doubles(pairs: list[tuple]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(object_pairs_hook=_no_doubles, parse_constant=_no_constant)


def _checked(value: object, escaped: bool) -> dict | str:
    """The row, or why a JSON value is none."""
    if not isinstance(value, dict):
        return f"is {json.dumps(value)[:40]}, not an object"
    if not value:
        return "is an object without columns"
    if escaped:  # "\ud800" is half a character: JSON allows it, no text file can hold it
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return "holds half a character (a lone surrogate such as \\ud800)"
    return value


def _why(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON at column {error.colno} ({error.msg})"
    return "JSON nested too deeply" if isinstance(error, RecursionError) else f"{error}"


def _jsonl_rows(path: Path, where: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(path, where), 1):
        text = line.strip(" \t\r\n")
        if not text:
            continue
        try:
            row = _checked(_DECODER.decode(text), "\\u" in text)
        except (ValueError, RecursionError) as error:
            row = _why(error)
        yield number, row


def _list_rows(path: Path, where: str) -> Iterator[Row]:
    text = "".join(_lines(path, where))
    at = _skip(text, 0)
    if at == len(text):
        return
    if text[at] != "[":
        yield from enumerate((_checked(value, "\\u" in text) for value in _data_list(text, at, where)), 1)
        return
    number, at = 0, _skip(text, at + 1)
    while number or text[at : at + 1] != "]":  # an empty list closes at once
        value, end = _value(text, at, where)
        number += 1
        yield number, _checked(value, "\\u" in text[at:end])
        at = _skip(text, end)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            raise _at(text, at, where, "broken JSON (a comma or ] is missing)")
        at = _skip(text, at + 1)
    if (end := _skip(text, at + 1)) < len(text):
        raise _at(text, end, where, "there is more after the end of the list")


def _data_list(text: str, at: int, where: str) -> list:
    """The list in {"data": [...]}; what else stands beside it, unless it is a list too, describes the file."""
    whole, end = _value(text, at, where)
    if (more := _skip(text, end)) < len(text):
        todo = "Rename it to .jsonl" if text[more] == "{" else "Mend the file there"
        raise _at(text, more, where, "a second value follows the first", todo)
    found = whole if isinstance(whole, dict) else {}
    if [name for name, inner in found.items() if isinstance(inner, list)] != ["data"]:
        holds = f"an object of {', '.join(map(repr, list(found)[:6]))}" if found else json.dumps(whole)[:40]
        raise _at(text, at, where, f"holds {holds}", "Write the rows as a list of objects")
    return found["data"]


def _skip(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()


def _value(text: str, at: int, where: str) -> tuple[object, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _at(text, error.pos, where, f"broken JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise _at(text, at, where, _why(error)) from None


def _at(text: str, at: int, where: str, what: str, todo: str = "Mend the file there") -> LabError:
    """A LabError that names line and column of a place in a text."""
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    return LabError(what, where=f"{where}, line {line}, column {column}", todo=todo,
                    expected='a list of objects, or {"data": [...]}')
