"""URIs as locations. The path is percent-encoded; credentials and options are part of the location.

Imports no storage library, since every process that only reads local files asks `is_remote`.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

URI = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<authority>[^/?]*)(?P<path>[^?]*)(?:\?(?P<query>.*))?")
SCHEMES = ("s3", "gs", "gcs")
"""Of object storage."""
SINGLE_SLASH = re.compile(rf"(?P<scheme>{'|'.join(SCHEMES)}):/?(?!/)")
"""A URI that lacks a slash, as a path library writes it."""
CREDENTIALS = re.compile(r"(?<=://)[^/?]*@|\?.*")
URI_AS_PATH = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
"""Start of a URI, also of one that a Path has normalized (`s3:/bucket/...`)."""
KEY = re.compile(r"(?<=://)[^/?]*@")


def is_remote(location: str) -> bool:
    """Whether a location is a URI."""
    return URI.match(location) is not None


def is_uri_as_path(path: Path) -> bool:
    """Whether a path is a URI that lost one of its slashes."""
    return URI_AS_PATH.match(str(path)) is not None


def parse_uri(location: str) -> re.Match[str]:
    """Scheme, authority, path and query of a URI."""
    match = URI.fullmatch(location)
    assert match is not None
    return match


def without_credentials(location: str) -> str:
    """A location as messages show it: a URI without credentials and options."""
    return CREDENTIALS.sub("", location) if is_remote(location) else location


def mistake_in(location: str | Path) -> str | None:
    """What is wrong with a path or URI of object storage, and what was expected; None if nothing is."""
    text = str(location)
    if match := SINGLE_SLASH.match(text):
        return f"found {text}; a URI has two slashes: {match['scheme']}://BUCKET/FOLDER"
    if not is_remote(text):
        return None
    scheme, bucket = parse_uri(text).group("scheme", "authority")
    if scheme not in SCHEMES:
        return f"found {without_credentials(text)}; expected a local path, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"
    if not bucket.rpartition("@")[2]:
        return f"found {without_credentials(text)}, which names no bucket; expected {scheme}://BUCKET/FOLDER"
    return None


def with_option(uri: str, name: str, value: object) -> str:
    """A URI with one more option in its query."""
    return f"{uri}{'&' if '?' in uri else '?'}{name}={value}"


def without_key(location: str) -> str:
    """A location as it may be stored: a URI without the key and secret in it, but with its options."""
    return KEY.sub("", location) if is_remote(location) else location


def child_location(location: str | Path, name: str) -> str:
    """The path or URI of a file in a folder."""
    return child_uri(location, name) if isinstance(location, str) and is_remote(location) else str(Path(location, name))


def child_uri(location: str, name: str) -> str:
    """The URI of a file in a folder.

    Args:
        name: of the file, or its path from the folder; it is percent-encoded here.
    """
    path, mark, query = location.partition("?")
    return f"{path.rstrip('/')}/{quote(name)}{mark}{query}"
