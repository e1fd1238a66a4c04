"""Results that are on the disk as soon as they are known, so that a benchmark that is cut off still tells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


class ResultsFile:
    """One JSON object in a file, replaced whenever something is added."""

    def __init__(self, path: Path | None, **facts: Any) -> None:
        """
        Args:
            path: None writes no file.
            facts: of the whole benchmark; device and versions are added.
        """
        on_gpu = torch.cuda.is_available()
        device = torch.cuda.get_device_name() if on_gpu else "cpu"
        self.content: dict[str, Any] = {"device": device, "torch": torch.__version__, "complete": False, **facts}
        self._path = path
        self._write()

    def set(self, name: str, value: Any) -> None:
        """Add or replace a value."""
        self.content[name] = value
        self._write()

    def append(self, name: str, value: Any) -> None:
        """Add a value to a list."""
        self.content.setdefault(name, []).append(value)
        self._write()

    def finish(self) -> None:
        """Say that nothing is missing."""
        self.set("complete", True)

    def _write(self) -> None:
        if self._path is not None:
            partial = self._path.with_suffix(".partial")
            partial.write_text(json.dumps(self.content, indent=1))
            partial.replace(self._path)
