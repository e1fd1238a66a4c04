"""`wm synth`: the files contain what the simulation recorded, and the simulation obeys its rules.

Shape legend: T = frames, P = players (2).
"""

import hashlib
from pathlib import Path

import numpy as np
import peppi_py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.runtime.errors import UserError
from datasets.runtime.splitmix64 import random_keys, random_words
from datasets.synth import SimulatedGame, SynthOptions, simulate, synthesize, write_slp
from datasets.synth.actions import ANIMATION, TRAITS, Action, Trait
from datasets.synth.controllers import Controllers
from datasets.synth.faults import CORRUPTIONS, add_rollbacks
from datasets.synth.fighters import CHARACTERS
from datasets.synth.simulation import CONTROLLER_COLUMNS, step
from datasets.synth.slp_layout import Layout, Version
from datasets.synth.slp_writer import frame_rows, metadata, state_flags
from datasets.synth.stages import STAGES
from datasets.synth.state import STATE_FIELDS, World

VERSIONS = ("2.0.1", "2.1.0", "2.2.0", "3.7.0", "3.9.1", "3.12.0", "3.13.0", "3.14.0", "3.15.0", "3.16.0")


@pytest.fixture(scope="module")
def games() -> list[SimulatedGame]:
    return sorted(simulate(SynthOptions(num_games=10, seed=3)), key=lambda game: game.index)


@pytest.fixture(scope="module")
def short_game() -> SimulatedGame:
    return next(simulate(SynthOptions(num_games=1, seed=11, max_frames=900, random_ports=True)))


def read(path: Path, data: bytes) -> peppi_py.Game:
    path.write_bytes(data)
    return peppi_py.read_slippi(str(path))


def both(frames, part: str, *names: str) -> np.ndarray:
    """One field of both players as (T, P)."""
    columns = []
    for port in frames.ports:
        value = getattr(port.leader, part)
        for name in names:
            value = value[int(name)] if name.isdigit() else getattr(value, name)
        columns.append(value.to_numpy(zero_copy_only=False))
    return np.stack(columns, 1)


def absent(frames, part: str, name: str) -> bool:
    return getattr(getattr(frames.ports[0].leader, part), name) is None


def expected_post(game: SimulatedGame) -> dict[tuple[str, ...], np.ndarray]:
    """Every post-frame field of peppi-py, computed from the simulation."""
    c = game.columns
    flags = state_flags(c)
    internal = [CHARACTERS[row].internal_id for row in game.characters]
    plain = ("state", "direction", "percent", "shield", "last_attack_landed", "combo_count", "last_hit_by", "stocks",
             "state_age", "misc_as", "airborne", "ground", "jumps", "l_cancel", "hurtbox_state", "hitlag")  # fmt: skip
    return {
        **{(name,): c[name] for name in plain},
        ("character",): np.tile(internal, (game.num_frames, 1)),
        ("position", "x"): c["x"],
        ("position", "y"): c["y"],
        **{("state_flags", str(i)): flags[..., i] for i in range(5)},
        ("velocities", "self_x_air"): c["self_x_air"],
        ("velocities", "self_y"): c["self_y"],
        ("velocities", "knockback_x"): c["knockback_x"],
        ("velocities", "knockback_y"): c["knockback_y"],
        ("velocities", "self_x_ground"): np.where(c["airborne"], 0, c["self_x_air"]),
        ("animation_index",): ANIMATION[c["state"]],
    }


