"""Committing encoded chunks to a corpus: in order, without duplicate games, each chunk atomically.

`Committer.commit` decides in chunk order which games are new. A few threads then write the chunk's files, and its
commit is published once the files of all earlier chunks are. Games that were replaced by their .slp are removed from
their commits when the encode finishes.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import uuid
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from datasets.corpus.chunk import ChunkResult, EncodeOptions
from datasets.corpus.commit_files import GameFiles, StagedFiles, build_revision, file_summaries, move_files, stage_files
from datasets.corpus.commit_log import (
    COMMITS,
    Commit,
    commit_stem,
    damaged_commit_error,
    list_commits,
    map_in_order,
    number_and_revision,
    read_commits,
    with_checksum,
)
from datasets.corpus.dedupe import SLP, resolve
from datasets.corpus.known_games import DroppedGame, KnownGame, KnownGames
from datasets.corpus.manifest import (
    CORPUS_FILE,
    IN_PROGRESS_FILE,
    LOCK_FILE,
    STAGING,
    TABLES,
    FileSummaries,
    build_manifest,
    read_manifest,
    require_files,
    unlisted_files,
)
from datasets.runtime.durable_files import TEMPORARY_PATTERN, fsync_folder, write_json_atomically
from datasets.runtime.errors import UserError, first_difference
from datasets.runtime.file_lock import exclusive_lock
from datasets.schema.columns import FORMAT_VERSION

FILE_THREADS = 4
"""Commits whose files are written concurrently; on shared storage most of that time is waiting."""


@dataclass(frozen=True, slots=True)
class _PendingCommit:
    """A commit whose files are being written."""

    number: int
    commit: Commit
    staged: Future[StagedFiles]
    chunk_files: tuple[Path, ...]
    """The chunk's staged files, deleted once the commit is published."""


