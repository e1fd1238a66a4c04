"""Committing encoded chunks to a corpus: in order, without duplicate games, many chunks in one atomic commit.

Workers put the chunks' files into the folder themselves. `Committer.add` decides in chunk order which games are new;
every few seconds, one new object lists what has come since the last one. What no commit lists does not exist.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from datasets.corpus.chunk import ChunkResult, EncodeOptions
from datasets.corpus.claim import claim, delete_staging, new_staging
from datasets.corpus.commit_log import Commit, commit_number, list_commits, new_commit, read_commits, write_commit
from datasets.corpus.data_files import read_parquet, require_files, store_rows, unlisted_files
from datasets.corpus.dedupe import Row, resolve
from datasets.corpus.earlier_rejects import EarlierReject, EarlierRejects
from datasets.corpus.known_games import KnownGame, KnownGames
from datasets.corpus.merge import Limits, merge_files
from datasets.corpus.state import (
    CORPUS_FILE,
    GAMES,
    IN_PROGRESS_FILE,
    REJECTS,
    CorpusState,
    FileRecord,
    parse_state,
)
from datasets.runtime.storage.folder import Folder, open_folder
from datasets.runtime.uris import is_remote
from datasets.schema.columns import GAMES_SCHEMA, REJECTS_SCHEMA

COMMIT_SECONDS = 2.0
"""A chunk that arrives so long after the last commit is committed at once, with all that arrived since."""
MAX_PENDING_GAMES = 50_000
"""So many games are committed at once: the rows take about 100 MB."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChunkOutcome:
    """What became of a chunk."""

    num_games: int
    num_frames: int
    num_replaced: int
    """Games of earlier chunks that were replaced by their .slp."""
    rejects: Counter[str]