def expected_pre(game: SimulatedGame) -> dict[tuple[str, ...], np.ndarray]:
    c = game.columns
    earlier = {
        name: np.concatenate([c[name][:1], c[name][:-1]]) for name in ("state", "x", "y", "direction", "percent")
    }
    trigger = (c["trigger_steps"] / 140).astype(np.float32)
    right = (c["buttons"] & 0x20) != 0
    return {
        **{(name,): earlier[name] for name in ("state", "direction", "percent")},
        ("position", "x"): earlier["x"],
        ("position", "y"): earlier["y"],
        ("joystick", "x"): (c["stick_x_steps"] / 80).astype(np.float32),
        ("joystick", "y"): (c["stick_y_steps"] / 80).astype(np.float32),
        ("cstick", "x"): (c["c_x_steps"] / 80).astype(np.float32),
        ("cstick", "y"): (c["c_y_steps"] / 80).astype(np.float32),
        ("triggers",): trigger,
        ("buttons_physical",): c["buttons"],
        ("triggers_physical", "l"): np.where(right, 0, trigger),
        ("triggers_physical", "r"): np.where(right, trigger, 0),
        ("raw_analog_x",): c["stick_x_steps"],
        ("raw_analog_y",): c["stick_y_steps"],
    }


SINCE = {"hurtbox_state": (2, 1), "velocities": (3, 5), "hitlag": (3, 8), "animation_index": (3, 11),
         "raw_analog_y": (3, 15)}  # fmt: skip


def assert_agrees(frames, game: SimulatedGame, version: str, last: np.ndarray) -> None:
    for part, expected in (("pre", expected_pre(game)), ("post", expected_post(game))):
        for names, values in expected.items():
            if not Version.parse(version).has(SINCE.get(names[0], (2, 0))):
                assert absent(frames, part, names[0]), (part, names)
                continue
            found = both(frames, part, *names)[last]
            np.testing.assert_array_equal(found, values, err_msg=f"{version} {part} {names}")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_field_of_every_version_reads_back_as_simulated(version, short_game, tmp_path):
    game = read(tmp_path / "game.slp", write_slp(short_game, version=version))
    assert np.array_equal(game.frames.id.to_numpy(), np.arange(-123, short_game.num_frames - 123))
    assert_agrees(game.frames, short_game, version, np.arange(short_game.num_frames))


@pytest.mark.parametrize("version", VERSIONS)
def test_start_end_and_metadata_read_back(version, short_game, tmp_path):
    game = read(tmp_path / "game.slp", write_slp(short_game, version=version))
    start, end, parsed = game.start, game.end, Version.parse(version)
    assert tuple(start.slippi.version) == (parsed.major, parsed.minor, parsed.patch)
    assert start.stage == STAGES[short_game.stage].stage_id
    assert start.random_seed == short_game.random_seed
    assert [int(player.port) for player in start.players] == list(short_game.ports)
    external = [CHARACTERS[row].external_id for row in short_game.characters]
    assert [player.character for player in start.players] == external
    assert [player.costume for player in start.players] == list(short_game.costumes)
    for player in start.players:
        ratios = (player.offense_ratio, player.defense_ratio, player.model_scale)
        assert (player.type, player.stocks, player.team, ratios) == (0, 4, None, (1.0, 1.0, 1.0))
    assert short_game.timed_out
    assert end.method == 7
    if parsed.has((3, 13)):
        places = {int(player.port): player.placement for player in end.players}
        assert places[short_game.ports[short_game.winner]] == 0
        assert places[short_game.ports[1 - short_game.winner]] == 1
    assert game.metadata == metadata(short_game)


@pytest.mark.parametrize("version", ("3.7.0", "3.12.0", "3.16.0"))
def test_the_last_row_of_each_frame_is_final_with_rollbacks(version, short_game, tmp_path):
    layout = Layout.of(Version.parse(version))
    rows = add_rollbacks(frame_rows(short_game, layout), layout, key=5)
    game = read(tmp_path / "game.slp", write_slp(short_game, version=version, rows=rows))
    ids = game.frames.id.to_numpy()
    assert len(ids) > short_game.num_frames + 20
    assert (np.diff(ids) < 0).any() and (np.diff(ids) <= 1).all()
    last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
    assert_agrees(game.frames, short_game, version, last)
    first = np.unique(ids, return_index=True)[1]
    assert (both(game.frames, "post", "position", "x")[first] != short_game.columns["x"]).any()


