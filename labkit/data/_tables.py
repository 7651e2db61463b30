"""From rows to an Arrow table behind a `datasets.Dataset`: one type a column, small ones in memory, large ones on disk.

The second step of `labkit.data.read`, and private to it; what does not fit the type of its column is named, not cast.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.data._rows import unreadable
from labkit.errors import LabError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

KEPT_IN_MEMORY = 32 * 10**6  # bytes of the file; the records of a larger one go to a temporary file
Batch = tuple[list[int], "pa.RecordBatch"]  # the rows' lines, and the rows
BATCH_ROWS, BATCH_CHARACTERS = 1000, 16 * 10**6
_NAMES = {bool: "true/false", int: "a whole number", float: "a number", str: "text"}
_folder: tempfile.TemporaryDirectory | None = None  # for large files; removed when Python ends


class _Clash(Exception):
    """Two kinds in one column; the text names both."""

    def __init__(self, value: object, kind: object):
        known = kind() if isinstance(kind, type) else kind
        super().__init__(f"{said(value)} where {said(known)} stands")


def said(value: object) -> str:
    """The kind of a value in words: "text", "a list"."""
    if isinstance(value, dict):
        return "an object"
    return _NAMES.get(type(value), "nothing" if value is None else f"a {type(value).__name__}")


class Kinds:
    """The type of each column, as the rows seen so far have it: whole numbers may become numbers, None fits all.

    A kind is None (nothing seen), bool, int, float, str, a list of one kind, or a dict from key to kind.
    """

    def __init__(self):
        self.kinds: dict[str, object] = {}
        self.first: dict[str, int] = {}  # column: the row that settled its kind

    def add(self, line: int, row: dict) -> str:
        """Take a row in. Returns "", or why it does not fit those before it; then nothing of it is taken."""
        fresh = {}
        for name, value in row.items():
            known = self.kinds.get(name)
            try:
                fresh[name] = known if known is str and type(value) is str else _merge(known, value)
            except _Clash as clash:
                return f"{name} holds {clash} in row {self.first.get(name, line)}"
            except OverflowError:
                return f"{name} holds a number of more than 64 bits"
        for name, kind in fresh.items():
            if kind is not None:
                self.first.setdefault(name, line)
        self.kinds.update(fresh)
        return ""

    def schema(self) -> pa.Schema:
        """The columns as Arrow types, in the order in which they were first seen."""
        import pyarrow as pa

        return pa.schema([(name, _arrow(kind)) for name, kind in self.kinds.items()])


def _merge(kind: object, value: object) -> object:
    if value is None:
        return kind
    if isinstance(value, dict):
        if kind is not None and not isinstance(kind, dict):
            raise _Clash(value, kind)
        known = kind or {}
        return {**known, **{key: _merge(known.get(key), inner) for key, inner in value.items()}}
    if isinstance(value, list):
        if kind is not None and not isinstance(kind, list):
            raise _Clash(value, kind)
        inner = kind[0] if kind else None
        for element in value:
            inner = _merge(inner, element)
        return [inner]
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise OverflowError
    if kind is None or kind is type(value):
        return type(value)
    if kind in (int, float) and type(value) in (int, float):
        return float
    raise _Clash(value, kind)


def _arrow(kind: object) -> pa.DataType:
    import pyarrow as pa

    if isinstance(kind, dict):
        return pa.struct([(name, _arrow(inner)) for name, inner in kind.items()])
    if isinstance(kind, list):
        return pa.list_(_arrow(kind[0]))
    return {None: pa.null(), bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}[kind]


def row_batches(rows: Iterable[tuple[int, dict]], schema: pa.Schema, where: str) -> Iterator[Batch]:
    """Rows gathered into batches of at most 1,000 rows or about 16 million characters of text."""
    lines: list[int] = []
    held: list[dict] = []
    size = 0
    for line, row in rows:
        lines.append(line)
        held.append(row)
        size += sum(len(value) for value in row.values() if type(value) is str)
        if len(held) == BATCH_ROWS or size > BATCH_CHARACTERS:
            yield lines, _batch(held, schema, where)
            lines, held, size = [], [], 0
    if held:
        yield lines, _batch(held, schema, where)


def _batch(rows: list[dict], schema: pa.Schema, where: str) -> pa.RecordBatch:
    import pyarrow as pa

    arrays = []
    for field in schema:
        try:
            arrays.append(pa.array([row.get(field.name) for row in rows], type=field.type))
        except pa.ArrowInvalid as error:  # whole numbers beyond 2^53 among fractions
            raise LabError(f"{field.name} does not fit one type ({error})", where=where,
                           todo="Write that column as text") from None
    return pa.record_batch(arrays, schema=schema)


def parquet_batches(path: Path, where: str) -> tuple[pa.Schema, Iterator[Batch]]:
    """Schema and batches of a Parquet file; categories, and class labels of `datasets`, become their names.

    Raises:
        LabError: the file is damaged or no Parquet file, or a column name is there twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features

    try:
        file = pq.ParquetFile(path)
        stored = file.schema_arrow
        if doubled := [name for name in dict.fromkeys(stored.names) if stored.names.count(name) > 1]:
            raise LabError(f"the column {doubled[0]!r} is there {stored.names.count(doubled[0])} times", where=where,
                           todo="Rename or remove one of them")
        features = Features.from_arrow_schema(stored) if b"huggingface" in (stored.metadata or {}) else {}
    except OSError as error:
        if type(error) is not OSError:  # Arrow also says OSError for a damaged file
            raise unreadable(error, where) from None
        raise _damaged(error, where) from None
    except (pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise _damaged(error, where) from None
    labels = {name: feature for name, feature in features.items() if isinstance(feature, ClassLabel)}

    def plain(field: pa.Field) -> pa.Field:
        if field.name in labels:
            return pa.field(field.name, pa.string())
        return field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field

    schema = pa.schema([plain(field) for field in stored])

    def batches() -> Iterator[Batch]:
        at = 1
        try:
            for batch in file.iter_batches(BATCH_ROWS):
                arrays = []
                for column, field in zip(batch.columns, schema, strict=True):
                    if field.name in labels:  # -1 is how `datasets` writes "no label"
                        names = labels[field.name].names
                        column = pa.array([names[i] if i is not None and i >= 0 else None for i in column.to_pylist()],
                                          pa.string())
                    arrays.append(column.cast(field.type))
                yield list(range(at, at + batch.num_rows)), pa.record_batch(arrays, schema=schema)
                at += batch.num_rows
        except (OSError, pa.ArrowException, IndexError) as error:
            raise _damaged(error, where) from None

    return schema, batches()


def _damaged(error: Exception, where: str) -> LabError:
    reason = str(error).partition("\n")[0][:80] or type(error).__name__
    return LabError(f"is damaged, or no Parquet file ({reason})", where=where, todo="Fetch or save it again")


def to_dataset(schema: pa.Schema, batches: Iterable[Batch], small: bool, where: str) -> Dataset:
    """Batches as one dataset, with the column `line` where the file has none of that name.

    Raises:
        LabError: a type that `datasets` cannot hold, or no room for the temporary file.
    """
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    own = "line" in schema.names
    whole = schema if own else schema.append(pa.field("line", pa.int32()))

    def full(lines: list[int], batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = batch.columns if own else [*batch.columns, pa.array(lines, pa.int32())]
        return pa.record_batch(columns, schema=whole)

    try:
        if small:
            return Dataset(InMemoryTable(pa.Table.from_batches([full(*batch) for batch in batches], schema=whole)))
        target = _temporary()
        with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, whole) as writer:
            for batch in batches:
                writer.write_batch(full(*batch))
        return Dataset.from_file(str(target))
    except OSError as error:
        raise LabError(f"no temporary copy can be written ({error.strerror or error})", where=where,
                       todo="Make room on the disk, or set TMPDIR to a folder that has some") from None
    except (ValueError, TypeError, NotImplementedError) as error:
        raise LabError(f"a column has a type that cannot be used ({error})", where=where,
                       todo="Write that column as text") from None


def temporary_folder() -> Path:
    """A folder that lasts as long as this Python does."""
    global _folder
    if _folder is None:
        _folder = tempfile.TemporaryDirectory(prefix="labkit-", ignore_cleanup_errors=True)
    return Path(_folder.name)


def _temporary() -> Path:
    return Path(tempfile.mkstemp(".arrow", dir=temporary_folder())[1])
