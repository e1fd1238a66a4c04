"""What a person sees while a corpus is encoded, and while a run trains."""

from __future__ import annotations

import io
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.manifest import LOG_FILE
from datasets.pipeline import progress
from datasets.pipeline.encode import EncodeSummary, encode, encode_in_process
from datasets.pipeline.progress import EncodeProgress
from wm.config.run_config import OptimizerConfig, RunConfig
from wm.runs.console import POLL_SECONDS, line_of, shown
from wm.runs.run_folder import RunLog


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_line_names_speeds_rejects_and_time_left(monkeypatch):
    seen = EncodeProgress(Path("nowhere"), io.StringIO())
    now = seen._started + 10
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    summary = EncodeSummary(num_games=20, num_frames=100_000, num_bytes=5_000, num_bytes_done=1_000)
    summary.rejects = Counter(short=3)
    seen.update(summary, 12_000)
    line = seen.line()
    assert "20 games (2.0/s)" in line
    assert "100,000 frames (10,000/s)" in line
    assert "3 rejects" in line
    assert "0:00:30 left" in line  # 4,000 bytes in 10 s, 12,000 to go


def test_a_log_is_kept_in_the_corpus(tiny_replays, tmp_path):
    out, printed = tmp_path / "corpus", io.StringIO()
    with EncodeProgress(out, printed) as seen:
        summary = encode([tiny_replays], out, EncodeOptions(), encode_in_process, on_commit=seen.update)
    (line,) = (out / LOG_FILE).read_text().splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d  ", line)
    assert f"{summary.num_games} games" in line
    assert printed.getvalue().strip() in line


def test_a_terminal_gets_one_line_that_is_rewritten(tiny_replays, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "LIVE_SECONDS", 0.001)
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    with EncodeProgress(tmp_path / "corpus", terminal) as seen:
        encode([tiny_replays], tmp_path / "corpus", EncodeOptions(), encode_in_process, on_commit=seen.update)
    assert terminal.getvalue().count("\r") > 2
    assert "\n" not in terminal.getvalue()
    assert "GB" in terminal.getvalue()


@pytest.fixture(scope="module")
def tiny_replays(tmp_path_factory) -> Path:
    """Four short synthetic replays."""
    from datasets.synth import SynthOptions, synthesise

    out = tmp_path_factory.mktemp("four") / "replays"
    synthesise(out, SynthOptions(num_games=8, seed=2, max_frames=2_400))
    return out


CONFIG = RunConfig(optimizer=OptimizerConfig(total_targets=2_000_000))
TRAIN_ROW = {
    "kind": "train", "targets_seen": 520_000, "seconds": 65.0, "loss": 1.2345, "change_acc": 0.412,
    "targets_per_s": 8_012.0,
}  # fmt: skip


def test_a_progress_line_of_training_says_how_far_how_fast_how_good_and_how_long():
    line = line_of(TRAIN_ROW, CONFIG)
    assert line == "    0.52 of 2.00 M targets      8,012/s  loss  1.234  change_acc 0.412  3 min left"
    with_more = line_of(TRAIN_ROW | {"wait_share": 0.031, "peak_gb": 2.34, "data": "resident"}, CONFIG)
    assert with_more == f"{line}  wait 3%  2.3 GB  resident"
    on_gpu = line_of(TRAIN_ROW | {"peak_gb": 2.34, "device_peak_gb": 61.0}, CONFIG)
    assert on_gpu.endswith("61.0 GB")


@pytest.mark.parametrize("total", [2_000_000, 33_000_000_000, 10**15])
def test_a_progress_line_of_training_has_less_than_120_characters(total):
    config = RunConfig(optimizer=OptimizerConfig(total_targets=total))
    row = TRAIN_ROW | {"targets_seen": total - 1, "targets_per_s": 1_234_567.0}
    row |= {"wait_share": 1.0, "peak_gb": 139.9, "data": "resident"}
    assert len(line_of(row, config)) < 120


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"kind": "problem", "message": "a disk\nis full"}, " problem a disk is full"),
        (
            {
                "kind": "rollback",
                "targets_seen": 9_000,
                "to_targets": 5_000,
                "reason": "it exploded",
                "rate_factor": 0.3,
            },
            "    back from 9,000 to 5,000 targets with 0.3 of the learning rate: it exploded",
        ),
        (
            {"kind": "checkpoint", "targets_seen": 9_000, "seconds_held": 0.012, "bytes": 52_000_000},
            "   saved at 9,000 targets (52 MB), 12 ms held up",
        ),
        ({"kind": "checkpoint", "targets_seen": 9_000, "seconds_held": 0.0}, "   saved at 9,000 targets, 0 ms held up"),
        (
            {"kind": "attempt", "number": 2, "resumed_at": 5_000, "why": "a worker died"},
            " attempt 2, from 5,000 targets on: a worker died",
        ),
    ],
)
def test_what_happens_to_a_run_has_a_line(row, expected):
    assert line_of(row, CONFIG) == expected


def test_rows_are_printed_as_they_come_also_when_a_resumed_run_puts_a_shorter_log_in_place(tmp_path, capsys):
    earlier = RunLog(tmp_path, 0)
    earlier.write({"kind": "problem", "targets_seen": 0, "message": "before"})
    with shown(tmp_path, CONFIG):
        for number in (1, 2, 3):
            earlier.write({"kind": "checkpoint", "targets_seen": 1_000 * number, "seconds_held": 0.0})
        time.sleep(3 * POLL_SECONDS)
        earlier.close()
        again = RunLog(tmp_path, 1_000)
        again.write({"kind": "attempt", "number": 2, "resumed_at": 1_000, "why": "a worker died"})
        again.write({"kind": "checkpoint", "targets_seen": 2_500, "seconds_held": 0.0})
        (tmp_path / "log.jsonl").open("a").write('nonsense\n{"kind": "train"}\n')
        again.close()
    printed = [line.split(" targets")[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        "   saved at 1,000", "   saved at 2,000", "   saved at 3,000", " attempt 2, from 1,000", "   saved at 2,500",
    ]  # fmt: skip


def test_a_log_that_goes_away_does_not_stop_the_lines(tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    log = RunLog(out, 0)
    with shown(out, CONFIG):
        log.write({"kind": "problem", "message": "first"})
        time.sleep(2.2 * POLL_SECONDS)
        out.rename(tmp_path / "away")
        time.sleep(2.2 * POLL_SECONDS)
        (tmp_path / "away").rename(out)
        log.write({"kind": "problem", "message": "second"})
        log.close()
    assert capsys.readouterr().out == " problem first\n problem second\n"
