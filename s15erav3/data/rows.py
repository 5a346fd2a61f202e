"""Files of rows with one text each: JSON Lines, Parquet and Arrow, as data sets are published and saved."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from s15erav3.data.messages import listed, shown, unreadable
from s15erav3.data.reading import COMPRESSION, read_lines
from s15erav3.errors import UserError, one_line

ROWS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".arrow")
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
    kind = file.suffix.lower()
    texts = _table(file, kind) if kind in BATCHES else _json_lines(file)
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


def _table(file: Path, kind: str) -> Iterator[str | None]:
    import pyarrow as pa  # here, since it takes a while and few corpora are tables

    try:
        with file.open("rb") as stream:
            for batch in BATCHES[kind](file, stream):
                yield from batch.column(FIELD).to_pylist()
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(
            f"data.path={shown(file)} is not a whole {kind[1:].capitalize()} file with UTF-8 text "
            f"({one_line(error)[:150]}); fetch or write it anew."
        ) from error
    except OSError as error:
        raise unreadable(file, error) from error


def _parquet(file: Path, stream: IO[bytes]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(stream) as table:
        _check_column(file, table.schema_arrow)
        yield from table.iter_batches(batch_size=1024, columns=[FIELD])


def _arrow(file: Path, stream: IO[bytes]) -> Iterator[Any]:
    """Batches of an IPC stream, as ``datasets`` saves them (``save_to_disk``), or of an IPC file (Feather)."""
    import pyarrow as pa

    if not os.fstat(stream.fileno()).st_size:  # an empty file cannot be mapped
        raise pa.ArrowInvalid("it is empty")
    content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)  # so that no length in it leads beyond it
    is_feather = content[: len(FEATHER)] == FEATHER
    if not is_feather and content[-len(END) :] != END:
        raise pa.ArrowInvalid("it lacks its end")  # a stream that is cut between two batches ends well for the reader
    source = pa.BufferReader(content)
    reader = pa.ipc.open_file(source) if is_feather else pa.ipc.open_stream(source)
    _check_column(file, reader.schema)
    batches = map(reader.get_batch, range(reader.num_record_batches)) if is_feather else reader
    for batch in batches:
        batch.validate(full=True)
        yield batch


FEATHER, END = b"ARROW1", b"\xff\xff\xff\xff\0\0\0\0"
BATCHES: dict[str, Callable[[Path, IO[bytes]], Iterator[Any]]] = {".parquet": _parquet, ".arrow": _arrow}


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
