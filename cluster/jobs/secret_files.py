"""Files that must not leave this machine: recognised by their names, and by keys in them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from datasets.runtime.errors import UserError

SECRET_NAMES = (
    ".env", ".env.*", "*.env", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.pem", "*.p12", "*.pfx", "*.ppk",
    "*-key.json", "*_key.json", "credentials", "credentials.json", "service[-_]account*.json", ".netrc", ".pgpass",
    ".git-credentials", ".htpasswd", "auth_token", "kubeconfig",
)  # fmt: skip
SECRET_FOLDERS = frozenset({".aws", ".ssh", ".gnupg", ".kube", ".ray"})
EXAMPLES = (".env.example", ".env.sample", ".env.template")
"""Names that would match, of files that say which variables there are."""
KEYS = {
    "a private key": re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    "an AWS access key": re.compile(rb"(?<![A-Z0-9])(?:AKIA|ASIA)(?![A-Z0-9]{9}EXAMPLE)[A-Z0-9]{16}(?![A-Z0-9])"),
    "a token of GitHub": re.compile(rb"(?<![A-Za-z0-9_])(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60,})"),
    "a token of Slack": re.compile(rb"xox[abprs]-[0-9]{8,}-[0-9A-Za-z-]{10,}"),
}
"""What a file may hold -> how it looks. AWS's documentation uses keys that end in EXAMPLE."""


def refuse_secrets(files: Mapping[str, Path], allowed: Collection[str] = ()) -> None:
    """Refuse to upload what looks like a secret.

    Args:
        files: paths in the upload -> files here.
        allowed: paths in the upload that are uploaded all the same.
    Raises:
        UserError: a file looks like a secret; the message has its name and never its content.
    """
    for name, file in files.items():
        if name not in allowed and (found := secret_in(name, file.read_bytes())):
            raise UserError(
                f"{name} is tracked by git and looks like a secret ({found}); expected none among the files to upload; "
                f"`git rm --cached {name}` and add it to .gitignore, or, if it is none, give --upload-anyway {name}"
            )


def secret_in(name: str, content: bytes) -> str | None:
    """What makes a file look like a secret; None if nothing does.

    Args:
        name: path with slashes.
    """
    path = PurePosixPath(name)
    base = path.name.lower()
    if base not in EXAMPLES and any(fnmatchcase(base, pattern) for pattern in SECRET_NAMES):
        return "its name"
    if SECRET_FOLDERS & set(path.parts[:-1]):
        return "its folder"
    return next((f"it holds {what}" for what, pattern in KEYS.items() if pattern.search(content)), None)
