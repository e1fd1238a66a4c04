"""A failure of the parser process costs at most the input at which it happened."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from faulty_encoding import rejecting
from object_stores import s3_server
from waiting import wait_until

from datasets.corpus.chunk import ChunkResult, EncodeOptions
from datasets.pipeline import parser_process
from datasets.pipeline.encode_chunk import encode_chunk
from datasets.pipeline.feed import Chunk, Feed
from datasets.pipeline.parser_process import MAX_OTHER_FAILURES, ParserError, ParserProcess
from datasets.sources.read_errors import UNREACHABLE

SPARE_BYTES = 400 * 10**6
TIMEOUT_S = 30.0
FAULTY = "faulty_encoding:encode_with_faults"


@pytest.fixture
def chunk(synthetic_replays: Path, tmp_path: Path) -> Chunk:
    """Six synthetic games."""
    return first_chunk(synthetic_replays, 6, tmp_path)


def first_chunk(source: Path | str, num_inputs: int, tmp_path: Path) -> Chunk:
    staging = tmp_path / "staging"
    staging.mkdir()
    feed = Feed(
        sources=(str(source),),
        done=np.array([], dtype=np.uint64),
        chunk_inputs=num_inputs,
        out=str(tmp_path),
        staging=str(staging),
        options=EncodeOptions(),
    )
    return next(feed.chunks())


def with_fault(chunk: Chunk, *faults: tuple[int, str]) -> Chunk:
    """The chunk with some inputs named after a fault."""
    inputs = list(chunk.inputs)
    for index, fault in faults:
        inputs[index] = replace(inputs[index], source=fault)
    return replace(chunk, inputs=tuple(inputs))


def encode_isolated(parser: ParserProcess, chunk: Chunk) -> ChunkResult:
    return pickle.loads(parser.encode(pickle.dumps(chunk)))


def assert_same(isolated: ChunkResult, plain: ChunkResult, staging: str) -> None:
    """Same games, rejects and frames, and no other file in staging."""
    games = [[row | {"shard": None} for row in result.games] for result in (isolated, plain)]
    assert games[0] == games[1]
    assert isolated.rejects == plain.rejects
    tables = [pq.read_table(frames_of(result, staging)) for result in (isolated, plain)]
    assert tables[0].equals(tables[1])
    assert set(os.listdir(staging)) == {*staged(isolated), *staged(plain)}


def staged(result: ChunkResult) -> list[str]:
    """Names of a result's files in the staging folder."""
    return [f"{table}-{record.name}" for table, record in result.files.items()]


def frames_of(result: ChunkResult, staging: str) -> Path:
    return Path(staging, f"frames-{result.files['frames'].name}")


def assert_costs_one_input(chunk: Chunk, fault: str, code: str, message: str, timeout_s: float = TIMEOUT_S) -> None:
    chunk = with_fault(chunk, (2, fault))
    with ParserProcess(SPARE_BYTES, timeout_s, FAULTY) as parser:
        isolated = encode_isolated(parser, chunk)
    assert_same(isolated, encode_chunk(chunk, rejecting({2: (code, message)})), chunk.staging)