class Committer:
    """Owns the corpus folder while an encode runs: takes chunk results in order and commits them.

    A context manager: leaving it releases the lock. Chunks that are not committed then are encoded again by the next
    run.
    """

    def __init__(
        self,
        out: str | Path,
        options: EncodeOptions | dict[str, Any],
        *,
        retry: Iterable[str] = (),
        commit_seconds: float = COMMIT_SECONDS,
    ) -> None:
        """Lock the folder and load its commits, including those of killed runs.

        Args:
            out: path or URI.
            retry: reason codes of rejects whose inputs `done_keys` leaves out, so that they are encoded again.
        Raises:
            UserError: the folder is not a corpus, was made with other options, is damaged, or is locked by another
                process.
        """
        self.folder: Folder = open_folder(out if is_remote(str(out)) else Path(out).resolve())
        plain = options if isinstance(options, dict) else dataclasses.asdict(options)
        self._options = json.loads(json.dumps(plain))
        self._commit_seconds = commit_seconds
        self._lock = claim(self.folder, self._options)
        self._keys: list[np.ndarray] = []
        self._known = KnownGames()
        self._moved: dict[str, str] = {}
        self._retry = tuple(retry)
        self.state = CorpusState(options=self._options)
        self.staging = new_staging(self.folder)
        """Folder on each machine's own disk, or in the corpus's folder, for files that workers are writing."""
        try:
            self._published = self._published_files()
            self._recover()
            self._begin_batch()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Committer:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def num_games(self) -> int:
        """Games of the corpus, those not yet committed included."""
        return self.state.num_games + len(self._games) - len(self._removed)

    @property
    def num_frames(self) -> int:
        """Their frames."""
        new = sum(row["num_frames"] for row in self._games.values())
        return self.state.num_frames + new - sum(num_frames for *_, num_frames in self._removed)

    @property
    def reject_counts(self) -> Counter[str]:
        """Rejected inputs by reason code, those not yet committed included."""
        removed = Counter(code for *_, code in self._removed_rejects)
        return self.state.rejects + Counter(row["code"] for row in self._rejects) - removed

    def done_keys(self) -> np.ndarray:
        """Inputs that the corpus accounts for: uint64, sorted, the first 16 hexadecimal digits of their keys."""
        done = np.sort(np.concatenate([np.zeros(0, dtype=np.uint64), *self._keys]))
        return np.setdiff1d(done, self._earlier.keys_to_retry(self._retry))

    def known_game_ids(self) -> Iterator[str]:
        """Ids of the games that nothing replaces: the md5 of their .slp.

        An input with such an md5 is a duplicate (`dedupe.duplicate_message`), also without parsing it.
        """
        return self._known.final_ids()

    def add(self, result: ChunkResult) -> ChunkOutcome:
        """Add a chunk's rejects and its new games, and commit if the last commit is a while ago."""
        resolution = resolve(self._known, result.games)
        for game in resolution.replaced:
            if self._games.pop(game.game_id, None) is None:
                assert game.parsed is not None
                shard = game.parsed["shard"]
                while shard in self._moved:
                    shard = self._moved[shard]
                self._removed.append((game.game_id, shard, game.num_frames))
        self._games |= {row["game_id"]: row for row in resolution.kept}
        position = {key: index for index, key in enumerate(result.keys)}
        rejects = sorted(
            result.rejects + resolution.rejects, key=lambda row: position.get(row["key"], len(position))
        )  # the order does not depend on who found a duplicate
        self._rejects += rejects
        self._inputs += result.keys
        self._removed_rejects += self._earlier.superseded_by({*result.keys, *result.locations})
        if resolution.kept:
            for table, record in result.files.items():
                self._files.setdefault(table, []).append(record)
        since = time.monotonic() - self._committed_at
        if since >= self._commit_seconds or len(self._games) >= MAX_PENDING_GAMES:
            self.commit()
        return ChunkOutcome(
            num_games=len(resolution.kept),
            num_frames=sum(row["num_frames"] for row in resolution.kept),
            num_replaced=len(resolution.replaced),
            rejects=Counter(reject["code"] for reject in rejects),
        )

    def commit(self) -> None:
        """Commit what was added since the last commit."""
        if not self._inputs and not self._removed_rejects:
            return
        games, files = list(self._games.values()), dict(self._files)
        if games:
            files[GAMES] = [store_rows(self.folder, GAMES, games, GAMES_SCHEMA)]
        if self._rejects:
            files[REJECTS] = [store_rows(self.folder, REJECTS, self._rejects, REJECTS_SCHEMA)]
        parsed = {
            row["game_id"]: self._known.with_id(row["game_id"])[0].parsed for row in games if row["form"] != "slp"
        }
        self._write(
            inputs=self._inputs,
            games=[[row["game_id"], row["fingerprint"], row["num_frames"]] for row in games],
            parsed=parsed,
            files=files,
            rejects=Counter(row["code"] for row in self._rejects),
            removed_games=self._removed,
            removed_rejects=self._removed_rejects,
        )
        self._keys.append(_as_numbers(self._inputs))
        self._begin_batch()

    def merge(self, limits: Limits, *, all_files: bool = False) -> None:
        """Merge small files, and drop the rows of removed games from those that are merged.

        Args:
            all_files: also those that readers of the corpus may have open; by default only files that are newer than
                `corpus.json`.
        """
        self.commit()
        kept = set() if all_files else self._published
        for merged in merge_files(self.folder, self.state, kept, limits):
            self._write(**merged)

    def finish(self, limits: Limits | None = None) -> None:
        """Commit what is left, merge the new small files, write `corpus.json`, and delete what no commit lists.

        Args:
            limits: None merges as every encode does.
        """
        self.merge(limits or Limits())
        require_files(self.folder, self.state)
        content = self.state.to_json()
        if not self.folder.exists(CORPUS_FILE) or self.folder.read(CORPUS_FILE) != content:
            self.folder.replace(CORPUS_FILE, content)
        self.folder.delete(unlisted_files(self.folder, self.state))
        self.folder.delete([IN_PROGRESS_FILE])
        self.close()

    def close(self) -> None:
        """Release the lock."""
        self._known.close()
        delete_staging(self.folder, self.staging)
        self._lock.close()

    def _begin_batch(self) -> None:
        self._games: dict[str, Row] = {}
        self._rejects: list[Row] = []
        self._inputs: list[str] = []
        self._files: dict[str, list[FileRecord]] = {}
        self._removed: list[tuple[str, str, int]] = []
        self._removed_rejects: list[EarlierReject] = []
        self._committed_at = time.monotonic()

    def _write(self, **fields: Any) -> None:
        commit = new_commit(self._options, **fields)
        write_commit(self.folder, self.state.num_commits, commit)
        self.state.apply(commit)
        self._moved |= commit["moved"]

    def _published_files(self) -> set[str]:
        """Paths of the data files that `corpus.json` lists."""
        if not self.folder.exists(CORPUS_FILE):
            return set()
        return set(parse_state(self.folder, self.folder.read(CORPUS_FILE)).paths())

    def _recover(self) -> None:
        """Load the commits, including those of killed runs."""
        paths, _ = list_commits(self.folder)
        self.state.num_commits = commit_number(paths[0]) if paths else 0
        for commit in read_commits(self.folder, paths):
            self._load_commit(commit)
        require_files(self.folder, self.state)
        self._earlier = EarlierRejects(self._reject_tables())

    def _load_commit(self, commit: Commit) -> None:
        for game_id, *_ in commit["removed_games"]:
            self._known.remove(game_id)
        parsed = commit["parsed"]
        self._known.add(
            KnownGame(game_id, fingerprint, num_frames, parsed.get(game_id))
            for game_id, fingerprint, num_frames in commit["games"]
        )
        self._keys.append(_as_numbers(commit["inputs"]))
        self._moved |= commit["moved"]
        self.state.apply(commit)

    def _reject_tables(self) -> Iterator[tuple[str, pa.Table]]:
        """Name and committed rows of each file of the rejects table."""
        for record in self.state.files.get(REJECTS, ()):
            part = dataclasses.replace(self.state, files={REJECTS: [record]})
            yield (
                record.name,
                part.read_rows(REJECTS, REJECTS_SCHEMA, lambda path: read_parquet(self.folder, path, REJECTS_SCHEMA)),
            )


def _as_numbers(keys: Iterable[str]) -> np.ndarray:
    return np.unique(np.array([int(key[:16], 16) for key in keys], dtype=np.uint64))
