"""The container format of the older pipelines' games: Parquet with one struct column `root`, compressed with zlib."""

from __future__ import annotations

import zlib
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.runtime.errors import ReplayError
from datasets.schema.columns import NUM_PLAYERS

MAX_PARQUET_BYTES = 64 * 2**20
"""Limit for the uncompressed file. Eight minutes of play take 12 MB, or 24 MB with every frame resimulated."""
MAX_ROWS = 500_000
"""The longest game that the timer allows (99 minutes), with 2 in 5 frames resimulated."""
PARQUET_MAGIC = b"PAR1"


class ParsedFile:
    """The fields of one game, each an array over all rows.

    Raises:
        ReplayError: the bytes are not such a file, it is too large, or it does not have two players.
    """

    def __init__(self, content: bytes, fields: Collection[str]) -> None:
        """
        Args:
            content: the stored file, with or without zlib compression.
            fields: the fields to read of each player; dots separate the levels of nested structs.
        """
        data = content if content.startswith(PARQUET_MAGIC) else _decompress(content)
        try:
            with pq.ParquetFile(pa.BufferReader(data)) as file:
                self._fields = _fields(file.schema_arrow)
                _require_two_players(self._fields)
                self.num_rows = _checked_num_rows(file.metadata)
                wanted = [f"p{player}.{name}" for player in range(NUM_PLAYERS) for name in fields] + ["stage"]
                paths = [f"root.{name}" for name in wanted if name in self._fields]
                if not paths:
                    raise ReplayError("unreadable", "the Parquet file has no struct column `root` with players' frames")
                root = file.read(columns=paths, use_threads=False)["root"].combine_chunks()
        except (pa.ArrowException, OSError) as error:
            reason = (str(error).splitlines() or [""])[0][:200]
            raise ReplayError("unreadable", f"cannot read the Parquet file: {reason}") from error
        self._root = root.chunk(0) if isinstance(root, pa.ChunkedArray) else root

    def has(self, player: int, name: str) -> bool:
        """Whether a player has a field."""
        return f"p{player}.{name}" in self._fields

    def array(self, path: str) -> pa.Array:
        """The values of a field in all rows, such as `p0.controller.shoulder` or `stage`.

        Raises:
            ReplayError: the field is missing, or null in some rows.
        """
        if path not in self._fields:
            raise ReplayError("unreadable", f"the field {path} is missing: not a known form of parsed games")
        node = self._root
        nulls = node.null_count
        for name in path.split("."):
            node = node.field(name)
            nulls += node.null_count
        if nulls:
            code = "player_absent" if path.startswith("p") else "unreadable"
            raise ReplayError(code, f"{path} is null in {nulls} rows")
        return node


def _decompress(content: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(content, MAX_PARQUET_BYTES + 1)
    except zlib.error as error:
        raise ReplayError("unreadable", f"neither zlib nor Parquet: {error}") from error
    if len(data) > MAX_PARQUET_BYTES:
        raise ReplayError("too_large", f"more than {MAX_PARQUET_BYTES} bytes uncompressed")
    if not stream.eof:
        raise ReplayError("unreadable", f"the zlib stream is truncated after {len(content)} bytes")
    return data


def _fields(schema: pa.Schema) -> frozenset[str]:
    """Paths of all fields below `root` that are not structs; empty without that column."""
    index = schema.get_field_index("root")
    return frozenset() if index < 0 else frozenset(_leaf_paths("", schema.field(index).type))


def _leaf_paths(path: str, kind: pa.DataType) -> list[str]:
    if not pa.types.is_struct(kind):
        return [path]
    below = f"{path}." if path else ""
    return [leaf for field in kind.fields for leaf in _leaf_paths(f"{below}{field.name}", field.type)]


def _require_two_players(fields: Collection[str]) -> None:
    players = {path.split(".")[0] for path in fields} & {f"p{player}" for player in range(NUM_PLAYERS + 2)}
    if players and players != {f"p{player}" for player in range(NUM_PLAYERS)}:
        raise ReplayError("not_two_players", f"players {', '.join(sorted(players))}, expected p0 and p1")


def _checked_num_rows(metadata: pq.FileMetaData) -> int:
    """The number of rows, if the file's own metadata says that it is small enough to read."""
    if metadata.num_rows == 0:
        raise ReplayError("no_frames", "the file has no rows")
    num_bytes = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if metadata.num_rows > MAX_ROWS or num_bytes > MAX_PARQUET_BYTES:
        raise ReplayError(
            "too_large",
            f"{metadata.num_rows} rows, {num_bytes} bytes; expected at most {MAX_ROWS} rows, {MAX_PARQUET_BYTES} bytes",
        )
    return metadata.num_rows