def remove_staged(result: ChunkResult, staging: str) -> None:
    for name in staged(result):
        (Path(staging) / name).unlink()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def kill_if_there(pid: int) -> None:
    """A child that was killed after its last answer is replaced only when the next chunk is sent."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_without_a_fault_the_result_is_that_of_encoding_in_the_same_process(chunk):
    with ParserProcess(SPARE_BYTES) as parser:
        first, pid = encode_isolated(parser, chunk), parser.pid
        remove_staged(first, chunk.staging)
        second = encode_isolated(parser, chunk)
        assert parser.pid == pid
    assert_same(second, encode_chunk(chunk), chunk.staging)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("abort", "the parser was killed by SIGABRT"),
        ("segfault", "the parser was killed by SIGSEGV"),
        ("exit", "the parser exited with code 3"),
    ],
)
def test_a_crash_costs_the_input_at_which_it_happened(chunk, fault, message):
    assert_costs_one_input(chunk, fault, "parser_crashed", message)


@pytest.mark.parametrize("fault", ["sleep", "spin"])
def test_a_hang_costs_one_input_also_while_the_gil_is_held(chunk, fault):
    assert_costs_one_input(chunk, fault, "parser_hung", "no answer within 1 s", timeout_s=1.0)


def assert_leaves_one_input(chunk: Chunk, fault: str, message: str, **options) -> None:
    """The input is neither a game nor a reject, and the others are as without it."""
    chunk = with_fault(chunk, (2, fault))
    with ParserProcess(SPARE_BYTES, TIMEOUT_S, FAULTY, **options) as parser:
        isolated = encode_isolated(parser, chunk)
    assert_same(isolated, encode_chunk(chunk, rejecting({2: (UNREACHABLE, message)})), chunk.staging)
    assert isolated.unread == ((chunk.inputs[2].label, message),)
    assert chunk.inputs[2].key not in isolated.keys


def test_storage_that_stalls_leaves_the_input_for_the_next_run(chunk):
    assert_leaves_one_input(chunk, "reading sleep", "not read within 1 s", read_timeout_s=1.0)


def test_reading_may_take_longer_than_parsing(chunk):
    chunk = with_fault(chunk, (2, "reading pause"))
    with ParserProcess(SPARE_BYTES, 2.0, FAULTY) as parser:
        isolated = encode_isolated(parser, chunk)
    assert_same(isolated, encode_chunk(chunk), chunk.staging)


def test_an_input_at_which_the_kernel_kills_the_parser_is_left_for_the_next_run(chunk):
    assert_leaves_one_input(chunk, "kill", "the parser was killed by SIGKILL, as by a machine that is out of memory")


def test_a_machine_that_is_out_of_memory_leaves_the_input_for_the_next_run(chunk, monkeypatch):
    monkeypatch.setattr(parser_process, "available_memory_bytes", lambda: 30_000_000)
    message = "out of memory: 30 MB of this machine's memory are left"
    assert_leaves_one_input(chunk, "allocate_gradually", message)


@pytest.mark.parametrize("fault", ["allocate_at_once", "allocate_gradually", "compress"])
def test_running_out_of_memory_costs_one_input(chunk, fault):
    assert_costs_one_input(chunk, fault, "too_much_memory", "needs more than 400 MB of memory")


def test_the_threads_that_read_a_bucket_take_nothing_from_the_memory_of_an_input(synthetic_replays, tmp_path):
    with s3_server() as server:
        for path in sorted(synthetic_replays.glob("*.slp"))[:6]:
            server.write(f"dump/{path.name}", path.read_bytes())
        chunk = first_chunk(server.uri("dump"), 6, tmp_path)
        with ParserProcess(60 * 10**6) as parser:
            isolated = encode_isolated(parser, chunk)
    assert (len(isolated.games), isolated.rejects, isolated.unread) == (6, [], ())


def test_several_bad_inputs_in_a_chunk_are_all_rejected(chunk):
    chunk = with_fault(chunk, (0, "abort"), (1, "allocate_at_once"), (4, "segfault"), (5, "abort"))
    with ParserProcess(SPARE_BYTES, TIMEOUT_S, FAULTY) as parser:
        isolated = encode_isolated(parser, chunk)
        codes = ["parser_crashed", "too_much_memory", "parser_crashed", "parser_crashed"]
        assert [reject["code"] for reject in isolated.rejects] == codes
        after = encode_isolated(parser, replace(chunk, inputs=chunk.inputs[2:4]))
    assert len(isolated.games) + len(isolated.rejects) == len(chunk.inputs)
    assert [game["game_id"] for game in after.games] == [game["game_id"] for game in isolated.games]


def test_a_child_that_is_killed_once_loses_no_game(chunk):
    with ParserProcess(SPARE_BYTES, TIMEOUT_S, "faulty_encoding:killed_once") as parser:
        isolated = encode_isolated(parser, chunk)
    marker = Path(chunk.staging) / "killed"
    assert marker.exists()
    marker.unlink()
    assert_same(isolated, encode_chunk(chunk), chunk.staging)


def test_a_child_killed_at_any_moment_loses_no_game(have_real_replays, request, tmp_path):
    source = request.getfixturevalue("real_replays") / "dev.zip" if have_real_replays else None
    chunk = first_chunk(source or request.getfixturevalue("synthetic_replays"), 16, tmp_path)
    plain = encode_chunk(chunk)
    with ParserProcess(SPARE_BYTES) as parser:
        remove_staged(encode_isolated(parser, chunk), chunk.staging)
        started = time.monotonic()
        undisturbed = encode_isolated(parser, chunk)
        seconds = time.monotonic() - started
        assert_same(undisturbed, plain, chunk.staging)
        for moment in np.linspace(0.0, 0.95 * seconds, 8):
            killer = threading.Timer(moment, kill_if_there, (parser.pid,))
            killer.start()
            disturbed = encode_isolated(parser, chunk)
            killer.join()
            remove_staged(undisturbed, chunk.staging)
            assert_same(disturbed, plain, chunk.staging)
            undisturbed = disturbed


def test_a_child_that_dies_outside_of_any_input_is_an_error_and_leaves_no_files(chunk):
    with (
        ParserProcess(SPARE_BYTES, TIMEOUT_S, "faulty_encoding:aborts_before_any_input") as parser,
        pytest.raises(ParserError, match=f"killed by SIGABRT, {MAX_OTHER_FAILURES} times, outside of any input"),
    ):
        encode_isolated(parser, chunk)
    assert os.listdir(chunk.staging) == []


def test_a_child_that_dies_after_its_inputs_is_not_retried_forever(chunk):
    with (
        ParserProcess(SPARE_BYTES, TIMEOUT_S, "faulty_encoding:aborts_after_the_last_input") as parser,
        pytest.raises(ParserError, match="killed by SIGABRT"),
    ):
        encode_isolated(parser, chunk)
    assert os.listdir(chunk.staging) == []


def test_a_full_disk_is_raised_in_the_parent_with_the_childs_traceback(chunk):
    with ParserProcess(SPARE_BYTES, TIMEOUT_S, FAULTY) as parser:
        with pytest.raises(OSError, match="No space left") as raised:
            encode_isolated(parser, with_fault(chunk, (3, "disk_full")))
        assert raised.value.errno == errno.ENOSPC
        assert "in _disk_full" in str(raised.value.__cause__)
        assert os.listdir(chunk.staging) == []
        assert_same(encode_isolated(parser, chunk), encode_chunk(chunk), chunk.staging)


def test_a_connection_error_of_an_input_is_not_mistaken_for_a_dead_child(chunk):
    with (
        ParserProcess(SPARE_BYTES, TIMEOUT_S, FAULTY) as parser,
        pytest.raises(ConnectionResetError, match="by an object store"),
    ):
        encode_isolated(parser, with_fault(chunk, (3, "connection_lost")))


def test_an_exception_that_cannot_be_pickled_is_reported_by_its_traceback(chunk):
    with (
        ParserProcess(SPARE_BYTES, TIMEOUT_S, FAULTY) as parser,
        pytest.raises(ParserError, match="LocalError: cannot be pickled"),
    ):
        encode_isolated(parser, with_fault(chunk, (0, "unpicklable")))


def test_a_missing_function_is_named(chunk):
    with (
        ParserProcess(SPARE_BYTES, TIMEOUT_S, "datasets.pipeline.encode_chunk:no_such_function") as parser,
        pytest.raises(AttributeError, match="no_such_function"),
    ):
        encode_isolated(parser, chunk)


@pytest.mark.parametrize(("memory_bytes", "timeout_s"), [(0, 60.0), (10**8, 0.0)])
def test_impossible_limits_are_refused(memory_bytes, timeout_s):
    with pytest.raises(ValueError, match="both must be above 0"):
        ParserProcess(memory_bytes, timeout_s)


def test_output_of_a_library_is_discarded(chunk, capfd):
    chunk = with_fault(chunk, (1, "print"))
    with ParserProcess(SPARE_BYTES, TIMEOUT_S, FAULTY) as parser:
        isolated = encode_isolated(parser, chunk)
    assert_same(isolated, encode_chunk(chunk), chunk.staging)
    assert capfd.readouterr() == ("", "")


def test_the_child_imports_neither_ray_nor_torch_nor_pandas_and_dumps_no_core(chunk):
    with ParserProcess(SPARE_BYTES, TIMEOUT_S, "faulty_encoding:reports_limits_and_imports") as parser:
        isolated = encode_isolated(parser, chunk)
    assert isolated.rejects == [{"message": "core (0, 0), imports []"}]


def test_the_child_inherits_no_open_file(tmp_path, chunk):
    with (tmp_path / "private").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        with ParserProcess(SPARE_BYTES) as parser:
            encode_isolated(parser, chunk)
            folder = Path(f"/proc/{parser.pid}/fd")
            opened = [os.readlink(folder / number) for number in os.listdir(folder)]
    assert len(opened) >= 5
    assert not [name for name in opened if "private" in name]


PARENT = """
import pickle, sys, threading
from pathlib import Path
sys.path[:] = {paths}
from datasets.pipeline.parser_process import ParserProcess
from waiting import wait_until
parser = ParserProcess({spare}, {timeout}, "faulty_encoding:encode_with_told_faults")
chunk = open(sys.argv[1], "rb").read()
threading.Thread(target=parser.encode, args=(chunk,), daemon=True).start()
wait_until(Path(sys.argv[2], "begun").exists, "the fault")
print(parser.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["sleep", "spin"])
def parent(request, chunk, tmp_path) -> Iterator[tuple[subprocess.Popen, int]]:
    """A process whose child is busy, and the child's pid."""
    file = tmp_path / "chunk.pickle"
    file.write_bytes(pickle.dumps(with_fault(chunk, (2, request.param))))
    script = PARENT.format(paths=sys.path, spare=SPARE_BYTES, timeout=600.0)
    command = [sys.executable, "-c", script, str(file), chunk.staging]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def test_a_busy_child_dies_with_a_parent_that_is_killed(parent):
    process, pid = parent
    assert not is_gone(pid)
    process.kill()
    process.wait()
    wait_until(lambda: is_gone(pid), "the end of the child")


