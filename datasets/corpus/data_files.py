"""Data files: their records, tables written into a corpus, and files of a corpus read on this machine."""

from __future__ import annotations

import hashlib
import io
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.corpus.commit_log import COMMITS, list_commits
from datasets.corpus.dedupe import Row
from datasets.corpus.state import TABLES, CorpusState, FileRecord
from datasets.runtime.errors import UserError
from datasets.runtime.storage.folder import Folder
from datasets.runtime.storage.local_folder import LocalFolder
from datasets.schema.optional_tables import OPTIONAL_TABLES

TEMPORARY = re.compile(rf"({COMMITS}/)?\.[^/]*\.json\.[^/]*")
"""Hidden files that a killed process has left beside files of JSON."""


def new_name() -> str:
    """A name for a data file that no other has."""
    return f"{uuid.uuid4().hex}.parquet"


def file_record(path: Path, num_rows: int) -> FileRecord:
    """What the corpus stores about a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    return FileRecord(path.name, num_rows, path.stat().st_size, digest.hexdigest())


def store_rows(folder: Folder, table: str, rows: Sequence[Row] | pa.Table, schema: pa.Schema) -> FileRecord:
    """Write rows of the games or rejects table to a new file of a corpus."""
    content = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=schema)
    buffer = io.BytesIO()
    pq.write_table(content, buffer, compression="zstd")
    name, written = new_name(), buffer.getvalue()
    folder.replace(f"{table}/{name}", written)
    return FileRecord(name, content.num_rows, len(written), hashlib.blake2b(written, digest_size=16).hexdigest())


def read_parquet(folder: Folder, path: str, schema: pa.Schema) -> pa.Table:
    """The rows of a file of the games or rejects table."""
    return in_schema(pq.read_table(pa.BufferReader(folder.read(path))), schema)


def in_schema(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows with the columns of a schema; those that an older format lacks are null."""
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(len(rows), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def local_copy(folder: Folder, path: str, scratch: Path) -> Path:
    """A file of a corpus on this machine's disk: itself, or a copy in a scratch folder."""
    if isinstance(folder, LocalFolder):
        return folder.root / path
    target = scratch / path
    folder.download(path, target)
    return target


def require_files(folder: Folder, state: CorpusState) -> None:
    """Check names and sizes of all files by listing them, so that an incomplete copy fails at once.

    Raises:
        UserError: a file that the corpus lists is missing or has another size.
    """
    hint = f"copy the corpus again, or drop what is damaged with `wm corpus repair {folder.location}`"
    found = {info.path: info.num_bytes for table in state.files for info in folder.list(table)}
    for path, record in state.paths().items():
        if path not in found:
            raise UserError(f"{folder.location} is incomplete ({path} is missing); {hint}")
        if found[path] != record.num_bytes:
            raise UserError(
                f"{folder.location}/{path} has {found[path]:,} bytes, expected {record.num_bytes:,}; {hint}"
            )


def unlisted_files(folder: Folder, state: CorpusState) -> list[str]:
    """Paths of files that no commit lists: left by killed runs, replaced by merged files, or superseded commits."""
    listed, tables = state.paths(), {*TABLES, *OPTIONAL_TABLES}
    found = [info.path for info in folder.list(hidden=True)]
    unlisted = [path for path in found if path.split("/")[0] in tables and path not in listed]
    temporary = [path for path in found if TEMPORARY.fullmatch(path)]
    return sorted({*unlisted, *temporary, *list_commits(folder)[1]})
