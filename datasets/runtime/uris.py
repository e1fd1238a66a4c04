"""URIs as locations. The path is percent-encoded; credentials and options are part of the location.

Imports no storage library, since every process that only reads local files asks `is_remote`.
"""

from __future__ import annotations

import re
from urllib.parse import quote

URI = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<authority>[^/?]*)(?P<path>[^?]*)(?:\?(?P<query>.*))?")
CREDENTIALS = re.compile(r"(?<=://)[^/?]*@|\?.*")


def is_remote(location: str) -> bool:
    """Whether a location is a URI."""
    return URI.match(location) is not None


def parse_uri(location: str) -> re.Match[str]:
    """Scheme, authority, path and query of a URI."""
    match = URI.fullmatch(location)
    assert match is not None
    return match


def without_credentials(location: str) -> str:
    """A location as messages show it: a URI without credentials and options."""
    return CREDENTIALS.sub("", location) if is_remote(location) else location


def child_uri(location: str, name: str) -> str:
    """The URI of a file in a folder.

    Args:
        name: of the file, or its path from the folder; it is percent-encoded here.
    """
    path, mark, query = location.partition("?")
    return f"{path.rstrip('/')}/{quote(name)}{mark}{query}"
