"""How encoded chunks become part of a corpus: in order, without repeats, and whole or not at all.

What a chunk adds is decided in order; its files are then made by a few threads, and its commit is written when
those of all chunks before it are. Games whose .slp has arrived leave their commits when the encode finishes.
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
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from datasets.corpus.commit_files import FileRecord, GameFiles, StagedFiles, move_files, stage_files
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
from datasets.corpus.revision import build_revision
from datasets.runtime.durable_files import TEMPORARY_PATTERN, fsync_folder, write_json_atomically
from datasets.runtime.errors import UserError, first_difference
from datasets.runtime.file_lock import exclusive_lock
from datasets.schema.columns import FORMAT_VERSION

if TYPE_CHECKING:
    from datasets.corpus.chunk import ChunkResult, EncodeOptions

FILE_THREADS = 4
"""Commits whose files are made at once: on shared storage most of that is waiting."""


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A commit whose files are being made."""

    number: int
    commit: Commit
    staged: Future[StagedFiles]
    leftovers: tuple[Path, ...]
    """Staged files of its chunk: gone when it is committed."""


class Committer:
    """Owns the corpus folder while an encode runs: takes chunk results in order and commits them."""

    def __init__(self, out: Path, options: EncodeOptions | dict[str, Any]) -> None:
        self.out = out.resolve()
        plain = options if isinstance(options, dict) else dataclasses.asdict(options)
        self._options = json.loads(json.dumps(plain))
        self._lock = self._claim()
        shutil.rmtree(self.out / STAGING, ignore_errors=True)
        self.staging = self.out / STAGING / uuid.uuid4().hex  # a worker left over by a killed run has another
        for folder in (*TABLES, COMMITS, self.staging):
            (self.out / folder).mkdir(parents=True, exist_ok=True)
        fsync_folder(self.out)
        self.num_games = 0
        self.num_frames = 0
        self.reject_counts: Counter = Counter()
        self.num_dropped = 0
        """Games that leave their commits at `finish`, since the corpus has them elsewhere; no longer counted."""
        self._keys: list[np.ndarray] = []
        self._ledger = KnownGames()
        self._files: dict[int, tuple[str, FileSummaries]] = {}
        self._next_number = 0
        self._under_way: deque[_UnderWay] = deque()
        self._pool = ThreadPoolExecutor(FILE_THREADS)
        try:
            self._recover()
        except BaseException:
            self._lock.close()
            raise

    def done_keys(self) -> np.ndarray:
        """Which inputs are accounted for: uint64, sorted; the first 16 hexadecimal digits of their keys."""
        return np.sort(np.concatenate([np.zeros(0, dtype=np.uint64), *self._keys]))

    def commit(self, result: ChunkResult) -> Commit:
        """Make a chunk's games and rejects part of the corpus, less the games that it has already.

        It is on disk once its files are made: in order, each as a whole, at most a few commits later.

        Returns:
            The commit, still without its `files`.
        """
        number = self._next_number
        resolution = resolve(self._ledger, number, result.games)
        for entry in resolution.replaced:
            self._forgo(entry, "replaced")
        kept = [game for game, stays in zip(result.games, resolution.keeps, strict=True) if stays]
        rejects = result.rejects + resolution.rejects
        commit: Commit = {
            "format_version": FORMAT_VERSION,
            "options": self._options,
            "inputs": list(result.keys),
            "games": [[game["game_id"], game["fingerprint"], game["num_frames"]] for game in kept],
            "parsed": [game["game_id"] for game in kept if game["form"] != SLP],
            "rejects": Counter(reject["code"] for reject in rejects),
            "replaced": [entry.game_id for entry in resolution.replaced],
        }
        source = _chunk_files(self.staging, result)
        self._count(commit)
        self._next_number += 1
        staged = self._pool.submit(stage_files, self.staging, commit_stem(number), source, resolution.keeps, rejects)
        leftovers = tuple(self.staging / file for file in (result.frames_file, result.followers_file) if file)
        self._under_way.append(_UnderWay(number, commit, staged, leftovers))
        while len(self._under_way) > FILE_THREADS or (self._under_way and self._under_way[0].staged.done()):
            self._land_next()
        return commit

    def finish(self) -> None:
        """Let games go whose .slp has arrived, show all commits to readers, and leave nothing unfinished behind."""
        while self._under_way:
            self._land_next()
        for number, revision, commit, staged in map_in_order(self._revised, self._ledger.drops(), FILE_THREADS):
            self._land(number, revision, commit, staged)
        manifest = self._manifest()
        write_json_atomically(self.out / CORPUS_FILE, manifest)
        _remove_strays(self.out, manifest)
        (self.out / IN_PROGRESS_FILE).unlink(missing_ok=True)
        self._pool.shutdown()
        self._ledger.close()
        self._lock.close()

    def _claim(self) -> IO[bytes]:
        """Check that the folder is ours and of the same options, lock it, and mark it as being written."""
        self._require_ours()
        self.out.mkdir(parents=True, exist_ok=True)
        lock = exclusive_lock(
            self.out / LOCK_FILE, f"another encode is writing {self.out}; wait for it or name another --out"
        )
        self._require_ours()  # another encode may have ended between the two
        write_json_atomically(self.out / IN_PROGRESS_FILE, {"format_version": FORMAT_VERSION, "options": self._options})
        return lock

    def _require_ours(self) -> None:
        for name in (CORPUS_FILE, IN_PROGRESS_FILE):
            if (self.out / name).exists():
                options = read_manifest(self.out / name).get("options")
                if options != self._options:
                    raise UserError(
                        f"{self.out} was made with other options ({first_difference(options or {}, self._options)}); "
                        "use those, or another --out"
                    )
                return
        if self.out.exists() and (not self.out.is_dir() or _foreign(self.out)):
            raise UserError(f"{self.out} exists and is no corpus; name an empty or new folder with --out")

    def _recover(self) -> None:
        """Take up what is committed, also by runs that were killed."""
        names, _ = list_commits(self.out)
        for name, commit in read_commits(self.out, names):
            try:
                self._take_up(name, commit)
            except (KeyError, TypeError, ValueError) as error:
                raise damaged_commit_error(self.out, name, type(error).__name__) from error
        for entry in self._ledger.repeats():
            self._ledger.drop(entry, "duplicate")
            self._forgo(entry, "duplicate")
        require_files(self.out, self._manifest())

    def _take_up(self, name: str, commit: Commit) -> None:
        number, _ = number_and_revision(name)
        parsed = set(commit["parsed"])
        for game_id in commit["replaced"]:
            for entry in self._ledger.of_id(game_id):
                self._ledger.drop(entry, "replaced")
                self._forgo(entry, "replaced")
        self._count(commit)
        self._ledger.add(
            KnownGame(game_id, fingerprint, num_frames, game_id in parsed, number)
            for game_id, fingerprint, num_frames in commit["games"]
        )
        self._files[number] = (name, _brief(commit["files"]))
        self._next_number = number + 1

    def _count(self, commit: Commit) -> None:
        self._keys.append(np.array([int(key[:16], 16) for key in commit["inputs"]], dtype=np.uint64))
        self.num_games += len(commit["games"])
        self.num_frames += sum(num_frames for *_, num_frames in commit["games"])
        self.reject_counts.update(commit["rejects"])

    def _forgo(self, entry: KnownGame, code: str) -> None:
        """Count a game that will leave its commit as what it becomes."""
        self.num_dropped += 1
        self.num_games -= 1
        self.num_frames -= entry.num_frames
        self.reject_counts[code] += 1

    def _land_next(self) -> None:
        """Write the oldest commit whose files are being made."""
        oldest = self._under_way[0]
        self._land(oldest.number, 0, oldest.commit, oldest.staged.result())
        for path in oldest.leftovers:
            path.unlink(missing_ok=True)
        self._under_way.popleft()

    def _land(self, number: int, revision: int, commit: Commit, staged: StagedFiles) -> None:
        move_files(self.out, staged)
        name = f"{commit_stem(number, revision)}.json"
        write_json_atomically(self.out / COMMITS / name, with_checksum(commit | {"files": staged.files}))
        self._files[number] = (name, _brief(staged.files))

    def _revised(self, drops: tuple[int, list[DroppedGame]]) -> tuple[int, int, Commit, StagedFiles]:
        name, _ = self._files[drops[0]]
        return build_revision(self.out, self.staging, name, drops[1])

    def _manifest(self) -> dict[str, Any]:
        counts = {"num_games": self.num_games, "num_frames": self.num_frames, "rejects": dict(self.reject_counts)}
        return build_manifest(self._options, counts, self._files.values())


def _chunk_files(staging: Path, result: ChunkResult) -> GameFiles | None:
    if result.frames_file is None:
        return None
    return GameFiles(
        games=result.games,
        frames=staging / result.frames_file,
        followers=None if result.followers_file is None else staging / result.followers_file,
        facts=result.staged_files,
    )


def _brief(files: dict[str, FileRecord]) -> FileSummaries:
    return {table: (facts["name"], facts["rows"], facts["bytes"]) for table, facts in files.items()}


def _foreign(folder: Path) -> bool:
    """Whether a folder holds anything but what an encode leaves that was killed in its first instant."""
    return any(path.name != LOCK_FILE and not path.match(TEMPORARY_PATTERN) for path in folder.iterdir())


def _remove_strays(root: Path, manifest: dict[str, Any]) -> None:
    """FileSummaries of killed runs and of older revisions: our readers skip them, a glob of `*.parquet` would not."""
    for path in unlisted_files(root, manifest):
        path.unlink(missing_ok=True)
    shutil.rmtree(root / STAGING, ignore_errors=True)
