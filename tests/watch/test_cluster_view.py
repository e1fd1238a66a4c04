"""What the watch sees and does through Ray."""

from __future__ import annotations

import os
import subprocess
import sys

from test_parts import WORKING

from cluster.card.job_folder import JobFolder
from cluster.watch.cluster_view import RayView
from cluster.watch.observer import Observer
from cluster.watch.subject import Need, Progress, Subject


class NeedsGpus(Subject):
    """A command that waits for GPUs."""

    need = Need(kind="GPU", amount=8)

    def progress(self) -> Progress:
        return Progress(targets=5)


def test_ray_tells_nodes_prices_and_what_is_missing_and_reaches_the_workers_on_its_nodes(ray_session, tmp_path):
    view = RayView({"CPU": 0.5})
    machines = view.machines()
    assert machines is not None and len(machines.nodes) == 1 and machines.draining == frozenset()
    assert machines.nodes[0].usd_per_hour == 0.5 * machines.resources["CPU"] > 0
    observer = Observer(NeedsGpus(), view, JobFolder(str(tmp_path)), 0.05)
    try:
        observer.refresh()
        seen = observer.observe(None, is_stopped=False)
        while seen.nodes is None:
            seen = observer.observe(None, is_stopped=False)
        assert (seen.missing, seen.targets, seen.stop) == ("0 of 8 GPUs", 5, None)
    finally:
        observer.close()

    place = str(tmp_path / "run")
    process = subprocess.Popen([sys.executable, "-c", WORKING, place], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        (answers,) = view._on_each_node(os.path.basename, place)
        assert answers == "run"
        (found,) = view.stacks(place)
        assert found.pid == process.pid and "wait_for_another_rank" in found.text
        assert view.kill_workers(place) == 1 and process.wait() == -9
    finally:
        process.kill()
        process.wait()
    view.release()
