"""What `corpus.json` and the commits of a corpus say, as far as they can be read: for checking and mending it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from datasets.corpus.commit_log import list_commits, read_commit
from datasets.corpus.maintenance.file_checks import Problem
from datasets.corpus.reader import old_checksums
from datasets.corpus.state import CORPUS_FILE, IN_PROGRESS_FILE, CorpusState, DamagedError, load_json, parse_state
from datasets.runtime.errors import UserError
from datasets.runtime.storage.folder import Folder
from datasets.schema.columns import FORMAT_VERSION


@dataclass(kw_only=True)
class StoredCorpus:
    """What `corpus.json` and the commits say."""

    state: CorpusState
    problems: list[Problem] = field(default_factory=list)
    keys: Counter[str] = field(default_factory=Counter)
    """Input -> number of times that a commit has it, without those whose reject was removed."""


def read_stored(folder: Folder) -> StoredCorpus:
    """Fold the commits; `corpus.json` stands in for commits that cannot be read."""
    manifest: CorpusState | None = None
    problems: list[Problem] = []
    is_in_progress = folder.exists(IN_PROGRESS_FILE)
    try:
        manifest = parse_state(folder, folder.read(CORPUS_FILE))
    except FileNotFoundError:
        if not is_in_progress:
            problems.append(Problem("it is missing", CORPUS_FILE))
    except DamagedError as error:
        problems.append(Problem(str(error), CORPUS_FILE))
    if manifest is not None and manifest.format_version != FORMAT_VERSION:
        checksums = old_checksums(folder)
        for table, records in manifest.files.items():
            manifest.files[table] = [
                record._replace(blake2b=checksums.get(f"{table}/{record.name}")) for record in records
            ]
        return StoredCorpus(state=manifest)
    paths, _ = list_commits(folder)
    if manifest is None and not paths and not is_in_progress:
        raise UserError(
            f"{folder.location} holds no {CORPUS_FILE} and no commits; expected a corpus made by `wm encode`"
        )
    state, keys = CorpusState(), Counter[str]()
    for path in paths:
        try:
            commit = read_commit(folder, path)
            state.apply(commit)
            keys = Counter(commit["inputs"]) if commit["replaces_all"] else keys + Counter(commit["inputs"])
            keys.subtract(Counter(key for key, *_ in commit["removed_rejects"]))
        except DamagedError as error:
            problems.append(Problem(str(error), path))
    is_complete = not any(problem.path != CORPUS_FILE for problem in problems)
    if manifest is not None and (len(paths) == 0 or not is_complete):
        if not paths:
            problems.append(Problem("the commits are missing", "commits"))
        return StoredCorpus(state=manifest, problems=problems, keys=keys)
    if manifest is not None and not is_in_progress and _content(manifest, folder) != _content(state, folder):
        problems.append(Problem("it does not match the commits", CORPUS_FILE))
    if not state.options and is_in_progress:
        stored: dict[str, Any] = load_json(folder, IN_PROGRESS_FILE, folder.read(IN_PROGRESS_FILE), (FORMAT_VERSION,))
        state.options = stored["options"]
    return StoredCorpus(state=state, problems=problems, keys=keys)


def _content(state: CorpusState, folder: Folder) -> dict[str, Any]:
    """The state as stored, without the version of the program and the number of commits, which a repair changes."""
    content = load_json(folder, CORPUS_FILE, state.to_json(), (state.format_version,))
    return {name: value for name, value in content.items() if name not in ("tool_version", "num_commits")}


def require_writable(stored: StoredCorpus, folder: Folder) -> None:
    """Raise a UserError for a corpus of an older format, which is only read."""
    if (version := stored.state.format_version) != FORMAT_VERSION:
        raise UserError(
            f"{folder.location} has corpus format {version}, which is read but not written any more; encode the "
            "replays into a new folder"
        )
