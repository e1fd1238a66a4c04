"""`wm rollout --html` from the outside: the page that it writes of a trained model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import run, tiny_run

from datasets.runtime.errors import UserError
from wm.launch.rollout_checkpoint import rollout_checkpoint
from wm.viewer.choice import KINDS


@pytest.fixture(scope="module")
def trained(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder."""
    config = tiny_run(tiny_corpus, tmp_path_factory.mktemp("viewer") / "run")
    run(replace(config, optimizer=replace(config.optimizer, total_targets=config.optimizer.total_targets // 2)))
    return config.out


def data_of(page: Path) -> dict[str, Any]:
    """The data that a page holds."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_without_a_game_the_page_holds_dreams_of_several_kinds(trained, tiny_corpus, tmp_path, capsys):
    page, kept = tmp_path / "new" / "dreams.html", tmp_path / "dreams.json"
    rollout_checkpoint(trained, tiny_corpus, split="all", num_starts=40, num_frames=90, html=page, json=kept)
    dreams = data_of(page)["dreams"]
    kinds = {dream["label"].split(", ")[0] for dream in dreams}
    assert len(kinds) >= 2 and kinds <= KINDS.keys()
    assert {dream["numFrames"] for dream in dreams} == {90}
    rows = json.loads(kept.read_text())["dreams"]
    assert [row["label"] for row in rows] == [dream["label"] for dream in dreams]
    for row, dream in zip(rows, dreams, strict=True):
        mean = sum(dream["positionError"]) / dream["numFrames"]
        assert row["position_error"] == pytest.approx(mean, abs=1e-2)
    printed = capsys.readouterr().out
    assert str(page) in printed and all(row["label"] in printed for row in rows)
    # whoever sends the page sends no path of this machine
    assert str(tmp_path) not in page.read_text() and str(trained) not in page.read_text()


def test_a_page_of_one_dream_holds_what_its_json_holds(trained, tiny_corpus, tmp_path):
    page = tmp_path / "dream.html"
    result = rollout_checkpoint(trained, tiny_corpus, game="0", start=50, num_frames=40, html=page)
    (dream,) = data_of(page)["dreams"]
    assert dream["firstFrame"] == result["first_frame"] == 50
    assert dream["positionError"] == pytest.approx(result["position_error"], abs=1e-3)
    assert result["game_id"].startswith(dream["game"])


@pytest.mark.parametrize(
    ("options", "message"), [({"temperature": ["1"]}, "name a --game"), ({"rule": "theirs"}, "leave out .*--html")]
)
def test_what_a_page_cannot_show_is_refused(trained, tiny_corpus, tmp_path, options, message):
    with pytest.raises(UserError, match=message) as raised:
        rollout_checkpoint(trained, tiny_corpus, html=tmp_path / "dreams.html", **options)
    assert "\n" not in str(raised.value)


def test_a_page_that_cannot_be_written_is_one_line(trained, tiny_corpus, tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("")
    too_long_while_written = f"{'d' * 245}.html"  # 255 bytes are allowed, and the temporary name is longer
    for page, message in (
        (blocked / "dreams.html", "a file is no folder"),
        (tmp_path / ("d" * 300), "File name too long"),
        (tmp_path / too_long_while_written, "cannot be written"),
    ):
        with pytest.raises(UserError, match=message) as raised:
            rollout_checkpoint(trained, tiny_corpus, game="0", num_frames=5, html=page)
        assert "\n" not in str(raised.value)
