"""gcp-storage-emulator with the rest of Google's XML API, which it lacks: conditions, listing, HEAD, uploads in parts.

    python google_emulator.py PORT

Objects are those of the emulator, so both APIs show the same.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from email.utils import formatdate
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any
from xml.sax.saxutils import escape

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

PARTS: dict[tuple[str, str], dict[int, bytes]] = {}
"""Of uploads that are not complete: object and number of the upload."""
PAGE = 1000


def stored(request: Any, storage: Any) -> dict[str, Any] | None:
    try:
        return storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
    except NotFound:
        return None


def add_headers(response: Any, found: dict[str, Any]) -> None:
    response["ETag"] = f'"{found["md5Hash"]}"'
    response["x-goog-generation"] = found["generation"]
    response["Last-Modified"] = formatdate(int(found["generation"]) / 1e9, usegmt=True)


def get(request: Any, response: Any, storage: Any) -> None:
    objects.download(request, response, storage)
    if found := stored(request, storage):
        add_headers(response, found)


def put(request: Any, response: Any, storage: Any) -> None:
    if "uploadId" in request.query:
        number = int(request.query["partNumber"][0])
        PARTS[request.path, request.query["uploadId"][0]][number] = request.data or b""
        response["ETag"] = f'"{number}"'
        return
    found, expected = stored(request, storage), request.get_header("x-goog-if-generation-match")
    if expected is not None and expected != (found["generation"] if found else "0"):
        request.data  # noqa: B018 - read from the connection
        response.status = HTTPStatus.PRECONDITION_FAILED
        return
    write(request, response, storage, request.data or b"")


def write(request: Any, response: Any, storage: Any, content: bytes) -> None:
    as_request = SimpleNamespace(
        data=content, params=request.params, base_url=request.base_url, get_header=request.get_header
    )
    objects.xml_upload(as_request, response, storage)
    if found := stored(request, storage):
        add_headers(response, found)


def post(request: Any, response: Any, storage: Any) -> None:
    if "uploads" in request.full_url.partition("?")[2]:
        upload = str(len(PARTS))
        PARTS[request.path, upload] = {}
        response.write_file(f"<R><UploadId>{upload}</UploadId></R>".encode(), "application/xml")
        return
    parts = PARTS[request.path, request.query["uploadId"][0]]
    numbers = [int(part.findtext("PartNumber", "0")) for part in ET.fromstring(request.data) if part.tag == "Part"]
    write(request, response, storage, b"".join(parts[number] for number in numbers))
    response.write_file(b"<R><ETag>complete</ETag></R>", "application/xml")


def delete(request: Any, response: Any, storage: Any) -> None:
    response.status = HTTPStatus.NO_CONTENT if stored(request, storage) else HTTPStatus.NOT_FOUND
    if stored(request, storage):
        storage.delete_file(request.params["bucket_name"], request.params["object_id"])


def list_bucket(request: Any, response: Any, storage: Any) -> None:
    prefix = request.query.get("prefix", [""])[0]
    after = request.query.get("continuation-token", [""])[0]
    if not storage.get_bucket(request.params["bucket_name"]):
        response.status = HTTPStatus.NOT_FOUND
        return
    found, _ = storage.get_file_list(request.params["bucket_name"], prefix)[:2]
    found = sorted((item for item in found if item["name"] > after), key=lambda item: item["name"])
    items = [
        f"<Contents><Key>{escape(item['name'])}</Key><Size>{item['size']}</Size><ETag>{item['md5Hash']}</ETag>"
        f"<LastModified>{item['updated']}</LastModified></Contents>"
        for item in found[:PAGE]
    ]
    if len(found) > PAGE:
        items.append(f"<NextContinuationToken>{escape(found[PAGE - 1]['name'])}</NextContinuationToken>")
    response.write_file(f"<ListBucketResult>{''.join(items)}</ListBucketResult>".encode(), "application/xml")


class HeadersOnly:
    """Sends the first thing that is written, the headers of an answer."""

    def __init__(self, file: Any) -> None:
        self._file, self._has_written = file, False

    def write(self, content: bytes) -> None:
        if not self._has_written:
            self._file.write(content)
        self._has_written = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def do_head(handler: Any) -> None:
    handler.wfile = HeadersOnly(handler.wfile)
    server.Router(handler).handle("HEAD")


def main(port: int) -> None:
    server.RequestHandler.do_HEAD = do_head
    server.HANDLERS[-1][1].update({"GET": get, "HEAD": get, "PUT": put, "POST": post, "DELETE": delete})
    server.HANDLERS += ((r"^/(?P<bucket_name>[-.\w]+)$", {"GET": list_bucket}),)
    server.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket").run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
