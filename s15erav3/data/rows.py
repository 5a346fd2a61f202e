"""Files of rows with one text each: JSON Lines and Parquet, as data sets are published."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s15erav3.data.messages import listed, shown, unreadable
from s15erav3.data.reading import COMPRESSION, read_lines
from s15erav3.errors import UserError, one_line

ROWS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
FIELD = "text"
"""Name of the field or column that is read; others are ignored."""


def has_rows(file: Path) -> bool:
    """Whether a file has rows, by the end of its name in any case."""
    return file.name.lower().endswith(ROWS)


def kind_of(file: Path) -> str:
    """How a file is read, as the end of its name; empty for plain text of any name."""
    name = file.name.lower()
    return next((ending for ending in (*ROWS, *COMPRESSION) if name.endswith(ending)), "")


def read_rows(file: Path) -> Iterator[str]:
    """Yield the text of each row, unchanged; rows without text (null or white space) are skipped.

    Raises:
        UserError: the file is damaged, or a row or the table has no such text.
    """
    texts = _parquet(file) if file.name.lower().endswith(".parquet") else _json_lines(file)
    return (text for text in texts if text and not text.isspace())


def _json_lines(file: Path) -> Iterator[str | None]:
    for number, line in enumerate(read_lines(file), start=1):
        if line.isspace():
            continue
        place = f"data.path={shown(file)}, line {number},"
        try:
            row = json.loads(line.rstrip("\n"))
        except (ValueError, RecursionError) as error:
            why = f"{error.msg}: column {error.colno}" if isinstance(error, json.JSONDecodeError) else one_line(error)
            raise UserError(
                f'{place} is not JSON ({why}); give one object in each line, such as {{"{FIELD}": "..."}}.'
            ) from error
        if not isinstance(row, dict) or not isinstance(row.get(FIELD, 0), str | None):
            found = f"has the fields {listed(list(map(ascii, row)))}" if isinstance(row, dict) else "is no object"
            raise UserError(f"{place} {found}, but a text under '{FIELD}' is expected; rename the field that holds it.")
        text = row[FIELD]
        if text and not _is_unicode(text):
            raise UserError(f"{place} has half of a surrogate pair (\\ud800 to \\udfff), no character; remove it.")
        yield text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(file: Path) -> Iterator[str | None]:
    # Imported here, since it takes a while and few corpora are tables.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.open("rb") as stream, pq.ParquetFile(stream) as table:
            _check_column(file, table.schema_arrow)
            for batch in table.iter_batches(batch_size=1024, columns=[FIELD]):
                yield from batch.column(0).to_pylist()
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(
            f"data.path={shown(file)} is not a whole Parquet file with UTF-8 text ({one_line(error)[:150]}); fetch or "
            "write it anew."
        ) from error
    except OSError as error:
        raise unreadable(file, error) from error


def _check_column(file: Path, schema: Any) -> None:
    from pyarrow import types

    at = schema.get_field_index(FIELD)
    kind = schema.field(at).type if at >= 0 else None
    kind = kind.value_type if kind is not None and types.is_dictionary(kind) else kind
    if kind is None or not (types.is_string(kind) or types.is_large_string(kind)):
        columns = [f"{field.name!a} ({field.type})" for field in schema]
        raise UserError(
            f"data.path={shown(file)} has the columns {listed(columns)}, but one '{FIELD}' of strings is expected; "
            "rename the column that holds the text."
        )
