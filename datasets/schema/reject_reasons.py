"""Why an input is not in the corpus: one code for each reason, stored in `rejects/` and counted by `wm corpus info`."""

from __future__ import annotations

REJECT_REASONS: dict[str, str] = {
    # Reading the input
    "unopenable": "the file or archive member cannot be read",
    "too_large": "more than 128 MB uncompressed, far larger than any replay",
    "wrong_size": "an archive member does not match its recorded size or checksum",
    "encrypted": "an encrypted archive or member",
    "nested_archive": "an archive inside an archive",
    "unsafe_path": "a link, or a member whose name points outside of its archive",
    # The parser process
    "parser_crashed": "the parser process crashed on it twice",
    "parser_hung": "the parser process did not respond in time, twice",
    "too_much_memory": "parsing it exceeds the memory limit of a parser process",
    "internal_error": "a bug in this program on this input; the message names the line",
    # Parsing
    "not_a_replay": "not a .slp file",
    "unreadable": "the replay is truncated or malformed (the message says where)",
    "parser_failed": "the parser cannot read the replay",
    "no_frames": "the replay has no frames",
    "old_version": "Slippi before 2.0, which lacks fields that every encoding needs",
    "not_two_players": "more or fewer than two players",
    "odd_first_frame": "the first frame is not the start of the countdown",
    "frame_gap": "frames are missing",
    "player_absent": "a player is missing in some frames",
    # What the specification states, and what no game can do
    "cut_short": "the frames end before the last frame that the metadata names",
    "bad_values": "values that are not finite or out of range",
    "stocks_jump": "stocks that increase, or drop by more than one at a time",
    "character_mismatch": "a character that was not selected",
    "position_jump": "a position change too large for one frame",
    # Learned rules (`datasets.schema.suspect_rules`): reasons with --strict only
    "off_grid": "a stick or trigger value that no controller produces",
    "percent_falls": "percent that drops without a respawn",
    "pre_post_mismatch": "a pre-frame state that differs from the post-frame state before it",
    "buttons_mismatch": "processed buttons that differ from the physical buttons in a few frames",
    "shield_jump": "a shield that shrinks while it is down, or grows too fast",
    "hitlag_mismatch": "hitlag frames without the hitlag flag, or the flag without frames",
    "one_frame_value": "a value that changes for a single frame and reverts, with nothing to cause it",
    "velocity_mismatch": "a velocity that does not match the movement",
    "position_reverts": "a large position change that reverts in the next frame",
    "unusual_value": "a value that is possible but was never seen, such as half a frame of hitstun",
    # Training-game filters
    "teams": "a team game",
    "cpu_player": "a CPU player",
    "items_on": "items are on",
    "odd_stage": "not a tournament stage",
    "odd_stocks": "not the expected number of stocks",
    "short": "too short",
    "low_damage": "a player took too little damage",
    "idle_player": "a player never moved the main stick",
    # The corpus
    "duplicate": "the corpus already holds the same bytes",
    "duplicate_game": "the corpus already holds the same game in other bytes",
    "replaced": "an older pipeline's copy of a game, replaced by its .slp",
}
"""Reason code -> description. Codes are stable, because users count by them. Thresholds: `docs/reliability.md`."""
