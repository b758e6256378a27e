"""Tables as people have them: CSV however a spreadsheet saved it, JSONL, Parquet. Rows with plain column names come out."""

import codecs
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lorasynth.errors import MissingExtraError, UsageError
from lorasynth.storage.container import read_bytes
from lorasynth.storage.faults import FaultyFileError, printable, shown

MAX_TABLE_MB = 1_024
_CSV, _JSON, _WORKBOOKS = (".csv", ".tsv"), (".jsonl", ".ndjson"), (".xlsx", ".xls", ".ods", ".numbers")
_PANDAS_INDEX = "__index_level_"  # how pandas calls an index without a name in Parquet
_DELIMITERS = (",", ";", "\t", "|")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

Row = dict[str, Any]


def read_table(table: Path, columns: Sequence[str]) -> list[Row]:
    """`rows_of` a file.

    Raises:
        UsageError: it cannot be read, or as `rows_of`.
        MissingExtraError: Parquet needs pyarrow.
    """
    _require_kind(table)
    try:
        content = read_bytes(table, MAX_TABLE_MB)
    except FaultyFileError as error:
        raise UsageError(f"{shown(table)}: expected a table, got {error.fault.actual}; {error.fault.fix}") from None
    return rows_of(table, content, columns)


def rows_of(table: str | Path, content: bytes, columns: Sequence[str]) -> list[Row]:
    """The rows of a CSV, TSV, JSONL or Parquet table.

    Text is UTF-8, or UTF-16 with a byte order mark. CSV cells are apart by commas, semicolons, tabs or bars, whatever the first
    line says. Column names lose capitals and blanks around them. Rows in which every cell is empty are left out.

    Args:
        table: its name, whose ending says what it is.
        content: its bytes.
        columns: that every row has to have.

    Raises:
        UsageError: it cannot be read, a row has more cells than there are columns, or lacks one of ``columns``.
        MissingExtraError: Parquet needs pyarrow.
    """
    _require_kind(table)
    ending = Path(table).suffix.lower()
    try:
        if ending == ".parquet":
            raw = _parquet_rows(content)
        else:
            text = _text(content)
            raw = list(_json_rows(text) if ending in _JSON else _csv_rows(text, columns))
        rows = [_plain_names(row) for row in raw]
    except (ValueError, RecursionError, csv.Error) as error:
        reason = printable(" ".join(str(error).split()))  # in one line: Parquet's reader takes several
        raise UsageError(f"{shown(table)}: expected a table, got {reason}; check the file") from None
    require_columns(table, rows, columns)
    return rows


def _require_kind(table: str | Path) -> None:
    """Refuse what is no table by its ending, and Parquet where nothing reads it."""
    ending = Path(table).suffix.lower()
    if ending not in (*_CSV, *_JSON, ".parquet"):
        hint = "; save it as CSV UTF-8" if ending in _WORKBOOKS else ""
        raise UsageError(
            f"{shown(table)}: expected a .csv, .jsonl or .parquet table, got {ending or 'no ending'}{hint}"
        )
    if ending == ".parquet":
        _require_pyarrow(table)


def require_columns(table: str | Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Raise UsageError if a row of a table has nothing in one of ``columns``."""
    for number, row in enumerate(rows, start=1):
        if missing := [c for c in columns if row.get(c) in (None, "")]:
            there = printable(", ".join(map(str, row)), 300)
            raise UsageError(
                f"{shown(table)} row {number}: expected columns {', '.join(columns)}, got no {missing[0]}; its columns: {there}"
            )


def unused_columns(table: str | Path, rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A line on the columns of a table that nobody reads, empty where there are none: a name may be misspelt.

    Args:
        table: its name.
        rows: of it.
        columns: that are read.
    """
    names = {name for row in rows for name in row if name and not name.startswith(_PANDAS_INDEX)}
    unused = sorted(names - set(columns))
    if not unused:
        return ""
    more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
    some = ", ".join(printable(name, 40) for name in unused[:5])
    return f"{shown(table)}: columns that are not used: {some}{more}; those that are read: {', '.join(columns)}"


def _text(content: bytes) -> str:
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        where = f"byte 0x{content[error.start]:02x} in line {line}"
        raise ValueError(f"{where}, which is not UTF-8 text; save it as CSV UTF-8") from None


def _csv_rows(text: str, columns: Sequence[str]) -> Iterator[Row]:
    """Rows by the first line's names, apart by the delimiter that gives the most of ``columns``, and of columns at all."""
    first, _, rest = text.partition("\n")
    if first.lower().startswith("sep=") and len(first.strip()) == len("sep=") + 1:  # a spreadsheet's hint to itself
        delimiters, text = [first[len("sep=")]], rest
    else:
        delimiters = list(_DELIMITERS)
    if "\0" in text[:1_000]:
        raise ValueError("NUL characters, as of UTF-16 without its mark; save it as CSV UTF-8")
    names: list[str] = []
    delimiter = ","
    for tried in delimiters:
        found = [
            name.strip() for name in next(csv.reader(io.StringIO(text), delimiter=tried, skipinitialspace=True), [])
        ]
        if _fit(found, columns) > _fit(names, columns):
            names, delimiter = found, tried
    if twice := [name for name, count in Counter(filter(None, names)).items() if count > 1]:
        raise ValueError(f"two columns of one name, {twice[0]}")
    for number, cells in enumerate(
        csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    ):
        if number == 0 or not any(cell.strip() for cell in cells):
            continue
        if any(cell.strip() for cell in cells[len(names) :]):
            raise ValueError(f"{len(cells)} cells in row {number}, where it has {len(names)} columns")
        cells += [""] * (len(names) - len(cells))
        # A column without a name is pandas' index where it is the first, and what a spreadsheet adds where it is not.
        yield {name: cell for i, (name, cell) in enumerate(zip(names, cells, strict=False)) if name or i == 0}


def _fit(names: Sequence[str], columns: Sequence[str]) -> tuple[int, int]:
    return len({name.casefold() for name in names} & set(columns)), len(names)


def _json_rows(text: str) -> Iterator[Row]:
    for line in text.split("\n"):  # not splitlines, which also splits at what JSON may hold within a string
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("a line that is no JSON object")
            yield row


def _plain_names(row: Row) -> Row:
    """Without capitals and blanks around names. Two columns of one name are an error."""
    plain = {str(name).strip().casefold(): value for name, value in row.items()}
    if len(plain) < len(row):
        raise ValueError(f"two columns of one name among {', '.join(map(str, row))}")
    return plain


def _require_pyarrow(table: str | Path) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise MissingExtraError(
            f"{shown(table)}: Parquet needs pyarrow; pip install 'lorasynth[parquet]', or write CSV"
        ) from None


def _parquet_rows(content: bytes) -> list[Row]:
    import pyarrow.parquet as parquet
    from pyarrow.lib import ArrowException

    try:
        rows: list[Row] = parquet.read_table(io.BytesIO(content)).to_pylist()
    except (ArrowException, OSError) as error:  # of many classes, not all of them a ValueError
        raise ValueError(error) from None
    return rows
