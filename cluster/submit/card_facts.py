"""What a run card says of the code and the data of a job, as far as this machine knows."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

from cluster.card.run_card import GitState
from datasets.corpus.reader import Corpus, open_corpus
from datasets.corpus.state import load_state
from datasets.runtime.errors import UserError
from datasets.runtime.storage.bucket_folder import BucketFolder
from datasets.runtime.storage.file_cache import FileCache
from datasets.runtime.uris import is_remote, without_key

GIT_TIMEOUT_S = 60.0
BUCKET_RETRY_S = 3.0
"""A laptop may have no access to the bucket: the digest is then left out."""


def git_state(checkout: Path | None) -> GitState | None:
    """Commit of a checkout and what differs from it; None without a checkout or a commit."""
    if checkout is None or (revision := _git(checkout, "rev-parse", "HEAD")) is None:
        return None
    difference = _git(checkout, "diff", "HEAD", "--binary") or b""
    digest = hashlib.sha256(difference).hexdigest() if difference else None
    return GitState(revision=revision.decode().strip(), clean=not difference, diff_sha256=digest)


def corpus_facts(corpora: dict[str, str]) -> dict[str, Any] | None:
    """Location and digest of each corpus, by its role; the digest is None where it cannot be read from here."""
    return {role: {"corpus": without_key(at), "manifest": _digest(at)} for role, at in corpora.items()} or None


def _digest(location: str) -> str | None:
    try:
        if not is_remote(location):
            return open_corpus(location).digest
        folder = BucketFolder(location, retry_s=BUCKET_RETRY_S)
        return Corpus(folder, load_state(folder), FileCache()).digest
    except (UserError, OSError):
        return None


def _git(checkout: Path, *arguments: str) -> bytes | None:
    try:
        command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, timeout=GIT_TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
