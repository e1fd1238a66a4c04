"""How a fault of a file or an archive becomes a reason code and a message that names no file."""

from __future__ import annotations

import json
import lzma
import os
import re
import struct
import tarfile
import zlib

from datasets.runtime.errors import ReplayError

DAMAGE = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, OverflowError, MemoryError,
    struct.error, zlib.error, lzma.LZMAError, tarfile.TarError, ReplayError,
)  # fmt: skip
"""What damaged, encrypted or changed files raise (found by random damage)."""

CLOUD_ERROR = re.compile(r"AWS Error \w+(?: \(HTTP status \d+\))?|HTTP status:? \d+|google::cloud::Status\(\w+\)?")
MAX_MESSAGE = 200
"""Characters."""


def rejection_of(error: BaseException) -> tuple[str, str]:
    """Reason code and message; file names, which may hold connect codes, are left out."""
    if isinstance(error, ReplayError):
        return error.code, error.message
    return "unopenable", f"{type(error).__name__}: {_text(error)}"[:MAX_MESSAGE]


def _text(error: BaseException) -> str:
    """What may be said of an error: the system's and the decoders' words hold no names, other texts might."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # libraries put names into an error's own text
    if isinstance(error, (EOFError, zlib.error, lzma.LZMAError, struct.error, json.JSONDecodeError)):
        return str(error).splitlines()[0] if str(error) else "the file ends too early"
    match = CLOUD_ERROR.search(str(error))
    return match[0] if match else "cannot be read"
