"""What nodes and workers said -> checks, each green, amber or red with what to do. Plain functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from cluster.card.run_card import RunCard
from cluster.files.checks import Check
from cluster.preflight.node_facts import NodeFacts
from cluster.preflight.quotas import Quota
from cluster.preflight.storage_probe import StorageFacts
from datasets.runtime.ray_cluster import uses_cluster
from wm.config.run_config import RunConfig

CLOCK_AMBER_S, CLOCK_RED_S = 1.0, 60.0
"""Beyond the first, times in logs and deadlines mislead; beyond the second, tokens and signed requests may fail."""
MIN_FILES = 8_192
"""Files and connections that a raylet and its workers open on a large node; the usual default is 1,024."""
TEMP_AMBER_BYTES, TEMP_RED_BYTES = 10e9, 1e9
SLOW_MB_PER_S = 5.0
USED_GPU_SHARE = 0.05
GB = 1e9
SLOWING = {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
MIN_START_TIMEOUT_S = 20.0
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


def check_versions(here: NodeFacts, by_node: Mapping[str, NodeFacts]) -> Iterator[Check]:
    """Versions and code of each node against those of the node of the command."""
    for node, facts in by_node.items():
        different = {name: value for name, value in facts.versions.items() if value != here.versions.get(name)}
        yield Check(
            name="versions",
            node=node,
            state="red" if different else "green",
            found=_listed(different or facts.versions),
            expected=_listed({name: here.versions.get(name, "") for name in different}),
            advice="install the same versions on every node, and submit the job so that it brings its code",
        )


def check_settings(here: NodeFacts, by_node: Mapping[str, NodeFacts], config: RunConfig | None) -> Iterator[Check]:
    """Limits and time-outs that would end a night or slow it down."""
    for node, facts in by_node.items():
        problems, advice = [], []
        if facts.max_files < MIN_FILES:
            problems.append(f"{facts.max_files} open files")
            advice.append("`ulimit -n 65536` before `ray start`")
        for name, value in SLOWING.items():
            if facts.settings.get(name) == value:
                problems.append(f"{name}={value}")
                advice.append(f"unset {name} unless this machine needs it")
        yield _setting(node, problems, advice)
    problems, advice = [], []
    start = here.settings.get(START_TIMEOUT)
    if start is not None and float(start) < MIN_START_TIMEOUT_S:
        problems.append(f"{START_TIMEOUT}={start}")
        advice.append("workers on busy machines take longer to start; unset it")
    if here.settings.get(PREEMPTION_WATCHER) == "0" and uses_cluster():  # nobody drains a Ray of our own
        problems.append(f"{PREEMPTION_WATCHER}=0")
        advice.append("runs do not save when a node is drained; unset it")
    if config is not None and config.max_failures == 0:
        problems.append("max_failures: 0")
        advice.append("one lost worker ends the run; allow some restarts")
    if config is not None and config.max_seconds is not None:
        problems.append(f"max_seconds: {config.max_seconds:g}")
        advice.append("the run stops by itself then; leave it out for a night")
    yield _setting("job", problems, advice)


def check_clock(node: str, offset_s: float, error_s: float) -> Check:
    """A node's clock against that of the command, as far as the answer's way allows to say."""
    certain = max(0.0, abs(offset_s) - error_s)
    state = "red" if certain > CLOCK_RED_S else "amber" if certain > CLOCK_AMBER_S else "green"
    return Check(
        name="clock",
        node=node,
        state=state,
        found=f"{offset_s:+.2f} s (known to {error_s:.2f} s)",
        expected=f"within {CLOCK_AMBER_S:g} s",
        advice="synchronise the clock (chrony, systemd-timesyncd)",
    )


def check_temp_disk(node: str, facts: NodeFacts, folder: str) -> Check:
    """Room for Ray's session: logs, spilled objects, uploaded code."""
    free = facts.disks[folder].free_bytes
    state = "red" if free < TEMP_RED_BYTES else "amber" if free < TEMP_AMBER_BYTES else "green"
    return Check(
        name="disk of Ray's session",
        node=node,
        state=state,
        found=f"{free / GB:.1f} GB free ({folder})",
        expected=f"{TEMP_AMBER_BYTES / GB:g} GB",
        advice="make room, or give `ray start --temp-dir` a larger disk",
    )


def check_output_disk(node: str, facts: NodeFacts, folder: str, needed_bytes: int) -> Check:
    """Room for the checkpoints that a run keeps."""
    disk = facts.disks[folder]
    state = "red" if disk.free_bytes < needed_bytes else "green"
    return Check(
        name="disk for checkpoints",
        node=node,
        state=state,
        found=f"{disk.free_bytes / GB:.3g} GB free ({folder})",
        expected=f"{needed_bytes / GB:.3g} GB for the checkpoints that are kept at once",
        advice="make room, use another --out, or keep fewer (checkpoint.keep_last)",
    )


def check_cache_disk(
    node: str, facts: NodeFacts, folder: str, corpus_bytes: int, largest_file: int, limit: int | None
) -> Check:
    """Room for copies of a remote corpus.

    Args:
        limit: data.disk_cache_size; None: half of what is free.
    """
    free = facts.disks[folder].free_bytes
    room = free // 2 if limit is None else min(limit, free)
    state = "red" if room < 2 * largest_file else "amber" if room < corpus_bytes else "green"
    return Check(
        name="disk for the cache",
        node=node,
        state=state,
        found=f"room for {room / GB:.3g} GB ({folder}, {free / GB:.3g} GB free)",
        expected=f"{corpus_bytes / GB:.3g} GB for the whole corpus",
        advice="not even two shards fit; put data.disk_cache on a larger disk"
        if state == "red"
        else "shards are downloaded again in each epoch; put data.disk_cache on a larger disk",
    )