def test_a_busy_child_dies_with_a_parent_that_ends(parent):
    process, pid = parent
    process.stdin.close()
    process.wait()
    wait_until(lambda: is_gone(pid), "the end of the child")


def test_the_child_outlives_the_thread_that_started_it(chunk):
    started: list[ParserProcess] = []
    thread = threading.Thread(target=lambda: started.append(ParserProcess(SPARE_BYTES)))
    thread.start()
    thread.join()
    with started[0] as parser:
        pid = parser.pid
        encode_isolated(parser, chunk)
        assert parser.pid == pid


def test_closing_ends_the_child_and_a_later_chunk_starts_another(chunk):
    parser = ParserProcess(SPARE_BYTES)
    first = parser.pid
    parser.close()
    assert is_gone(first)
    assert (parser.pid, parser.memory_bytes_used()) == (None, 0)
    with parser:
        assert encode_isolated(parser, chunk).games
        assert parser.pid != first


def test_memory_is_measured_and_that_of_one_large_input_is_freed(chunk):
    with ParserProcess(10**9, TIMEOUT_S, FAULTY) as parser:
        encode_isolated(parser, chunk)
        before = parser.memory_bytes_used()
        peak = 0
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.01):
                peak = max(peak, parser.memory_bytes_used())

        watcher = threading.Thread(target=watch)
        watcher.start()
        encode_isolated(parser, with_fault(chunk, (2, "fragment_heap")))
        done.set()
        watcher.join()
        encode_isolated(parser, replace(chunk, inputs=()))
        after = parser.memory_bytes_used()
    assert peak > before + 500 * 10**6
    assert after < before + 50 * 10**6
