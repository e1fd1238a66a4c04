"""One cluster on machines made of namespaces, for all tests here: two worker nodes, a bucket, and a corpus in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import reason_for_no_machines
from ray_machines import RayCluster, ray_cluster

WORKERS = ("one", "two")


@pytest.fixture(scope="session")
def machines() -> None:
    """Skips where there can be no machines."""
    if reason := reason_for_no_machines():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def started_cluster(machines: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """The cluster, as the tests before left it."""
    with ray_cluster(tmp_path_factory.mktemp("cluster"), WORKERS) as cluster:
        yield cluster


@pytest.fixture
def cluster(started_cluster: RayCluster) -> RayCluster:
    """The cluster with all of its nodes, and no job."""
    started_cluster.heal(WORKERS)
    return started_cluster


@pytest.fixture(scope="session")
def corpus(started_cluster: RayCluster, synthetic_replays: Path) -> str:
    """URI of a corpus that a job has encoded from replays in the bucket."""
    started_cluster.heal(WORKERS)
    started_cluster.bucket.upload(synthetic_replays, "replays")
    printed = started_cluster.submit_and_wait("encode", "s3://bucket/replays", "--", "--out", "s3://bucket/corpus")
    assert f"encoding on {len(WORKERS)} nodes" in printed
    return "s3://bucket/corpus"