def check_gpus(by_node: Mapping[str, NodeFacts], expected: Mapping[str, float], kind: str | None) -> Iterator[Check]:
    """GPUs as the driver shows them.

    Args:
        expected: node -> GPUs that Ray counts there.
        kind: a part of the name that is demanded, such as A100.
    """
    kinds = {gpu.name for facts in by_node.values() for gpu in facts.gpus}
    for node, number in expected.items():
        if not number or node not in by_node:
            continue
        facts = by_node[node]
        names = ", ".join(sorted({gpu.name for gpu in facts.gpus}))
        found = f"{len(facts.gpus)} x {names}" if facts.gpus else facts.gpu_problem or "none"
        errors = [gpu.num_ecc_errors for gpu in facts.gpus if gpu.num_ecc_errors]
        used = [gpu for gpu in facts.gpus if gpu.used_bytes > USED_GPU_SHARE * gpu.total_bytes]
        state, advice = "green", ""
        if len(facts.gpus) < number:
            state, advice = "red", "the driver shows fewer GPUs than Ray; replace the machine"
        elif kind is not None and any(kind.lower() not in gpu.name.lower() for gpu in facts.gpus):
            state, advice = "red", f"expected {kind}; choose another instance type"
        elif errors:
            state, found = "red", f"{found}, {max(errors)} uncorrected memory errors"
            advice = "replace the machine: results may be wrong"
        elif used:
            state, found = "amber", f"{found}, {max(gpu.used_bytes for gpu in used) / GB:.1f} GB in use"
            advice = "another process uses a GPU; end it (`nvidia-smi`)"
        elif len(kinds) > 1:
            state, advice = "amber", "GPUs differ between nodes: the slowest sets the pace"
        yield Check(
            name="GPUs", node=node, state=state, found=found, expected=f"{number:g} {kind or 'of one kind'}",
            advice=advice,
        )  # fmt: skip


def check_storage(name: str, node: str, facts: StorageFacts) -> Check:
    """A place that a node used."""
    rates = {"writes": facts.write_mb_per_s, "reads": facts.read_mb_per_s}
    found = ", ".join(f"{verb} {rate:,.0f} MB/s" for verb, rate in rates.items() if rate is not None) or "reachable"
    is_slow = facts.num_bytes > 1e6 and any(rate is not None and rate < SLOW_MB_PER_S for rate in rates.values())
    state = "red" if facts.problem else "amber" if is_slow else "green"
    return Check(
        name=name,
        node=node,
        state=state,
        found=facts.problem or f"{found} ({facts.location})",
        expected="usable from every node",
        advice="correct the path, the permissions or the node's role"
        if facts.problem
        else "a slow way to the storage: use a bucket in the region of the machines",
    )


def check_quota(quota: Quota) -> Check:
    """A quota of AWS against one machine and all machines of a type."""
    state = "red" if quota.limit < quota.of_one else "amber" if quota.limit < quota.of_all else "green"
    return Check(
        name="quota",
        node=quota.node_type,
        state=state,
        found=f"{quota.limit:g} vCPUs {quota.market}",
        expected=f"{quota.of_one} for one machine, {quota.of_all} for max_workers",
        advice="ask for more in the Service Quotas console; it may take days",
    )


def check_limits(card: RunCard, now: datetime) -> Iterator[Check]:
    """The plan's hours and dollars against the limits of a run card."""
    estimate, limits = card.estimate, card.limits
    if limits.deadline is None and limits.budget_usd is None:
        return
    if estimate is None:
        reason = card.no_estimate or "no estimate"
        yield Check(
            name="plan", node="job", state="amber", found=reason, expected="an estimate to compare with the limits",
            advice="`wm profile` on the target machine, then `wm plan`",
        )  # fmt: skip
        return
    if limits.deadline is not None:
        end = now + timedelta(hours=float(estimate["hours"]))
        is_late = end > limits.deadline
        yield Check(
            name="plan: deadline", node="job", state="red" if is_late else "green",
            found=f"{float(estimate['hours']):.1f} hours, until {end.isoformat(timespec='minutes')}",
            expected=f"before {limits.deadline.isoformat(timespec='minutes')}",
            advice="fewer targets, or more workers (`wm plan`)",
        )  # fmt: skip
    if limits.budget_usd is not None:
        usd = float(estimate["usd"])
        is_dear = usd > limits.budget_usd
        yield Check(
            name="plan: budget", node="job", state="red" if is_dear else "green", found=f"{usd:,.2f} usd",
            expected=f"at most {limits.budget_usd:,.2f} usd",
            advice="fewer targets, or cheaper machines (`wm plan`)",
        )  # fmt: skip


def _setting(node: str, problems: Sequence[str], advice: Sequence[str]) -> Check:
    return Check(
        name="time-outs and limits",
        node=node,
        state="amber" if problems else "green",
        found=", ".join(problems) or "nothing unusual",
        expected="" if not problems else "nothing that ends or slows a night",
        advice="; ".join(advice),
    )


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
