"""Progress lines of an encode."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.maintenance.compact import compact
from datasets.corpus.state import LOG_FILE
from datasets.pipeline import progress
from datasets.pipeline.encode import EncodeSummary, encode, encode_in_process
from datasets.pipeline.progress import EncodeProgress, summary_text


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

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


def test_progress_is_logged_in_the_corpus(synthetic_replays, tmp_path):
    out, printed = tmp_path / "corpus", io.StringIO()
    with EncodeProgress(out, printed) as seen:
        summary = encode([synthetic_replays], out, EncodeOptions(), encode_in_process, on_commit=seen.update)
    (line,) = (out / LOG_FILE).read_text().splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d  ", line)
    assert f"{summary.num_games} games" in line
    assert printed.getvalue().strip() in line


def test_a_terminal_shows_one_line_that_is_rewritten(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "LIVE_SECONDS", 3_600)  # no refresh of the thread between these
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    with EncodeProgress(tmp_path / "corpus", terminal) as seen:
        for num_games in (1, 2, 3):
            seen.update(EncodeSummary(num_games=num_games), 1_000)
            seen.refresh()
    for num_games in (1, 2, 3):
        assert f"{num_games} games" in terminal.getvalue()
    assert terminal.getvalue().count("\r") > 2
    assert terminal.getvalue().count("\n") == 1  # rich starts a new line before it erases the live one
    assert "GB" in terminal.getvalue()


def test_the_summary_says_when_compacting_is_worthwhile(synthetic_replays, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.corpus.maintenance.compact.MANY_SMALL_SHARDS", 2)
    out, said = tmp_path / "corpus", []
    for path in sorted(synthetic_replays.glob("*.slp"))[:2]:
        summary = encode([path], out, EncodeOptions(), encode_in_process)
        said.append(summary_text(summary, out).splitlines()[-1])
    assert "compact" not in said[0]
    assert said[1] == f"`wm corpus compact {out}` is worthwhile: 2 of 2 shards are smaller than 4 MB"
    compact(out)
    assert "compact" not in summary_text(encode([path], out, EncodeOptions(), encode_in_process), out)
