"""Maps errors of files and archives to reason codes, with messages that contain no file name."""

from __future__ import annotations

import errno
import gzip
import json
import lzma
import os
import re
import struct
import tarfile
import zipfile
import zlib

from datasets.runtime.errors import ReplayError
from datasets.runtime.uris import is_remote

UNREACHABLE = "unreachable"
"""Reason code of inputs that cannot be read for now. The corpus does not record them, so the next run tries again."""
TRANSIENT_ERRNOS = frozenset({
    errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT, errno.ENOMEM, errno.EAGAIN, errno.EBUSY,
    errno.ECONNRESET, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EREMOTEIO,
})  # fmt: skip
"""Errors of a local or network disk that say nothing about the file itself."""
READ_ERRORS = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, OverflowError, MemoryError,
    struct.error, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, ReplayError,
)  # fmt: skip
"""What reading a damaged, encrypted, changed or unreachable file raises (found by random damage)."""

CLOUD_ERROR = re.compile(r"AWS Error \w+(?: \(HTTP status \d+\))?|HTTP status:? \d+|google::cloud::Status\(\w+\)?")
MAX_MESSAGE = 200
"""Characters."""


def is_transient(location: str, error: OSError) -> bool:
    """Whether a failed read of a file may succeed later."""
    if is_remote(location):
        return not isinstance(error, (FileNotFoundError, PermissionError))
    return error.errno in TRANSIENT_ERRNOS


def rejection_of(error: BaseException) -> tuple[str, str]:
    """Reason code and message; file names, which may contain connect codes, are left out."""
    if isinstance(error, ReplayError):
        return error.code, error.message
    if isinstance(error, MemoryError):  # readers are bounded: this machine is short of memory
        return UNREACHABLE, "out of memory"
    return "unopenable", f"{type(error).__name__}: {_text(error)}"[:MAX_MESSAGE]


def _text(error: BaseException) -> str:
    """The part of an error's text that contains no name: that of the system and of the decoders."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # libraries put names into an error's own text
    if isinstance(error, (EOFError, zlib.error, lzma.LZMAError, struct.error, json.JSONDecodeError)):
        return str(error).splitlines()[0] if str(error) else "unexpected end of file"
    if isinstance(error, gzip.BadGzipFile):
        return "no gzip file, or a damaged one"
    match = CLOUD_ERROR.search(str(error))
    return match[0] if match else "cannot be read"
