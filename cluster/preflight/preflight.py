"""`wm preflight`: all checks of a job on the cluster that this process is connected to, in order."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

from cluster.card.run_card import RunCard
from cluster.files.checks import Check
from cluster.preflight import judge, machines
from cluster.preflight.corpus_check import CorpusFacts, check_corpus, check_games
from cluster.preflight.machines import RayNode, WorkerFacts
from cluster.preflight.needs import Needs, cache_folder, checkpoint_bytes, checkpoint_location
from cluster.preflight.node_facts import NodeFacts, node_facts
from cluster.preflight.quotas import aws_quotas
from cluster.preflight.storage_probe import PROBE_PREFIX, marked, probe_corpus, probe_output, probe_source
from datasets.runtime.errors import UserError
from datasets.runtime.ray_cluster import start_ray, uses_cluster
from datasets.runtime.uris import is_remote
from wm.config.run_config import RunConfig
from wm.launch.shared_storage import refuse_relative_paths

DEFAULT_MINUTES = 15.0
TEMP_FOLDER = "/tmp"
GB = 1e9
OnCheck = Callable[[Check], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the user says beside the job."""

    machines_minutes: float = DEFAULT_MINUTES
    """How long machines are waited for."""
    gpu: str | None = None
    """Kind of GPU that is demanded, a part of its name."""
    card: RunCard | None = None
    """Estimate and limits of the job."""


class Preflight:
    """The checks of one job; each is reported as soon as it is known."""

    def __init__(self, needs: Needs, options: Options, on_check: OnCheck) -> None:
        self.checks: list[Check] = []
        self._needs, self._options, self._on_check = needs, options, on_check
        self._name = uuid.uuid4().hex[:8]
        self._temp = os.environ.get("RAY_TMPDIR", TEMP_FOLDER)

    def run(self) -> list[Check]:
        """All checks, those of a missing thing only once."""
        needs = self._needs
        if self._options.card is not None:
            self._add(*judge.check_limits(self._options.card, datetime.now().astimezone()))
        if not self._start():
            return self.checks
        with machines.reserved(needs.bundles, self._options.machines_minutes if uses_cluster() else 1.0) as group:
            self._add(self._machines_check(group is not None))
            nodes = machines.nodes()
            with ExitStack() as closing:
                try:
                    closing.enter_context(marked(needs.outputs, self._name))
                    outputs: tuple[str, ...] = needs.outputs
                except OSError as error:
                    outputs = ()
                    self._add(_unwritable(error))
                corpora = self._corpora()
                self._nodes(nodes, corpora)
                self._storage(nodes, outputs, corpora)
                self._rehearse(group)
        self._quotas()
        return self.checks

    def _start(self) -> bool:
        """Connect to Ray, or start one here; whether the job can begin at all."""
        needs = self._needs
        try:
            if uses_cluster() and needs.run is not None:
                refuse_relative_paths(needs.run)
            start_ray(min_cpus=max(1, len(needs.bundles)), min_gpus=needs.num_gpus)
        except UserError as error:
            advice = "correct the config" if uses_cluster() else "use a cluster, or a config for this machine"
            self._add(
                Check(name="machines", node="job", state="red", found=str(error), expected=_shown(needs), advice=advice)
            )
            return False
        return True

    def _machines_check(self, has_come: bool) -> Check:
        expected = _shown(self._needs)
        if has_come:
            return Check(name="machines", node="job", state="green", found="reserved", expected=expected)
        return Check(
            name="machines",
            node="job",
            state="red",
            found=f"machines did not come within {self._options.machines_minutes:g} minutes",
            expected=expected,
            advice="`ray status` shows what is missing, `ray monitor cluster.yaml` why: quota, capacity in the zone, "
            "max_workers; or ask for less (num_workers, use_gpu)",
        )

    def _corpora(self) -> dict[str, CorpusFacts]:
        """Check the corpora from here; sizes of those that can be opened."""
        found = {}
        for location in self._needs.corpora:
            check, facts = check_corpus(location)
            self._add(check)
            if facts is not None:
                found[location] = facts
        if self._needs.run is not None and len(found) == len(self._needs.corpora):
            self._add(check_games(self._needs.run))
        return found

    def _nodes(self, nodes: Sequence[RayNode], corpora: dict[str, CorpusFacts]) -> None:
        config = self._needs.run
        cache = None if config is None else cache_folder(config)
        outputs = [place for place in self._needs.outputs if not is_remote(place)]
        folders = [self._temp, *outputs, *([] if cache is None else [str(cache)])]
        by_node: dict[str, NodeFacts] = {}
        for node, facts in zip(nodes, machines.ask(nodes, node_facts, folders, with_gpus=True), strict=True):
            if isinstance(facts, str):
                self._add(_no_answer(node, facts))
            else:
                by_node[node.address] = facts
        here = node_facts(folders, with_gpus=False)
        self._add(*judge.check_versions(here, by_node))
        self._add(*judge.check_gpus(by_node, {node.address: node.num_gpus for node in nodes}, self._options.gpu))
        for node, clock in zip(nodes, machines.clocks(nodes), strict=True):
            if not isinstance(clock, str):
                self._add(judge.check_clock(node.address, clock.offset_s, clock.error_s))
        for address, facts in by_node.items():
            self._add(judge.check_temp_disk(address, facts, self._temp))
            if cache is not None and config is not None and corpora:
                size = config.data.disk_cache_size
                self._add(
                    judge.check_cache_disk(
                        address, facts, str(cache), sum(one.frames_bytes for one in corpora.values()),
                        max(one.largest_file for one in corpora.values()), None if size == "auto" else int(size),
                    )
                )  # fmt: skip
        if config is not None and not is_remote(place := checkpoint_location(config)):
            self._add(judge.check_output_disk("job", here, place, checkpoint_bytes(config, _num_parameters(config))))
        self._add(*judge.check_settings(here, by_node, config))

    def _storage(self, nodes: Sequence[RayNode], outputs: Sequence[str], corpora: dict[str, CorpusFacts]) -> None:
        for location in outputs:
            for node in nodes:  # one after another: the throughput is that of one node
                (facts,) = machines.ask([node], probe_output, location, self._name, f"{self._name}-{node.node_id[:8]}")
                self._add(
                    _no_answer(node, facts) if isinstance(facts, str)
                    else judge.check_storage("storage, written", node.address, facts)
                )  # fmt: skip
        readings = [("corpus, read", probe_corpus, (place, facts.a_file)) for place, facts in corpora.items()]
        readings += [("source", probe_source, (source,)) for source in self._needs.sources]
        for name, question, args in readings:
            for node, facts in zip(nodes, machines.ask(nodes, question, *args), strict=True):
                self._add(
                    _no_answer(node, facts) if isinstance(facts, str)
                    else judge.check_storage(name, node.address, facts)
                )  # fmt: skip

    def _rehearse(self, group: machines.PlacementGroup | None) -> None:
        """Make an update and a checkpoint on the workers, if there is no reason why they must fail."""
        needs = self._needs
        if needs.run is None:
            return
        reds = [check.name for check in self.checks if check.state == "red"]
        if group is None or reds:
            self._add(
                Check(
                    name="rehearsal", node="job", state="amber", found=f"not tried, because of: {', '.join(reds)}",
                    expected="an update and a checkpoint", advice="mend these first, then run the preflight again",
                )
            )  # fmt: skip
            return
        place = checkpoint_location(needs.run), f"{PROBE_PREFIX}{self._name}-checkpoint"
        found = machines.rehearse(group, needs.bundles, needs.run, place)
        self._add(*rehearsal_checks(found))

    def _quotas(self) -> None:
        quotas = aws_quotas()
        if isinstance(quotas, str):
            self._add(
                Check(
                    name="quota", node="AWS", state="amber", found=f"cannot be asked: {quotas}",
                    expected="an answer of Service Quotas", advice="look in the Service Quotas console",
                )
            )  # fmt: skip
        elif quotas is not None:
            self._add(*(judge.check_quota(quota) for quota in quotas))

    def _add(self, *checks: Check) -> None:
        for check in checks:
            self.checks.append(check)
            self._on_check(check)


