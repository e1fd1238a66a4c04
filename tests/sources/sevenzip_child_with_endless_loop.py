"""`sevenzip_child` where parsing a directory never ends."""

from typing import Never

from datasets.sources.archives import sevenzip_child, sevenzip_directory
from datasets.sources.archives.sevenzip_child import list_members  # noqa: F401


def loop(file: object) -> Never:
    while True:
        pass


sevenzip_child.DIRECTORY_CPU_S = 0
sevenzip_directory.py7zr.SevenZipFile = loop
