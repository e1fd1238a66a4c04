"""The one place that decides whether an error is transient or permanent, and what a reject says about it.

Transient: storage, the network or this machine's memory failed, which says nothing about the bytes of the input; it is
left for the next run. Permanent: the bytes are wrong; it becomes a reject. Messages contain no file name.
"""

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
from datasets.runtime.object_storage import REFUSAL
from datasets.runtime.uris import is_remote

UNREACHABLE = "unreachable"
"""Reason code of inputs that cannot be read for now. The corpus does not record them, so the next run tries again."""
PERMANENT_ERRNOS = frozenset({errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EOVERFLOW})
"""The system's errors for which an input itself is at fault: a cyclic link, a path too long, an impossible offset. All
others (a disk's, a network's, a missing permission, a file that is gone since it was listed) may pass."""
READ_ERRORS = (
    OSError, EOFError, RuntimeError, ValueError, LookupError, OverflowError, MemoryError,
    struct.error, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, ReplayError,
)  # fmt: skip
"""What reading a damaged, encrypted, changed or unreachable file raises (found by random damage)."""

CLOUD_ERROR = re.compile(r"AWS Error \w+(?: \(HTTP status \d+\))?|HTTP status:? \d+|google::cloud::Status\(\w+\)?")
MAX_MESSAGE = 200
"""Characters."""


def is_transient(error: BaseException, location: str = "") -> bool:
    """Whether an error says nothing about the bytes of the input, so that a later run may read it.

    Args:
        location: of the file, if the error comes from reading or listing it and not from decoding what was read.
    """
    if isinstance(error, ReplayError):
        return error.code == UNREACHABLE
    if isinstance(error, MemoryError):  # readers are bounded: this machine is short of memory
        return True
    if not isinstance(error, OSError):
        return False
    if is_remote(location):
        return True
    return error.errno is not None and error.errno not in PERMANENT_ERRNOS  # decoders raise OSError without a number


def is_refusal(error: OSError) -> bool:
    """Whether an object store has answered that it refuses the access, or the URI itself is invalid."""
    return error.errno == errno.EINVAL or REFUSAL.search(str(error)) is not None


def rejection_of(error: BaseException, location: str = "") -> tuple[str, str]:
    """Reason code, which is UNREACHABLE for a transient error, and message.

    Args:
        location: as for `is_transient`.
    """
    if isinstance(error, ReplayError):
        return error.code, error.message
    if isinstance(error, MemoryError):
        return UNREACHABLE, "out of memory"
    code = UNREACHABLE if is_transient(error, location) else "unopenable"
    return code, f"{type(error).__name__}: {_text(error)}"[:MAX_MESSAGE]


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