def rehearsal_checks(workers: Sequence[WorkerFacts]) -> list[Check]:
    """The checks of a rehearsal: its problem or its figures, one row a worker."""
    checks = []
    for worker in workers:
        node = f"{worker.address} worker {worker.rank}"
        if worker.device is not None:
            device = worker.device
            memory = f", {device.free_bytes / GB:.1f} of {device.total_bytes / GB:.1f} GB free"
            checks.append(
                Check(
                    name="device", node=node, state="green" if device.is_right else "red",
                    found=f"{device.name}{memory if device.total_bytes else ''}; matrix product "
                    f"{'right' if device.is_right else 'WRONG'}",
                    expected="a right product", advice="replace the machine",
                )
            )  # fmt: skip
        if worker.all_reduce_gb_per_s is not None and worker.rank == 0:
            checks.append(
                Check(
                    name="all-reduce", node=f"{len(workers)} workers", state="green",
                    found=f"right, {worker.all_reduce_gb_per_s:.2f} GB/s bus bandwidth", expected="the right sum",
                )
            )  # fmt: skip
        if (update := worker.update) is not None:
            memory_gb = ", ".join(f"{name} {value:.2f}" for name, value in update.memory_gb.items())
            checks.append(
                Check(
                    name="update", node=node, state="green", expected="an update at full size",
                    found=f"{update.batch_size:,} examples over all workers, {update.num_parameters / 1e6:.2f} M "
                    f"parameters: {update.update_s:.2f} s, the first {update.first_s:.1f} s; {memory_gb}",
                )
            )  # fmt: skip
        if (saved := worker.checkpoint) is not None:
            checks.append(
                Check(
                    name="checkpoint", node=node, state="green", expected="written and read back",
                    found=f"{saved.num_bytes / 1e6:.1f} MB, written in {saved.write_s:.1f} s, read in "
                    f"{saved.read_s:.1f} s ({saved.location.rpartition('/')[0]})",
                )
            )  # fmt: skip
        if worker.problem is not None:
            checks.append(
                Check(
                    name="rehearsal", node=node, state="red", found=worker.problem,
                    expected="an update and a checkpoint", advice=f"the job would fail after {_reached(worker)}",
                )
            )  # fmt: skip
    return checks


def _reached(worker: WorkerFacts) -> str:
    if worker.device is None:
        return "its start: the workers cannot join each other, or have no device"
    return "its first update" if worker.update is not None else "its memory check or its all-reduce"


def _no_answer(node: RayNode, reason: str) -> Check:
    return Check(
        name="node", node=node.address, state="red", found=f"no answer: {reason}", expected="a node that can run tasks",
        advice="install this project there, or replace the machine; its logs are below Ray's session folder",
    )  # fmt: skip


def _unwritable(error: OSError) -> Check:
    return Check(
        name="storage, written", node="job", state="red", found=f"{error.filename}: {error.strerror}",
        expected="a folder that can be written", advice="correct --out, its permissions, or make room on its disk",
    )  # fmt: skip


def _shown(needs: Needs) -> str:
    first = ", ".join(f"{number:g} {name}" for name, number in needs.bundles[0].items())
    return f"{len(needs.bundles)} x {first}"


def _num_parameters(config: RunConfig) -> int:
    from wm.model.world_model import build_model, num_parameters

    return num_parameters(build_model(config.model, config.objective.context_frames))
