"""The verbs of the `wm` command line that read and write corpora.

Each verb imports what it needs when it runs, so that `wm --help` is fast.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from datasets.runtime.errors import UserError
from datasets.runtime.process.command import parse_and_run

PROGRESS_SECONDS = 10.0
DAMAGED_CORPUS = 1
"""Exit code of `wm corpus verify`."""
INCOMPLETE = 1
"""Exit code of `wm encode` if inputs could not be read for now."""


def synth(args: Sequence[str]) -> int:
    """write synthetic replays: .slp files of a small platform fighter, for trying things out"""
    from tyro.conf import OmitArgPrefixes

    from datasets.synth import SynthOptions, synthesize

    def command(out: Path, options: OmitArgPrefixes[SynthOptions]) -> None:
        """Write synthetic replays.

        Args:
            out: new folder for them.
        """
        summary = synthesize(out, options)
        print(
            f"{summary.games:,} games, {summary.frames:,} frames and {summary.broken:,} broken files written to {out}: "
            f"{summary.num_bytes / 1e6:,.1f} MB in {summary.seconds:.0f} s"
        )

    return parse_and_run(command, "synth", args)


def encode(args: Sequence[str]) -> int:
    """replays (folders, .slp, zip, 7z, tar, local or s3://) into a corpus; run again to resume or to add"""
    from datasets.pipeline.encode import encode as run
    from datasets.pipeline.memory_budget import plan_memory
    from datasets.pipeline.progress import EncodeProgress, summary_text
    from datasets.pipeline.ray_encode import encode_on_ray
    from datasets.runtime.hardware import num_cores
    from datasets.runtime.process.native_stderr import filter_native_stderr
    from datasets.runtime.ray_cluster import uses_cluster

    def encode_now(
        sources: list[str], out: str, limit: int | None, num_workers: int | None, retry: tuple[str, ...], options: Any
    ) -> int:
        if limit is not None or not uses_cluster():
            plan_memory(limit, num_workers or num_cores())  # refuses an impossible limit before anything is read
        filter_native_stderr()
        workers = partial(encode_on_ray, limit_bytes=limit, num_workers=num_workers)
        with EncodeProgress(out) as progress:
            summary = run(sources, out, options, workers, on_commit=progress.update, retry=retry)
        print(summary_text(summary, out))
        return INCOMPLETE if summary.num_unread else 0

    return parse_encode(args, encode_now)


def check_submitted_encode(args: Sequence[str]) -> str:
    """Report a mistake in the arguments of an encode here, and not on the cluster.

    Returns:
        The `--out` in them.
    Raises:
        UserError: `wm encode` would refuse them, or a path means something else on the cluster.
    """

    def check(sources: list[str], out: str, *_: Any) -> int:
        for name, place in [*(("source", source) for source in sources), ("--out", out)]:
            if not is_remote(local_path(place)) and not Path(local_path(place)).is_absolute():
                raise UserError(
                    f"{name} {place} is a path on this machine; expected an absolute path that every node of the "
                    "cluster sees, or an s3:// or gs:// URI"
                )
        outs.append(out)
        return 0

    from datasets.sources.storage import is_remote, local_path

    outs: list[str] = []
    parse_encode(args, check)
    return outs[0]


def parse_encode(args: Sequence[str], call: Callable[..., int]) -> int:
    """Call a function with what the arguments of `wm encode` say: sources, out, memory, workers, retry, options."""
    from tyro.conf import OmitArgPrefixes, Positional

    from datasets.corpus.chunk import EncodeOptions
    from datasets.pipeline.memory_budget import parse_bytes
    from datasets.sources.source_lists import resolve

    def command(
        places: Positional[tuple[str, ...]],
        out: str,
        sources: tuple[str, ...] = (),
        memory: str | None = None,
        num_workers: int | None = None,
        retry: tuple[str, ...] = (),
        options: OmitArgPrefixes[EncodeOptions] = EncodeOptions(),  # noqa: B008
    ) -> int:
        """Encode replays into a corpus.

        Exits with code 1 if inputs could not be read for now; the same command then reads what is missing.

        Args:
            places: folders, .slp, .slp.gz, .zip, .7z, .tar(.gz, .zst) and parsed sets, as paths or s3://, gs:// URIs.
            out: folder or s3://, gs:// URI of the corpus: new, or an existing corpus to resume or extend.
            sources: the same, or names of files in datasets/sources/, such as `slippi`.
            memory: limit for all processes on this machine, such as 6GB (default: a quarter of its memory).
            num_workers: parser processes (default: one for each CPU, on a cluster of all its nodes).
            retry: reason codes; inputs that were rejected for them are read again, such as after a bug fix, with more
                memory, or with --repair-old (parser_failed). `wm corpus info` counts the codes.
        """
        if not (named := resolve((*places, *sources))):
            raise UserError("no source given; name folders, replays, archives, URIs, or a source file with --sources")
        if num_workers is not None and num_workers < 1:
            raise UserError(f"--num-workers is {num_workers}; expected 1 or more")
        return call(named, out, parse_bytes(memory, "--memory"), num_workers, retry, options)

    return parse_and_run(command, "encode", args)


def corpus(args: Sequence[str]) -> int:
    """`wm corpus info|verify|repair|compact CORPUS`: contents, damage, small files; `wm corpus copy A B`"""
    from tyro.conf import Positional

    from datasets.corpus.info import corpus_info, describe
    from datasets.corpus.maintenance.compact import compact
    from datasets.corpus.maintenance.repair import repair
    from datasets.corpus.maintenance.verify import verify
    from datasets.corpus.reader import open_corpus
    from datasets.corpus.transfer.copy import copy_corpus

    def command(
        action: Positional[Literal["info", "verify", "repair", "compact", "copy"]],
        path: Positional[str],
        target: Positional[str | None] = None,
        rejects: bool = False,
    ) -> int:
        """Describe a corpus, verify its files, remove the damaged ones, merge small ones, or copy it.

        Args:
            action: info, verify, repair, compact or copy.
            path: the corpus: its folder, or its s3:// or gs:// URI.
            target: with copy, the folder or URI of the copy. Run the command again to go on after an interruption, or
                to copy what was added since.
            rejects: with info, also list every rejected input.
        """
        if (action == "copy") != (target is not None):
            raise UserError("expected wm corpus copy CORPUS TARGET, or wm corpus info|verify|repair|compact CORPUS")
        if target is not None:
            print(copy_corpus(path, target, _progress_printer()).text)
            return 0
        if action == "verify":
            report = verify(path)
            print(report.text)
            return 0 if report.is_sound else DAMAGED_CORPUS
        if action == "info":
            print(describe(corpus_info(open_corpus(path)), show_rejects=rejects))
        else:
            print({"repair": repair, "compact": compact}[action](path).text)
        return 0

    return parse_and_run(command, "corpus", args)


def _progress_printer() -> Callable[[int, int], None]:
    """Prints bytes done and of all, at most every PROGRESS_SECONDS."""
    printed_at = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal printed_at
        if time.monotonic() - printed_at >= PROGRESS_SECONDS:
            printed_at = time.monotonic()
            print(f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB", flush=True)

    return report
