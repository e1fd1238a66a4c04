"""The container of an older pipeline's games: zlib around Parquet around one struct column `root`."""

from __future__ import annotations

import zlib
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from datasets.runtime.errors import ReplayError
from datasets.schema.columns import NUM_PLAYERS

MAX_PARQUET_BYTES = 64 * 2**20
"""Uncompressed. Eight minutes of play take 12 MB in the largest form, and twice that with every frame sent again."""
MAX_ROWS = 500_000
"""The longest game that the timer allows (99 minutes), with 2 in 5 frames sent again."""
PARQUET_MAGIC = b"PAR1"


class ParsedFile:
    """One game's fields, each a plain array of all rows.

    Raises:
        ReplayError: the bytes are not such a file, it holds too much, or it is not that of two players.
    """

    def __init__(self, content: bytes, fields: Collection[str]) -> None:
        """
        Args:
            content: as stored; what is not compressed is taken as well.
            fields: of a player, that are wanted; dots lead into structs.
        """
        data = content if content.startswith(PARQUET_MAGIC) else _uncompressed(content)
        try:
            with pq.ParquetFile(pa.BufferReader(data)) as file:
                self._fields = _fields(file.schema_arrow)
                _require_two_players(self._fields)
                self.num_rows = _checked(file.metadata)
                wanted = [f"p{player}.{name}" for player in range(NUM_PLAYERS) for name in fields] + ["stage"]
                paths = [f"root.{name}" for name in wanted if name in self._fields]
                if not paths:
                    raise ReplayError("unreadable", "the Parquet has no column `root` of players' frames")
                root = file.read(columns=paths, use_threads=False)["root"].combine_chunks()
        except (pa.ArrowException, OSError) as error:
            reason = (str(error).splitlines() or [""])[0][:200]
            raise ReplayError("unreadable", f"not Parquet that can be read: {reason}") from error
        self._root = root.chunk(0) if isinstance(root, pa.ChunkedArray) else root

    def has(self, player: int, name: str) -> bool:
        """Whether a player has a field."""
        return f"p{player}.{name}" in self._fields

    def array(self, path: str) -> pa.Array:
        """All rows of a field, such as `p0.controller.shoulder` or `stage`.

        Raises:
            ReplayError: the file has no such field, or leaves it empty in some rows.
        """
        if path not in self._fields:
            raise ReplayError("unreadable", f"there is no field {path}: the file has none of the forms that are known")
        node = self._root
        nulls = node.null_count
        for name in path.split("."):
            node = node.field(name)
            nulls += node.null_count
        if nulls:
            code = "player_absent" if path.startswith("p") else "unreadable"
            raise ReplayError(code, f"{path} is empty in {nulls} rows")
        return node


def _uncompressed(content: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(content, MAX_PARQUET_BYTES + 1)
    except zlib.error as error:
        raise ReplayError("unreadable", f"neither zlib nor Parquet: {error}") from error
    if len(data) > MAX_PARQUET_BYTES:
        raise ReplayError("too_large", f"more than {MAX_PARQUET_BYTES} bytes when uncompressed")
    if not stream.eof:
        raise ReplayError("unreadable", f"the zlib stream is cut off after {len(content)} bytes")
    return data


def _fields(schema: pa.Schema) -> frozenset[str]:
    """Paths of all plain fields below `root`; empty where there is no such column."""
    index = schema.get_field_index("root")
    return frozenset() if index < 0 else frozenset(_leaves("", schema.field(index).type))


def _leaves(path: str, kind: pa.DataType) -> list[str]:
    if not pa.types.is_struct(kind):
        return [path]
    below = f"{path}." if path else ""
    return [leaf for field in kind.fields for leaf in _leaves(f"{below}{field.name}", field.type)]


def _require_two_players(fields: Collection[str]) -> None:
    players = {path.split(".")[0] for path in fields} & {f"p{player}" for player in range(NUM_PLAYERS + 2)}
    if players and players != {f"p{player}" for player in range(NUM_PLAYERS)}:
        raise ReplayError("not_two_players", f"players {', '.join(sorted(players))}, expected p0 and p1")


def _checked(metadata: pq.FileMetaData) -> int:
    """The number of rows, if reading them is safe as far as the file itself says."""
    if metadata.num_rows == 0:
        raise ReplayError("no_frames", "the file has no rows")
    num_bytes = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if metadata.num_rows > MAX_ROWS or num_bytes > MAX_PARQUET_BYTES:
        raise ReplayError("too_large", f"{metadata.num_rows} rows of {num_bytes} bytes, expected at most {MAX_ROWS}")
    return metadata.num_rows
