"""How encoded chunks become part of a corpus: in order, without repeats, and whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datasets.corpus import (
    ASIDE_PATTERN,
    COMMITS,
    CORPUS_FILE,
    FOLLOWERS,
    FRAMES,
    GAMES,
    IN_PROGRESS_FILE,
    LOCK_FILE,
    REJECTS,
    STAGING,
    file_facts,
    read_manifest,
    write_json_atomically,
)
from datasets.errors import UserError, first_difference
from datasets.lock import exclusive
from datasets.schema import FOLLOWERS_SCHEMA, FORMAT_VERSION, GAMES_SCHEMA, REJECTS_SCHEMA
from datasets.shard import ShardWriter

if TYPE_CHECKING:
    from datasets.encode import ChunkResult, EncodeOptions


Commit = dict[str, Any]
"""Content of a file in commits/: input keys, files with checksums, games and rejects by reason."""


class Committer:
    """Owns the corpus folder while an encode runs: takes chunk results in order and commits them."""

    def __init__(self, out: Path, options: EncodeOptions) -> None:
        self.out = out.resolve()
        self._options = dataclasses.asdict(options)
        self._claim()
        self._lock = exclusive(
            self.out / LOCK_FILE, f"another encode is writing {self.out}; wait for it or name another --out"
        )
        self.staging = self.out / STAGING
        shutil.rmtree(self.staging, ignore_errors=True)
        for folder in (FRAMES, FOLLOWERS, GAMES, REJECTS, COMMITS, STAGING):
            (self.out / folder).mkdir(parents=True, exist_ok=True)
        self.done_keys: set[str] = set()
        self.num_games = 0
        self.num_frames = 0
        self.reject_counts: Counter = Counter()
        self._fingerprints: dict[str, str] = {}
        self._named_files: set[tuple[str, str]] = set()
        self._commit_names: list[str] = []
        self._recover()

    def commit(self, result: ChunkResult) -> Commit:
        """Make a chunk's games and rejects part of the corpus, less the games it has already."""
        number = len(self._commit_names)
        shard = f"shard-{number:06d}.parquet"
        kept, duplicates = self._first_of_each(result.games)
        rejects = result.rejects + duplicates
        files: dict[str, dict[str, Any]] = {}
        if kept:
            kept = self._place_frames(result, kept, shard, files)
            self._place_followers(result, kept, shard, files)
            files[GAMES] = self._write_rows(GAMES, number, kept, GAMES_SCHEMA)
        if rejects:
            files[REJECTS] = self._write_rows(REJECTS, number, rejects, REJECTS_SCHEMA)
        commit: Commit = {
            "format_version": FORMAT_VERSION,
            "inputs": [replay.key for replay in result.inputs],
            "files": files,
            "games": [[game["game_id"], game["fingerprint"], game["num_frames"]] for game in kept],
            "rejects": Counter(reject["code"] for reject in rejects),
        }
        name = f"{number:06d}.json"
        write_json_atomically(self.out / COMMITS / name, commit)
        self._remember(name, commit)
        for file in (result.frames_file, result.followers_file):
            if file is not None:
                (self.staging / file).unlink(missing_ok=True)
        return commit

    def finish(self) -> None:
        """Show all commits to readers, and leave nothing unfinished behind."""
        write_json_atomically(
            self.out / CORPUS_FILE,
            {
                "format_version": FORMAT_VERSION,
                "options": self._options,
                "num_games": self.num_games,
                "num_frames": self.num_frames,
                "rejects": dict(self.reject_counts),
                "commits": self._commit_names,
            },
        )
        shutil.rmtree(self.staging, ignore_errors=True)
        self._remove_strays()
        (self.out / IN_PROGRESS_FILE).unlink(missing_ok=True)
        self._lock.close()

    def _claim(self) -> None:
        """Check that the folder is ours and of the same options, then mark it as being written."""
        for name in (CORPUS_FILE, IN_PROGRESS_FILE):
            if (self.out / name).exists():
                options = read_manifest(self.out / name)["options"]
                if options != self._options:
                    raise UserError(
                        f"{self.out} was made with other options ({first_difference(options, self._options)}); "
                        "use those, or another --out"
                    )
                break
        else:
            if self.out.exists() and (not self.out.is_dir() or _foreign(self.out)):
                raise UserError(f"{self.out} exists and is no corpus; name an empty or new folder with --out")
            self.out.mkdir(parents=True, exist_ok=True)
        write_json_atomically(self.out / IN_PROGRESS_FILE, {"format_version": FORMAT_VERSION, "options": self._options})

    def _remove_strays(self) -> None:
        """Files of a run killed before its commit: our readers skip them, a glob of `*.parquet` would not."""
        for folder in (FRAMES, FOLLOWERS, GAMES, REJECTS):
            for path in (self.out / folder).glob("*.parquet"):
                if (folder, path.name) not in self._named_files:
                    path.unlink()
        for path in (*self.out.glob(ASIDE_PATTERN), *(self.out / COMMITS).glob(ASIDE_PATTERN)):
            path.unlink()

    def _recover(self) -> None:
        for path in sorted((self.out / COMMITS).glob("[0-9]*.json")):
            self._remember(path.name, json.loads(path.read_text()))

    def _remember(self, name: str, commit: Commit) -> None:
        self._commit_names.append(name)
        self.done_keys.update(commit["inputs"])
        self._named_files.update((folder, facts["name"]) for folder, facts in commit["files"].items())
        self.reject_counts.update(commit["rejects"])
        for game_id, fingerprint, num_frames in commit["games"]:
            self._fingerprints[fingerprint] = game_id
            self.num_games += 1
            self.num_frames += num_frames

    def _first_of_each(self, games: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Games that the corpus does not have yet, and a reject for each that it has."""
        kept, rejects = [], []
        new: dict[str, str] = {}
        for game in games:
            twin = self._fingerprints.get(game["fingerprint"]) or new.get(game["fingerprint"])
            if twin is None:
                kept.append(game)
                new[game["fingerprint"]] = game["game_id"]
                continue
            code = "duplicate" if twin == game["game_id"] else "duplicate_game"
            rejects.append(
                {name: game[name] for name in ("source", "member", "path", "game_id")}
                | {"code": code, "message": f"the corpus has this game as {twin}"}
            )
        return kept, rejects

    def _place_frames(
        self, result: ChunkResult, kept: list[dict[str, Any]], shard: str, files: dict[str, dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Move the staged frames into the corpus; where games were dropped, without them."""
        assert result.frames_file is not None
        staged = self.staging / result.frames_file
        if len(kept) < len(result.games):
            table = pq.read_table(staged)
            staged = self.staging / f"kept-{result.frames_file}"
            writer = ShardWriter(staged)
            kept = [game | writer.add(table.slice(game["first_row"], game["num_frames"])) for game in kept]
            writer.close()
        files[FRAMES] = self._move(staged, FRAMES, shard, sum(game["num_frames"] for game in kept))
        return [game | {"shard": shard} for game in kept]

    def _place_followers(
        self, result: ChunkResult, kept: list[dict[str, Any]], shard: str, files: dict[str, dict[str, Any]]
    ) -> None:
        if result.followers_file is None:
            return
        staged = self.staging / result.followers_file
        table = pq.read_table(staged)
        if len(kept) < len(result.games):
            ids = pa.array([game["game_id"] for game in kept])
            table = table.filter(pc.is_in(table["game_id"].cast(pa.string()), ids))  # pyrefly: ignore[missing-attribute]
            if not table.num_rows:
                return
            staged = self.staging / f"kept-{result.followers_file}"
            writer = ShardWriter(staged, FOLLOWERS_SCHEMA)
            writer.add(table)
            writer.close()
        files[FOLLOWERS] = self._move(staged, FOLLOWERS, shard, table.num_rows)

    def _move(self, staged: Path, folder: str, name: str, num_rows: int) -> dict[str, Any]:
        placed = staged.replace(self.out / folder / name)
        return file_facts(placed, num_rows)

    def _write_rows(self, folder: str, number: int, rows: list[dict[str, Any]], schema: pa.Schema) -> dict[str, Any]:
        path = self.out / folder / f"{folder}-{number:06d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")
        return file_facts(path, len(rows))


def _foreign(folder: Path) -> bool:
    """Whether a folder holds anything but what an encode leaves that was killed in its first instant."""
    return any(not path.match(ASIDE_PATTERN) for path in folder.iterdir())
