"""The instance metadata service of EC2 on a machine of the tests.

    python notice_server.py ADDRESS NOTICE_FILE

There is a spot notice as soon as NOTICE_FILE exists, with its content.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "servers"))

from metadata_server import MetadataServer

PORT = 80
PATH = "/latest/meta-data/spot/instance-action"


def main(address: str, notice: str) -> None:
    """Serve for ever."""
    server = MetadataServer((address, PORT))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while not Path(notice).exists():
        time.sleep(0.1)
    server.documents[PATH] = Path(notice).read_text()
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
