"""What the model learned from, what was left out, and the words of this page."""

from __future__ import annotations

from typing import Any

from datasets.schema.reject_reasons import REJECT_REASONS
from wm.report.bars import bar
from wm.report.formats import NO_DATA, bytes_text, count_text, number
from wm.report.markup import Child, Markup, join, tag
from wm.report.results import Estimate
from wm.report.section import Section, facts, nothing, table

FRAMES_PER_HOUR = 60 * 3600

TERMS: tuple[tuple[str, str], ...] = (
    (
        "target",
        "One frame that the model has to tell: it sees the frames before, and what both players press now, and says "
        "where both players are and what they do. “Targets seen” counts how many it has trained on.",
    ),
    (
        "change_acc",
        "Change accuracy: of the moments when a player's action differs from the frame before (a jump starts, a hit "
        "lands), the share where the model named the new action. The hard number, and the one to watch. Repeating "
        "the last frame scores 0% by definition.",
    ),
    (
        "action_acc",
        "Action accuracy: of all moments, the share where the model named the action. Most frames go on with the "
        "action before, so even repeating the last frame scores high; compare it with the baselines, not with 100%.",
    ),
    (
        "pos_mae",
        "Position error: by how much the model's movement from one frame to the next is off, on average over x and y, "
        "in game units. Final Destination is 171 units wide; a running Fox moves 2.2 units in a frame.",
    ),
    (
        "val_loss",
        "Validation loss: everything the model predicts (positions, speeds, actions, damage, stocks and more) put "
        "together in one number, without a unit of its own. Good for comparing models; baselines have none where "
        "they do not give probabilities.",
    ),
    (
        "context K",
        "How many frames of the past the model may look at: K = 60 is one second. “Streaming” is the whole game so "
        "far.",
    ),
    (
        "baseline",
        "A simple rule that learns nothing, such as repeating the last frame, or going on at the last speed. A model "
        "that does not beat it has not understood the game.",
    ),
    (
        "95% interval",
        "How far the number could be off because only some games were judged: the games are drawn again a thousand "
        "times, and 95% of the results lie in it. Narrow is good; more games make it narrower.",
    ),
)


def corpus_section(corpus: dict[str, Any]) -> Section:
    """Games, frames, stages and characters, and the inputs that were not taken."""
    games, frames = number(corpus.get("games")), number(corpus.get("frames"))
    frame_bytes = number(corpus.get("bytes_per_frame"))
    pairs: list[tuple[str, Child]] = [("Games", count_text(games)), ("Frames", count_text(frames))]
    if frames is not None:
        pairs.append(("Play time", f"{frames / FRAMES_PER_HOUR:,.1f} h"))
    if frame_bytes is not None:
        pairs.append(("Bytes a frame", f"{frame_bytes:.1f}"))
        if frames is not None:
            pairs.append(("On disk, about", bytes_text(frames * frame_bytes)))
    return Section(
        key="corpus",
        heading="What it learned from",
        sentence=(
            "The replays that became the corpus: good is many games spread over stages and characters, and few replays "
            "left out; what is rare here the model will not know well."
        ),
        body=join(
            facts(pairs),
            tag(
                "div",
                _counts(corpus.get("stages"), "Stage", "Games on each stage", games),
                _counts(
                    corpus.get("characters"),
                    "Character",
                    "Games with each character (a game counts for both of its characters)",
                    games,
                ),
                class_="columns",
            ),
            _rejects(corpus["rejects"], games) if "rejects" in corpus else None,
        ),
    )


def _counts(counts: dict[str, int] | None, kind: str, caption: str, games: float | None) -> Markup | None:
    """Games by stage or character; a game has two characters, so shares are of games."""
    if not counts:
        return None
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    full = float(ordered[0][1]) or 1.0
    rows: list[list[Child]] = [
        [
            name,
            join(
                count_text(count),
                f" ({_rounded(count / games)})" if games else None,
                bar(Estimate(value=float(count)), full, f"{name}: {count_text(count)} games"),
            ),
        ]
        for name, count in ordered
    ]
    return table(caption, [kind, "Games"], rows, class_="counts", label=caption)


def _rounded(share: float) -> str:
    """A whole percentage; what is there but small is not written as nothing."""
    return "<1%" if 0 < share < 0.01 else f"{share * 100:.0f}%"


def _rejects(rejects: dict[str, int] | None, games: float | None) -> Markup:
    heading = tag("h3", "Replays left out")
    if not rejects:
        return join(heading, nothing("None: every replay was taken."))
    total = sum(rejects.values())
    of_all = f" ({total / (total + games) * 100:.1f}% of all found)" if games is not None and total + games else ""
    caption = f"{count_text(total)} replays were not taken{of_all}; each for one reason."
    rows: list[list[Child]] = [
        [tag("code", reason), REJECT_REASONS.get(reason, NO_DATA), count_text(count)]
        for reason, count in sorted(rejects.items(), key=lambda item: (-item[1], item[0]))
    ]
    return join(heading, table(caption, ["Reason", "Meaning", "Replays"], rows, class_="rejects", label="Rejects"))


def glossary_section() -> Section:
    """The words of this page."""
    entries = [
        tag("div", tag("dt", tag("dfn", name), id=f"term-{name.split()[0]}"), tag("dd", meaning))
        for name, meaning in TERMS
    ]
    return Section(
        key="glossary",
        heading="Words",
        sentence="What the numbers of this page mean.",
        body=tag("dl", entries, class_="glossary"),
    )
