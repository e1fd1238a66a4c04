"""Tiny runs that jobs of a cluster keep in the bucket, and what they left there."""

from __future__ import annotations

import json
import re
from typing import Any

from bucket_machine import BUCKET, BucketMachine

from wm.runs.run_log import parse_log

BATCH, S = 8, 16
UPDATE = BATCH * S
"""Targets of one update."""
NUM_UPDATES = 120
EVERY_UPDATES = 40

TINY = (
    "--num-threads", "1", "--precision", "fp32", "--max-seconds", "null", "--log-every-s", "0.2",
    "--model.d-model", "32", "--model.headdim", "32", "--model.d-state", "16", "--model.num-layers", "1",
    "--objective.sequence-frames", str(S), "--optimizer.batch-size", str(BATCH),
    "--optimizer.warmup-targets", str(4 * UPDATE), "--optimizer.total-targets", str(NUM_UPDATES * UPDATE),
    "--eval.contexts", "5", "--eval.num-targets", "100", "--eval.validation-targets", "50",
    "--eval.every-targets", str(EVERY_UPDATES * UPDATE), "--checkpoint.every-s", "0.5",
)  # fmt: skip
"""Overrides of the config `demo`: a run of some seconds, with many checkpoints."""


class BucketRun:
    """A run's folder in the bucket.

    Attributes:
        out: its URI.
    """

    def __init__(self, bucket: BucketMachine, name: str) -> None:
        self.out, self._bucket, self._below = f"s3://{BUCKET}/runs/{name}", bucket, f"runs/{name}"

    def log(self) -> list[dict[str, Any]]:
        """Rows of its log so far."""
        return parse_log((self._bucket.read(f"{self._below}/log.jsonl") or b"").decode())

    def checkpoints(self) -> list[str]:
        """Keys of its complete checkpoints, oldest first."""
        keys = self._bucket.keys(f"{self._below}/checkpoints/")
        return sorted(key.removesuffix("/meta.json") for key in keys if key.endswith("/meta.json"))

    def targets_seen(self) -> int:
        """Of the newest checkpoint."""
        return max((int(re.findall(r"targets-(\d+)", key)[0]) for key in self.checkpoints()), default=0)

    def num_starts(self) -> int:
        """How often its workers started."""
        content = self._bucket.read(f"{self._below}/environment.json")
        return len(json.loads(content).get("attempts", [])) if content else 0

    def is_finished(self) -> bool:
        """Whether it trained to its end."""
        return any(
            json.loads(self._bucket.read(f"{key}/meta.json") or b"{}").get("finished") for key in self.checkpoints()
        )

    def result(self) -> tuple[bytes, bytes]:
        """Weights and evaluation of the finished run, bit for bit."""
        assert self.is_finished(), f"{self.out} has not finished"
        last = self.checkpoints()[-1]
        evaluation = max(self._bucket.keys(f"{self._below}/evaluations/"))
        found = self._bucket.read(f"{last}/model.safetensors"), self._bucket.read(evaluation)
        assert found[0] is not None and found[1] is not None
        return found

    def metrics(self) -> dict[str, Any]:
        """Row of the last evaluation in the log, without its time."""
        rows = [row for row in self.log() if row["kind"] == "eval"]
        return {name: value for name, value in rows[-1].items() if name not in ("time", "time_s", "seconds")}