def test_the_rollback_and_port_options_change_the_files(tmp_path):
    options = SynthOptions(num_games=6, max_frames=200, rollbacks=True, random_ports=True)
    synthesize(tmp_path / "games", options)
    parsed = [peppi_py.read_slippi(str(path)) for path in sorted((tmp_path / "games").iterdir())]
    assert len({tuple(int(player.port) for player in game.start.players) for game in parsed}) > 2
    assert sum(len(game.frames.id) for game in parsed) > 6 * 323


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_equal_options_give_equal_bytes_and_another_seed_gives_others(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        options = SynthOptions(num_games=4, seed=seed, max_frames=300, broken=7, rollbacks=True)
        summary = synthesize(tmp_path / name, options)
    assert (summary.games, summary.broken, summary.frames) == (4, 7, 4 * 423)
    assert summary.num_bytes == sum(path.stat().st_size for path in (tmp_path / "c").iterdir())
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b and len(a) == 11
    assert all(a[name] != c[name] for name in a if name.startswith("game"))


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        (
            SynthOptions(num_games=2, seed=1, max_frames=1_500, broken=7, rollbacks=True, random_ports=True),
            "3ab93e0ba488089d0cb3ba62d93551feaaa14c7247c095c5526f0c9e4502864d",
        ),
        (
            SynthOptions(num_games=1, seed=2, version="2.0.1", max_frames=300),
            "e2e24fff507b0ddd87d83507da8aa07da2ed3864d1562c4012a437541ec87d8e",
        ),
    ],
)
def test_the_bytes_of_a_seed_never_change(options, digest, tmp_path):
    synthesize(tmp_path / "games", options)
    content = b"".join(path.read_bytes() for path in sorted((tmp_path / "games").iterdir()))
    assert hashlib.sha256(content).hexdigest() == digest


def test_a_game_does_not_depend_on_its_batch():
    def played(num_games: int, batch_games: int) -> dict[int, bytes]:
        options = SynthOptions(num_games=num_games, batch_games=batch_games, max_frames=700, seed=4)
        return {game.index: write_slp(game) for game in simulate(options)}

    together, apart, alone = played(7, 7), played(7, 3), played(5, 1)
    assert together == apart
    assert alone == {index: together[index] for index in alone}


def test_positions_follow_from_velocities_unless_the_stage_corrects_them(games):
    for game in games:
        c = game.columns
        before, after = slice(0, -1), slice(1, None)
        moves = (c["hitlag"][after] == 0) & (c["state"][after] != Action.REBIRTH)
        x = c["x"][before] + (c["self_x_air"] + c["knockback_x"])[after]
        y = c["y"][before] + (c["self_y"] + c["knockback_y"])[after]
        in_air = c["airborne"][before] & c["airborne"][after]
        wrong_x = (x != c["x"][after])[moves]
        wrong_y = (y != c["y"][after])[moves & in_air]
        assert wrong_x.mean() < 0.01
        assert wrong_y.mean() < 0.005


def test_the_states_follow_from_the_controllers_alone(short_game):
    world, pads = World(1), Controllers(1)
    characters, ports = np.array([short_game.characters]), np.array([short_game.ports], np.uint8)
    world.start_games(np.array([0]), characters, np.array([short_game.stage]), ports)
    c = short_game.columns
    for frame in range(short_game.num_frames):
        pads.set(*(c[name][frame].astype(np.int64) for name in CONTROLLER_COLUMNS))
        step(world, pads)
        assert (world.action == c["state"][frame]).all()
        for name, now in (("x", world.x), ("y", world.y), ("percent", world.percent), ("shield", world.shield)):
            assert np.array_equal(now, c[name][frame]), (frame, name)
    assert {name: getattr(world, name).dtype for name in STATE_FIELDS} == STATE_FIELDS


