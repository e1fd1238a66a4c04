"""Melee's ids of characters and stages (Slippi SPEC.md, Melee IDs).

Game Start holds external ids (the character as selected), frames hold internal ids (the character as played: Zelda and
Sheik switch during a game).
"""

from __future__ import annotations

CHARACTERS: tuple[str, ...] = (
    "Captain Falcon", "Donkey Kong", "Fox", "Game & Watch", "Kirby", "Bowser", "Link", "Luigi", "Mario",
    "Marth", "Mewtwo", "Ness", "Peach", "Pikachu", "Ice Climbers", "Jigglypuff", "Samus", "Yoshi", "Zelda",
    "Sheik", "Falco", "Young Link", "Dr. Mario", "Roy", "Pichu", "Ganondorf",
)  # fmt: skip
"""Name by external character id."""

INTERNAL_CHARACTERS = (2, 3, 1, 24, 4, 5, 6, 17, 0, 18, 16, 8, 9, 12, 10, 15, 13, 14, 19, 7, 22, 20, 21, 26, 23, 25)
"""Internal character id by external id. The Ice Climbers' is Popo's."""
SHEIK, NESS, POPO, NANA, ZELDA = 7, 8, 10, 11, 19
"""Internal character ids."""
EXTERNAL_CHARACTERS: dict[int, int] = {internal: external for external, internal in enumerate(INTERNAL_CHARACTERS)}
"""External character id by internal id."""
EXTERNAL_CHARACTERS[NANA] = EXTERNAL_CHARACTERS[POPO]

TOURNAMENT_STAGES: dict[int, str] = {
    2: "Fountain of Dreams",
    3: "Pokémon Stadium",
    8: "Yoshi's Story",
    28: "Dream Land",
    31: "Battlefield",
    32: "Final Destination",
}
"""Name by external stage id, of the stages in use at tournaments."""

HUMAN = 0
"""Player type of a human in Game Start; others are CPU players and empty slots."""


def character_name(external_id: int) -> str:
    """The name of a character, or its number if the id is not a playable one."""
    return CHARACTERS[external_id] if external_id < len(CHARACTERS) else f"character {external_id}"


def stage_name(stage: int) -> str:
    """The name of a tournament stage, or its number."""
    return TOURNAMENT_STAGES.get(stage, f"stage {stage}")
