"""`sevenzip_child` on a disk with a damaged range."""

import errno
import os

from datasets.sources import storage
from datasets.sources.archives.sevenzip_child import extract, list_members  # noqa: F401

read = os.pread


def failing_read(descriptor: int, size: int, offset: int) -> bytes:
    if 6_500_000 < offset < 11_000_000:
        raise OSError(errno.EIO, "Input/output error")
    return read(descriptor, size, offset)


os.pread = failing_read
storage.RETRY_AFTER_S = (0.01, 0.01)
