"""A run's folder: whose it is, its log, and what else tells of it.

run.json          what makes the run this run; a folder without it is not ours
config.yaml       the newest command's config, every field written out; `wm train` takes it
data.json         the corpora: digests of manifest and games, numbers of games and frames, of train and judged
environment.json  commands with their times, starts of the workers with theirs; code, versions and machine of the newest
profile.json      throughput, for planning; replaced at each progress line (`write_profile`)
log.jsonl         a row for each event, see below
tensorboard/      progress lines and judgements, for TensorBoard
checkpoints/      see `wm.checkpoints.reader`
ray/              Ray Train's own notes
attempts.jsonl, crash.txt, ending.txt   see `wm.runs.crash_history`

Rows of log.jsonl, each with `kind` and `targets_seen`:

start       num_parameters, workers, device, batch_size, compiles, train_games, train_frames, judged_games
train       a progress line: loss, action_acc, change_acc, targets_per_s, learning_rate, wait_share, data, peak_gb
eval        a judged context: context, num_targets and its metrics
checkpoint  seconds_held, bytes
rollback    to_targets, reason, rate_factor
problem     message: what went wrong without ending the run
attempt     number, resumed_at, why: the workers' starts

A resumed run forgets the rows behind its checkpoint; rollbacks, problems and attempts stay, and hold their time (`at`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import yaml

from datasets.runtime.durable_files import write_json_atomically
from datasets.runtime.errors import UserError, first_difference
from datasets.loading.frames import GameIndex
from datasets.runtime.file_lock import exclusive_lock
from wm.config.run_config import RunConfig, identity
from wm.runs.environment import command_line, environment
from wm.runs.append_file import say_on_stderr
from wm.runs.run_log import LOG_FILE, RunLog, read_log
from wm.config.typed_yaml import to_plain, translate_keys

__all__ = [
    "CHECKPOINTS", "CONFIG_FILE", "DATA_FILE", "ENVIRONMENT_FILE", "LOG_FILE", "PROFILE_FILE", "RUN_FILE", "RunLog",
    "checkpoints_of", "claim", "describe_run", "held", "note_attempt", "place_of_checkpoints", "read_log",
    "read_profile", "write_profile",
]  # fmt: skip

RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
DATA_FILE = "data.json"
ENVIRONMENT_FILE = "environment.json"
PROFILE_FILE = "profile.json"
CHECKPOINTS = "checkpoints"
LOCK_FILE = "run.lock"
PROFILE_VERSION = 1
"""1: first."""


def claim(config: RunConfig) -> None:
    """Make the folder this run's, or find that it is already.

    Raises:
        UserError: the folder holds something else, or a run with another config.
    """
    mark = config.out / RUN_FILE
    mine = identity(config)
    if mark.exists():
        try:
            there = translate_keys(json.loads(mark.read_text()), RunConfig)
        except ValueError as error:
            raise UserError(f"{mark} is damaged; name another folder with --out") from error
        if there != mine:
            raise UserError(
                f"{config.out} holds a run with other options ({first_difference(there, mine)}); "
                "use those to resume it, or another --out"
            )
        return
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise UserError(f"{config.out} exists and is no run; name an empty or new folder with --out")
    config.out.mkdir(parents=True, exist_ok=True)
    write_json_atomically(mark, mine)


def describe_run(config: RunConfig, train: GameIndex, judged: GameIndex, command: Sequence[str]) -> None:
    """Write what is known before the workers start: config, data, and that a command was given.

    Args:
        command: as `sys.argv`.
    """
    head = "# As the newest command had it; `wm train` with this file goes on.\n"
    _replace(config.out / CONFIG_FILE, head + yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True))
    write_json_atomically(config.out / DATA_FILE, {"train": facts_of(train), "judged": facts_of(judged)})
    _add_to_environment(config.out, "commands", {"command": command_line(command)}, {})


def note_attempt(out: Path, **facts: Any) -> None:
    """Note that rank 0 starts, and on what; a full disk is told, not raised.

    Args:
        facts: more about the attempt: `resumed_at`, `why`.
    """
    try:
        _add_to_environment(out, "attempts", facts, environment())
    except OSError as error:
        say_on_stderr(f"{ENVIRONMENT_FILE} cannot be written ({error.strerror}); training goes on")


def facts_of(index: GameIndex) -> dict[str, Any]:
    """What names a corpus and the games that are used of it."""
    manifest = json.dumps(index.corpus.manifest, sort_keys=True).encode()
    return {
        "corpus": str(index.corpus.root),
        "manifest": hashlib.blake2b(manifest, digest_size=16).hexdigest(),
        "game_ids": hashlib.blake2b("\n".join(index.game_ids).encode(), digest_size=16).hexdigest(),
        "num_games": len(index),
        "num_frames": int(index.num_frames.sum()),
    }


def write_profile(out: Path, numbers: dict[str, Any]) -> None:
    """Replace the throughput profile; a disk that does not take it is no reason to stop.

    Args:
        numbers: device, workers, config_hash, precision, core, batch_size, targets_per_s (steady median), step_ms,
            wait_share, checkpoint_held_s, validation_s, peak_gb, device_peak_gb: as far as they are known.
    """
    with contextlib.suppress(OSError):  # a full disk is told of by the log, which is written at the same moments
        _replace(out / PROFILE_FILE, json.dumps({"profile_version": PROFILE_VERSION, **numbers}, indent=1))


def read_profile(out: Path) -> dict[str, Any] | None:
    """A run's throughput profile; None where there is none of this version."""
    try:
        profile = json.loads((out / PROFILE_FILE).read_text())
    except (OSError, ValueError):
        return None
    return profile if isinstance(profile, dict) and profile.get("profile_version") == PROFILE_VERSION else None


def checkpoints_of(out: Path) -> Path:
    """Folder of a run's checkpoints, where `checkpoint.storage_path` names no other place."""
    return out / CHECKPOINTS


def place_of_checkpoints(config: RunConfig) -> str:
    """Folder or URI of a run's checkpoints."""
    return config.checkpoint.storage_path or str(checkpoints_of(config.out))


def held(out: Path) -> IO[bytes]:
    """Keep other processes out of a run's folder until the returned file is closed.

    Raises:
        UserError: another process trains in it.
    """
    return exclusive_lock(out / LOCK_FILE, f"another process is training in {out}; wait for it, or name another --out")


def _add_to_environment(out: Path, group: str, entry: dict[str, Any], facts: dict[str, Any]) -> None:
    """Append a dated entry to a list of environment.json, and replace what else it says."""
    path = out / ENVIRONMENT_FILE
    try:
        there = json.loads(path.read_text())
        past = there.get(group, [])
    except (OSError, ValueError, AttributeError):  # none there, or damaged: it only tells
        there, past = {}, []
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json_atomically(path, there | facts | {group: [*past, {"started": started, **entry}]})


def _replace(path: Path, text: str) -> None:
    """A reader sees the old file or the new one; what a power loss leaves does not matter, so nothing waits for it."""
    aside = path.with_name(f".{path.name}.aside")
    aside.write_text(text)
    aside.replace(path)
