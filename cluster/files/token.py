"""The cluster's token: who has it may run code on the cluster."""

import os
import secrets
from pathlib import Path

TOKEN = "~/.ray/auth_token"
TOKEN_BYTES = 32


def prepare_token() -> str:
    """Make the token if there is none, and let only its owner read it. Returns what was done."""
    path = Path(TOKEN).expanduser()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = not path.exists()
    if made:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(TOKEN_BYTES))
    path.chmod(0o600)
    return f"token {TOKEN}: {'made' if made else 'kept'}, readable by you only"