class Committer:
    """Owns the corpus folder while an encode runs: takes chunk results in order and commits them.

    A context manager: leaving it releases the lock and the threads. Commits that are still pending then are
    discarded, and the next run encodes their inputs again.
    """

    def __init__(self, out: Path, options: EncodeOptions | dict[str, Any]) -> None:
        """Lock the folder and load its commits, including those of killed runs.

        Raises:
            UserError: the folder is not a corpus, was made with other options, is damaged, or is locked by another
                process.
        """
        self.out = out.resolve()
        plain = options if isinstance(options, dict) else dataclasses.asdict(options)
        self._options = json.loads(json.dumps(plain))
        self._lock = self._claim()
        self.num_games = 0
        self.num_frames = 0
        self.reject_counts: Counter = Counter()
        self.num_dropped = 0
        """Games that `finish` removes from their commits because the corpus has them elsewhere; not in `num_games`."""
        self._keys: list[np.ndarray] = []
        self._known = KnownGames()
        self._files: dict[int, tuple[str, FileSummaries]] = {}
        self._next_number = 0
        self._pending: deque[_PendingCommit] = deque()
        self._pool = ThreadPoolExecutor(FILE_THREADS)
        try:
            shutil.rmtree(self.out / STAGING, ignore_errors=True)
            self.staging = self.out / STAGING / uuid.uuid4().hex  # a worker of a killed run writes to another one
            for folder in (*TABLES, COMMITS, self.staging):
                (self.out / folder).mkdir(parents=True, exist_ok=True)
            fsync_folder(self.out)
            self._recover()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Committer:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def done_keys(self) -> np.ndarray:
        """Inputs that the corpus accounts for: uint64, sorted, the first 16 hexadecimal digits of their keys."""
        return np.sort(np.concatenate([np.zeros(0, dtype=np.uint64), *self._keys]))

    def commit(self, result: ChunkResult) -> Commit:
        """Add a chunk's rejects and its new games to the corpus.

        The commit is published once its files are written: in order, and at most FILE_THREADS commits later.

        Returns:
            The commit, still without its `files`.
        """
        number = self._next_number
        resolution = resolve(self._known, number, result.games)
        for game in resolution.replaced:
            self._uncount(game, "replaced")
        kept = [game for game, keep in zip(result.games, resolution.keep, strict=True) if keep]
        rejects = result.rejects + resolution.rejects
        commit: Commit = {
            "format_version": FORMAT_VERSION,
            "options": self._options,
            "inputs": list(result.keys),
            "games": [[game["game_id"], game["fingerprint"], game["num_frames"]] for game in kept],
            "parsed": [game["game_id"] for game in kept if game["form"] != SLP],
            "rejects": Counter(reject["code"] for reject in rejects),
            "replaced": [game.game_id for game in resolution.replaced],
        }
        source = _game_files(self.staging, result)
        self._count(commit)
        self._next_number += 1
        staged = self._pool.submit(stage_files, self.staging, commit_stem(number), source, resolution.keep, rejects)
        chunk_files = tuple(self.staging / file for file in (result.frames_file, result.followers_file) if file)
        self._pending.append(_PendingCommit(number, commit, staged, chunk_files))
        while len(self._pending) > FILE_THREADS or (self._pending and self._pending[0].staged.done()):
            self._publish_next()
        return commit

    def finish(self) -> None:
        """Publish all pending commits, remove replaced games from theirs, write `corpus.json`, and clean up."""
        while self._pending:
            self._publish_next()
        revisions = map_in_order(self._build_revision, self._known.dropped_by_commit(), FILE_THREADS)
        for number, revision, commit, staged in revisions:
            self._publish(number, revision, commit, staged)
        manifest = self._manifest()
        write_json_atomically(self.out / CORPUS_FILE, manifest)
        _remove_unlisted(self.out, manifest)
        (self.out / IN_PROGRESS_FILE).unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Release the lock and the threads. What was not published is left to the next run."""
        self._pool.shutdown(cancel_futures=True)
        self._known.close()
        self._lock.close()

    def _claim(self) -> IO[bytes]:
        """Check that the folder is ours and has the same options, lock it, and mark it as being written."""
        self._require_ours()
        self.out.mkdir(parents=True, exist_ok=True)
        lock = exclusive_lock(
            self.out / LOCK_FILE, f"another encode is writing {self.out}; wait for it or choose another --out"
        )
        try:
            self._require_ours()  # another encode may have finished in between
            state = {"format_version": FORMAT_VERSION, "options": self._options}
            write_json_atomically(self.out / IN_PROGRESS_FILE, state)
        except BaseException:
            lock.close()
            raise
        return lock

    def _require_ours(self) -> None:
        for name in (CORPUS_FILE, IN_PROGRESS_FILE):
            if (self.out / name).exists():
                options = read_manifest(self.out / name).get("options")
                if options != self._options:
                    raise UserError(
                        f"{self.out} was made with other options ({first_difference(options or {}, self._options)}); "
                        "use the same options, or another --out"
                    )
                return
        if self.out.exists() and (not self.out.is_dir() or _has_foreign_files(self.out)):
            raise UserError(f"{self.out} exists and is not a corpus; choose an empty or new folder with --out")

    def _recover(self) -> None:
        """Load the commits on disk, including those of killed runs."""
        names, _ = list_commits(self.out)
        for name, commit in read_commits(self.out, names):
            try:
                self._load_commit(name, commit)
            except (KeyError, TypeError, ValueError) as error:
                raise damaged_commit_error(self.out, name, type(error).__name__) from error
        for game in self._known.duplicates():
            self._known.drop(game, "duplicate")
            self._uncount(game, "duplicate")
        require_files(self.out, self._manifest())

    def _load_commit(self, name: str, commit: Commit) -> None:
        number, _ = number_and_revision(name)
        parsed = set(commit["parsed"])
        for game_id in commit["replaced"]:
            for game in self._known.with_id(game_id):
                self._known.drop(game, "replaced")
                self._uncount(game, "replaced")
        self._count(commit)
        self._known.add(
            KnownGame(game_id, fingerprint, num_frames, game_id in parsed, number)
            for game_id, fingerprint, num_frames in commit["games"]
        )
        self._files[number] = (name, file_summaries(commit["files"]))
        self._next_number = number + 1

    def _count(self, commit: Commit) -> None:
        self._keys.append(np.array([int(key[:16], 16) for key in commit["inputs"]], dtype=np.uint64))
        self.num_games += len(commit["games"])
        self.num_frames += sum(num_frames for *_, num_frames in commit["games"])
        self.reject_counts.update(commit["rejects"])

    def _uncount(self, game: KnownGame, code: str) -> None:
        """Count a game that `finish` will remove from its commit as a reject."""
        self.num_dropped += 1
        self.num_games -= 1
        self.num_frames -= game.num_frames
        self.reject_counts[code] += 1

    def _publish_next(self) -> None:
        """Publish the oldest pending commit, waiting for its files."""
        oldest = self._pending[0]
        self._publish(oldest.number, 0, oldest.commit, oldest.staged.result())
        for path in oldest.chunk_files:
            path.unlink(missing_ok=True)
        self._pending.popleft()

    def _publish(self, number: int, revision: int, commit: Commit, staged: StagedFiles) -> None:
        move_files(self.out, staged)
        name = f"{commit_stem(number, revision)}.json"
        write_json_atomically(self.out / COMMITS / name, with_checksum(commit | {"files": staged.files}))
        self._files[number] = (name, file_summaries(staged.files))

    def _build_revision(self, dropped: tuple[int, list[DroppedGame]]) -> tuple[int, int, Commit, StagedFiles]:
        name, _ = self._files[dropped[0]]
        return build_revision(self.out, self.staging, name, dropped[1])

    def _manifest(self) -> dict[str, Any]:
        counts = {"num_games": self.num_games, "num_frames": self.num_frames, "rejects": dict(self.reject_counts)}
        return build_manifest(self._options, counts, self._files.values())


def _game_files(staging: Path, result: ChunkResult) -> GameFiles | None:
    if result.frames_file is None:
        return None
    return GameFiles(
        games=result.games,
        frames=staging / result.frames_file,
        followers=None if result.followers_file is None else staging / result.followers_file,
        records=result.staged_files,
    )


def _has_foreign_files(folder: Path) -> bool:
    """Whether a folder contains anything but what an encode leaves that was killed at its first file."""
    return any(path.name != LOCK_FILE and not path.match(TEMPORARY_PATTERN) for path in folder.iterdir())


def _remove_unlisted(root: Path, manifest: dict[str, Any]) -> None:
    """Delete files of killed runs and older revisions. Our reader skips them; a glob of `*.parquet` would not."""
    for path in unlisted_files(root, manifest):
        path.unlink(missing_ok=True)
    shutil.rmtree(root / STAGING, ignore_errors=True)
