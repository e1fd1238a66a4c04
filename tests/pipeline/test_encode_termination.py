"""`wm encode` on SIGTERM: it exits with code 143 and one line, leaves no process, and can be resumed."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chunks import same_rows
from killing import descendants, still_alive

from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.commit_log import COMMITS
from datasets.corpus.state import IN_PROGRESS_FILE
from datasets.pipeline.encode import encode, encode_in_process
from datasets.runtime.process.termination import TerminatedError, raise_if_terminated
from datasets.synth import SynthOptions, synthesize

WAIT_S = 300
"""For an exit, which ends as soon as it can; longer than ending Ray takes on a busy machine."""
Moment = Callable[[int, Path], bool]


def ray_starts(pid: int, out: Path) -> bool:
    """Whether a command has started Ray's raylet."""
    return any("raylet" in command for command in descendants(pid).values())


def chunks_are_parsed(pid: int, out: Path) -> bool:
    """Whether a command has started a parser."""
    return any("datasets.pipeline.parser_main" in command for command in descendants(pid).values())


def has_committed(pid: int, out: Path) -> bool:
    """Whether a command has committed a chunk."""
    return any((out / COMMITS).glob("[0-9]*.json"))


def without_retried_start(errors: str) -> str:
    """What a command says apart from the line about a start of Ray that failed once, as on a busy machine."""
    return re.sub(r"^Ray did not start \(.*\); trying once more\n", "", errors, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def replays_of(synthetic_replays, tmp_path_factory) -> Callable[[int], Path]:
    """Folders of so many short synthetic replays, 16 to a chunk; 0: those of all tests."""

    @functools.cache
    def make(num_games: int) -> Path:
        if num_games == 0:
            return synthetic_replays
        out = tmp_path_factory.mktemp("replays-of-kills") / "replays"
        synthesize(out, SynthOptions(num_games=num_games, seed=9, max_frames=2_400))
        return out

    return make


@pytest.mark.parametrize(
    ("is_moment", "num_games"),
    [(ray_starts, 0), (chunks_are_parsed, 40), pytest.param(has_committed, 160, marks=pytest.mark.slow)],
    ids=["while Ray starts", "while the first chunks are parsed", "after the first commit"],
)
def test_sigterm_ends_an_encode_with_one_line_and_it_can_be_resumed(is_moment: Moment, num_games, replays_of, tmp_path):
    replays, out = replays_of(num_games), tmp_path / "corpus"
    command = [sys.executable, "-m", "wm.cli", "encode", str(replays), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not is_moment(process.pid, out):
        assert process.poll() is None, "the run has ended before the moment"
        time.sleep(0.05)
    tree = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 128 + signal.SIGTERM
    line = "wm encode: stopped by SIGTERM; run the same command again to resume\n"
    assert without_retried_start(errors) == line
    assert [tree[pid] for pid in still_alive(tree, WAIT_S)] == []
    assert (out / IN_PROGRESS_FILE).exists()
    encode([replays], out, EncodeOptions(), encode_in_process)
    encode([replays], tmp_path / "uninterrupted", EncodeOptions(), encode_in_process)
    assert same_rows(out, tmp_path / "uninterrupted")


@pytest.mark.usefixtures("sigterm_raises")
def test_a_sigterm_whose_exception_was_discarded_is_raised_by_the_next_check():
    with pytest.raises(TerminatedError):
        raise_if_terminated()
        with contextlib.suppress(TerminatedError):
            signal.raise_signal(signal.SIGTERM)
        raise_if_terminated()


def answer_to_sigterm(program: str) -> tuple[int, str]:
    """Exit code and stderr of a program that gets SIGTERM once it has printed `running`."""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.terminate()
    _, errors = process.communicate(timeout=WAIT_S)
    return process.returncode, errors


HANGING = """
import time
from datasets.runtime.process.command import run_command
from datasets.runtime.process.termination import TerminatedError, ends_within

def command():
    with ends_within(1.0):
        try:
            print("running", flush=True)
            time.sleep(300)
        except TerminatedError:
            time.sleep(300)
    return 0

run_command("wm verb", command, resumes=True)
"""


def test_a_clean_up_that_hangs_is_ended_with_the_same_line_and_exit_code():
    assert answer_to_sigterm(HANGING) == (143, "wm verb: stopped by SIGTERM; run the same command again to resume\n")


HANGING_AFTER_RAYS_HANDLER = """
import signal, sys, time
import ray
from datasets.runtime.process.command import run_command
from datasets.runtime.process.termination import ends_within
from datasets.runtime.ray_cluster import start_ray

def init(**options):
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    print("running", flush=True)
    time.sleep(300)

def command():
    with ends_within(0.5):
        try:
            ray.init = init
            start_ray(1)
        finally:
            time.sleep(300)

run_command("wm verb", command, resumes=True)
"""


def test_a_clean_up_that_hangs_after_rays_own_handler_is_ended_too():
    line = "wm verb: stopped by SIGTERM; run the same command again to resume\n"
    assert answer_to_sigterm(HANGING_AFTER_RAYS_HANDLER) == (143, line)


DISCARDING = """
import signal, sys, time
from datasets.runtime.process.command import run_command

class Destructor:
    def __del__(self):
        print("running", flush=True)
        time.sleep({seconds})

def command():
    {handler}
    Destructor()
    time.sleep(300)
    return 0

run_command("wm verb", command)
"""
RAYS_HANDLER = """signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))"""


@pytest.mark.parametrize(("handler", "code"), [("pass", 143), (RAYS_HANDLER, 15)], ids=["ours", "Ray's"])
def test_a_sigterm_within_a_destructor_is_raised_after_it_without_another_line(handler, code):
    """As in a hook of `os.fork`: Python discards the exception there. `ray.init` has a handler of its own."""
    line = "wm verb: stopped by SIGTERM\n" if code == 143 else ""
    assert answer_to_sigterm(DISCARDING.format(handler=handler, seconds=60)) == (code, line)


EXITING = """
import atexit, os, sys, time
from datasets.runtime.process.command import run_command

class Destructor:
    def __del__(self, write=os.write, sleep=time.sleep):
        write(1, b"running\\n")
        sleep({seconds})

def hang():
    print("running", flush=True)
    time.sleep({seconds})

def command():
    {where}
    return 3

run_command("wm verb", command)
"""


@pytest.mark.parametrize(
    ("where", "seconds"), [("atexit.register(hang)", 300), ("sys.kept = Destructor()", 1)],
    ids=["exit handlers", "finalization"],
)  # fmt: skip
def test_a_sigterm_after_the_end_of_a_command_does_not_change_its_exit_code(where, seconds):
    assert answer_to_sigterm(EXITING.format(where=where, seconds=seconds)) == (3, "")


WITHIN_RAY_INIT = """
import os, signal
from datasets.runtime.process.command import run_command

def command():
    import ray._raylet
    from datasets.runtime.ray_cluster import start_ray

    class Subscriber(ray._raylet.GcsErrorSubscriber):
        def __init__(self, *args, **options):
            os.kill(os.getpid(), signal.SIGTERM)
            super().__init__(*args, **options)

    ray._raylet.GcsErrorSubscriber = Subscriber
    start_ray(1)

run_command("wm verb", command)
"""


def test_a_sigterm_while_ray_init_connects_prints_no_stack_trace():
    """Ray's core worker installs a handler in C++ some time before `ray.init` ends."""
    done = subprocess.run(
        [sys.executable, "-c", WITHIN_RAY_INIT], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert (done.returncode, without_retried_start(done.stderr)) == (143, "wm verb: stopped by SIGTERM\n")
