"""Encoding on a cluster: a node that dies, and a node that cannot see the sources.

The nodes are raylets on this machine; each test starts its own cluster in a subprocess.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from archive_making import write_archive
from chunks import same_rows

pytestmark = pytest.mark.slow

NODE_DIES = """
import json, os, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster

source, out = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
cluster.wait_for_nodes()
os.environ["RAY_ADDRESS"] = cluster.address

from datasets.pipeline.ray_encode import encode_on_ray
import datasets.pipeline.feed
from datasets.corpus.chunk import EncodeOptions
from datasets.pipeline.encode import encode

killed = []

def after_commit(summary, bytes_left):
    if len(killed) == 0 and summary.num_games >= 8:
        killed.append(summary.num_games)
        cluster.remove_node(nodes[0], allow_graceful=False)

datasets.pipeline.feed.MIN_CHUNK_INPUTS = 4
summary = encode([source], Path(out), EncodeOptions(), encode_on_ray, after_commit)
import ray
deadline = time.monotonic() + 60  # a dead node is detected by missing heartbeats
while (alive := sum(node["Alive"] for node in ray.nodes())) > 2 and time.monotonic() < deadline:
    time.sleep(0.5)
print(json.dumps({"killed_at": killed, "games": summary.num_games, "alive": alive}))
ray.shutdown()
cluster.shutdown()
"""
NODES_JOIN = """
import json, os, sys
from pathlib import Path
from ray.cluster_utils import Cluster

source, out = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200_000_000})
from datasets.runtime.ray_cluster import _print_running_cluster
_print_running_cluster()
os.environ["RAY_ADDRESS"] = cluster.address

import ray
from ray.data._internal.execution.resource_manager import ResourceManager
import datasets.pipeline.feed
from datasets.corpus.chunk import EncodeOptions
from datasets.pipeline import ray_encode
from datasets.pipeline.encode import encode

limits = []
original_limits, original_start = ResourceManager.get_global_limits, ray_encode._start

def limits_now(self):
    limits.append(original_limits(self))
    return limits[-1]

def start_then_grow(*arguments):
    plan = original_start(*arguments)
    for _ in range(2):
        cluster.add_node(num_cpus=2, object_store_memory=400_000_000)
    cluster.wait_for_nodes()
    return plan

ResourceManager.get_global_limits, ray_encode._start = limits_now, start_then_grow
datasets.pipeline.feed.MIN_CHUNK_INPUTS = 4
summary = encode([source], Path(out), EncodeOptions(), ray_encode.encode_on_ray)
facts = {"cpus": limits[-1].cpu, "object_store": limits[-1].object_store_memory}
print(json.dumps(facts | {"games": summary.num_games}))
ray.shutdown()
cluster.shutdown()
"""
NODE_CANNOT_SEE = """
import os, subprocess, sys
from pathlib import Path
from ray.cluster_utils import Cluster

source, out = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
os.environ["RAY_ADDRESS"] = cluster.address
join = f"mount -t tmpfs tmpfs '{Path(source).parent}' && exec {sys.executable} -m ray.scripts.scripts start"
join += f" --address={cluster.address} --num-cpus=1 --block"
blind = subprocess.Popen(["unshare", "--mount", "sh", "-c", join], stdout=subprocess.DEVNULL)
try:
    import ray, time
    ray.init(address=cluster.address, log_to_driver=False)
    deadline = time.monotonic() + 60
    while len(ray.nodes()) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert len(ray.nodes()) == 2
    from datasets.pipeline.ray_encode import encode_on_ray
    from datasets.corpus.chunk import EncodeOptions
    from datasets.pipeline.encode import encode
    from datasets.runtime.errors import UserError
    try:
        encode([source], Path(out), EncodeOptions(), encode_on_ray)
    except UserError as error:
        print(error)
finally:
    blind.terminate()
    ray.shutdown()
    cluster.shutdown()
"""


def run(script: str, *arguments: str) -> str:
    """The output of a script, which includes Ray's messages. Ray's folder is private and short, for its sockets."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        environment = os.environ | {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled"}
        environment.pop("RAY_ADDRESS", None)
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, env=environment, check=False, timeout=300
        )
    assert done.returncode == 0, done.stderr.decode()[-3_000:]
    return done.stdout.decode()


def test_a_node_that_dies_during_an_encode_does_not_change_the_corpus(synthetic_many, tmp_path):
    from datasets.corpus.chunk import EncodeOptions
    from datasets.pipeline.encode import encode, encode_in_process

    encode([synthetic_many], tmp_path / "alone", EncodeOptions(), encode_in_process)
    printed = run(NODE_DIES, str(synthetic_many), str(tmp_path / "cluster"))
    facts = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    assert facts["killed_at"]
    assert facts["alive"] == 2
    assert same_rows(tmp_path / "alone", tmp_path / "cluster")


def test_archives_are_read_side_by_side_on_nodes_that_join_with_the_same_corpus_as_in_one_process(
    synthetic_many, tmp_path
):
    from datasets.corpus.chunk import EncodeOptions
    from datasets.pipeline.encode import encode, encode_in_process

    dump = tmp_path / "dump"
    dump.mkdir()
    replays = sorted(synthetic_many.glob("*.slp"))
    for name, part in {"a.tar.gz": replays[:16], "c.7z": replays[16:32]}.items():
        write_archive(dump / name, {path.name: path.read_bytes() for path in part})
    for path in replays[32:]:
        shutil.copy2(path, dump / f"b{path.name}")
    encode([dump], tmp_path / "alone", EncodeOptions(), encode_in_process)
    printed = run(NODES_JOIN, str(dump), str(tmp_path / "cluster"))
    facts = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    assert re.search(
        r"a Ray cluster runs at (\S+), but RAY_ADDRESS is not set: .*; RAY_ADDRESS=\1 uses the cluster", printed
    )
    assert "encoding on 0 nodes with 0 CPUs, and on nodes that join" in printed
    assert (facts["games"], facts["cpus"]) == (48, 4)
    assert facts["object_store"] == 0.5 * 800_000_000, "half of the object stores of the nodes that joined"
    assert same_rows(tmp_path / "alone", tmp_path / "cluster")


def test_a_path_that_one_node_cannot_see_is_an_error_before_the_job(synthetic_many, tmp_path):
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("needs the right to give a process its own mounts")
    folder = tmp_path / "visible to one" / "replays"
    shutil.copytree(synthetic_many, folder)
    printed = run(NODE_CANNOT_SEE, str(folder), str(tmp_path / "corpus"))
    assert f"of the cluster cannot see {folder}" in printed


@pytest.fixture(scope="module")
def synthetic_many(tmp_path_factory) -> Path:
    """48 short synthetic replays: a dozen chunks."""
    from datasets.synth import SynthOptions, synthesize

    out = tmp_path_factory.mktemp("many") / "replays"
    synthesize(out, SynthOptions(num_games=48, seed=5, max_frames=2_400))
    return out