def test_fighters_do_not_move_in_hitlag_or_before_the_game_begins(games):
    for game in games:
        c = game.columns
        for name in ("x", "y"):
            moved = np.diff(c[name], axis=0) != 0
            assert not moved[:122].any()
            frozen = (c["hitlag"][1:] > 0) & (c["hitlag"][:-1] > 0)
            assert not moved[frozen].any()


def test_stocks_never_increase_and_the_last_one_ends_the_game(games):
    finished = [game for game in games if not game.timed_out]
    assert len(finished) >= 7
    for game in games:
        stocks = game.columns["stocks"].astype(int)
        assert (stocks[0] == 4).all()
        assert set(np.unique(np.diff(stocks, axis=0))) <= {-1, 0}
    for game in finished:
        stocks = game.columns["stocks"]
        assert stocks[-1].min() == 0 and stocks[-1].max() > 0
        assert stocks[-1][game.winner] > 0
        assert (stocks[-12] > 0).all()


def test_games_pass_the_default_filters(games, tmp_path):
    for game in games:
        parsed = read(tmp_path / "game.slp", write_slp(game))
        start, c = parsed.start, game.columns
        assert [player.type for player in start.players] == [0, 0]
        assert not start.is_teams and start.item_spawn_frequency == -1 and start.timer == 480
        assert start.stage in {2, 3, 8, 28, 31, 32}
        assert game.num_frames >= 1800
        taken = np.maximum(np.diff(c["percent"], axis=0), 0).sum(0)
        assert (taken >= 30).all()
        assert (c["stick_x_steps"] != 0).any(0).all() and (c["c_x_steps"] != 0).any(0).all()
        assert all(not player.netplay.name and not player.netplay.code for player in start.players)


def test_fights_are_varied(games):
    states = np.concatenate([game.columns["state"].reshape(-1) for game in games])
    attacks = {44, 50, 53, 56, 57, 60, 63, 64, 65, 66, 67, 68, 69}
    shown = set(np.unique(states).tolist())
    assert attacks | {0, 12, 13, 14, 20, 21, 24, 25, 27, 29, 42, 179, 88, 90, 183, 252, 255} <= shown
    changes = np.mean([(np.diff(game.columns["state"][123:], axis=0) != 0).mean() for game in games])
    assert 0.03 < changes < 0.12
    shielded = sum((game.columns["state"] == Action.GUARD_SET_OFF).any() for game in games)
    assert shielded >= 3
    assert {1, 2} <= set(np.unique(np.concatenate([game.columns["l_cancel"].reshape(-1) for game in games])))


def test_states_end_and_fighters_stay_inside_the_blast_zone(games):
    for game in games:
        c = game.columns
        blast = STAGES[game.stage].blast
        alive = c["state"] > Action.DEAD_UP
        assert (c["x"][alive] >= blast[0]).all() and (c["x"][alive] <= blast[1]).all()
        assert (c["y"][alive] >= blast[2]).all()
        assert all(np.isfinite(column).all() for column in c.values())
        assert c["state_age"].max() < 1500
        assert (c["shield"] >= 0).all() and (c["shield"] <= 60).all()
        floor_left, floor_right, _ = STAGES[game.stage].surfaces[0]
        inside = (c["x"] > floor_left) & (c["x"] < floor_right) & (c["y"] < 0)
        climbing = np.isin(c["state"], (Action.CLIFF_CLIMB,)) | ~alive
        assert not (inside & ~climbing).any()


def test_only_damaged_fighters_have_hitstun_and_knockback(games):
    for game in games:
        c = game.columns
        traits = TRAITS[c["state"]]
        stunned = c["misc_as"] > 0
        assert ((traits[stunned] & (Trait.DAMAGE | Trait.SHIELD)) != 0).all()
        assert not ((traits & Trait.DAMAGE) != 0)[~stunned & (c["hitlag"] == 0)].any()


