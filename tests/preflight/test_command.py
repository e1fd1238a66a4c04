"""What `wm preflight` says where there is no cluster."""

from __future__ import annotations

import pytest

from cluster import cli as cluster_cli
from datasets.runtime.errors import UserError


def test_without_a_cluster_it_says_what_it_needs_and_starts_no_ray(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("cluster.jobs.client.DEFAULT_ADDRESS", "http://127.0.0.1:1")
    with pytest.raises(
        UserError, match=r"nothing answers at http://127\.0\.0\.1:1 .* with --here, .* with --local$"
    ) as no:
        cluster_cli.preflight(["mamba2-large"])
    assert "\n" not in str(no.value)


def test_this_machine_and_a_cluster_exclude_each_other(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match=r"found --here and the address 10\.0\.0\.1:6379; expected one"):
        cluster_cli.preflight(["--here", "mamba2-large"])


def test_options_may_stand_before_the_verb(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="found 2 configs; expected one"):
        cluster_cli.preflight(["--gpu", "A100", "sweep", "context", "size"])