def count_gravity_frames(game: SimulatedGame) -> int:
    """Check gravity frame by frame, in plain Python. Returns the number of checked frames."""
    checked = 0
    c = game.columns
    for player in range(2):
        character = CHARACTERS[game.characters[player]]
        for frame in range(1, game.num_frames):
            falling = c["state"][frame - 1, player] == c["state"][frame, player] == Action.FALL
            if not falling or c["fast_fall"][frame, player] or not c["airborne"][frame, player]:
                continue
            speed = c["self_y"][frame - 1, player] - np.float32(character.gravity)
            expected = max(speed, np.float32(-character.fall_speed))
            assert c["self_y"][frame, player] == pytest.approx(expected, abs=1e-5)
            checked += 1
    return checked


def test_falling_follows_gravity_up_to_terminal_velocity(games):
    assert sum(count_gravity_frames(game) for game in games[:3]) > 100


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("word", (0, 12345, 2**40 + 7))
def test_corrupt_files_do_not_read_like_valid_ones(kind, word, short_game, tmp_path):
    good = write_slp(short_game)
    corrupt = CORRUPTIONS[kind](good, word)
    assert corrupt != good
    try:
        game = read(tmp_path / "corrupt.slp", corrupt)
    except BaseException as error:
        assert type(error).__name__ in ("OSError", "PanicException", "UnicodeDecodeError", "ValueError", "KeyError")
        return
    ids = game.frames.id.to_numpy()
    same = len(ids) == short_game.num_frames and np.array_equal(
        both(game.frames, "post", "position", "x"), short_game.columns["x"], equal_nan=True
    )
    assert not same, f"{kind} reads like a valid file"


def test_the_names_of_corrupt_files_contain_the_kind_of_corruption(tmp_path):
    synthesize(tmp_path / "games", SynthOptions(num_games=0, broken=len(CORRUPTIONS) + 1, max_frames=300))
    kinds = [path.stem.split("-", 2)[2] for path in sorted((tmp_path / "games").iterdir())]
    assert kinds == [*CORRUPTIONS, next(iter(CORRUPTIONS))]


def test_a_folder_that_is_not_empty_is_not_changed(tmp_path):
    (tmp_path / "precious.slp").write_text("mine")
    with pytest.raises(UserError, match="not an empty folder"):
        synthesize(tmp_path, SynthOptions(num_games=1, max_frames=10))
    assert [path.name for path in tmp_path.iterdir()] == ["precious.slp"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_games", -1), ("seed", -1), ("broken", -2), ("batch_games", 0), ("max_frames", 0), ("max_frames", 99_999),
     ("version", "3.0.0"), ("version", "3.6.9"), ("version", "1.7.1"), ("version", "4.0"), ("version", "new")],
)  # fmt: skip
def test_an_invalid_option_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        SynthOptions(**{field: value})


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), key=st.integers(0, 2**64 - 1), count=st.integers(1, 400))
def test_rollbacks_never_lose_a_frame(seed, key, count):
    layout = Layout.of(Version.parse("3.16.0"))
    rows = np.zeros(count, layout.row())
    rows["start"]["frame"] = np.arange(count)
    rows["post"]["x"] = random_words(random_keys(seed, np.arange(count)), 0).astype(np.float32)[:, None]
    sent = add_rollbacks(rows, layout, key)
    ids = sent["start"]["frame"]
    last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
    assert sent[last].tobytes() == rows.tobytes()


def test_rollbacks_need_a_version_that_has_them():
    with pytest.raises(ValueError, match="rollbacks"):
        SynthOptions(rollbacks=True, version="2.2.0")


def test_random_words_depend_on_their_key_and_counter_alone():
    keys = random_keys(9, np.arange(1000))
    assert len(np.unique(keys)) == 1000
    words = random_words(keys, np.arange(1000))
    assert np.array_equal(random_words(keys[500:], np.arange(500, 1000)), words[500:])
    share = ((words[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)).mean(0)
    assert (np.abs(share - 0.5) < 0.08).all()
