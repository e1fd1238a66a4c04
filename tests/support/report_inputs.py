"""Inputs of a run's report, small, and with hostile names."""

from __future__ import annotations

from dataclasses import replace

from datasets.corpus.info import CorpusInfo

HOSTILE = "<script>alert('x')</script></script><img src=x onerror=\"document.title='injected'\">&{{ title }}"


def estimate(value: float, width: float = 0.01) -> dict[str, float | None]:
    return {"value": value, "low": value - width, "high": value + width}


MISSING = {"value": None, "low": None, "high": None}


def model_result(context: int | str, change_acc: float) -> dict:
    part = {"change_acc": estimate(0.61), "action_acc": estimate(0.95), "pos_mae": estimate(0.15)}
    return {
        "predictor": "model",
        "context": context,
        "metrics": {
            "change_acc": estimate(change_acc), "action_acc": estimate(0.9731), "pos_mae": estimate(0.1234),
            "val_loss": estimate(0.3217), "p0_change_acc": estimate(0.7011), "p0_action_acc": estimate(0.9622),
            "p0_pos_mae": estimate(0.1313),
        },
        "slices": {
            "action": {"hit": {"count": 123, "metrics": part}, "jump": {"count": 3, "metrics": {}}},
            "character": {f"character {i}": {"count": 100 + i, "metrics": part} for i in range(14)},
            "stage": {},
        },
        "confusions": [
            {"truth": "wait", "count": 120, "right": 30, "predicted": [{"action": "dash", "count": 50}]},
            {"truth": "dash", "count": 40, "right": 10, "predicted": []},
        ],
    }  # fmt: skip


def report_inputs() -> dict:
    """Small inputs in the form that training, evaluation and the corpus give them."""
    train = {"kind": "train", "action_acc": 0.9, "change_acc": 0.4, "targets_per_s": 2400.0, "learning_rate": 1e-3}
    validation = {"kind": "eval", "action_acc": 0.95, "change_acc": 0.5, "pos_mae": 0.2, "val_loss": 0.4}
    log = [train | {"targets_seen": i * 1000, "seconds": float(i), "loss": 4 / i} for i in range(1, 41)]
    for seen in (20_000, 40_000):
        log += [validation | {"targets_seen": seen, "seconds": 20.0, "context": k} for k in (10, 60)]
    repeat = {
        "action_acc": estimate(0.914),
        "change_acc": estimate(0.0, 0.0),
        "pos_mae": estimate(0.7),
        "val_loss": None,
    }
    velocities = {"action_acc": MISSING, "pos_mae": estimate(0.239)}
    results = [
        model_result("stream", 0.69),
        model_result(10, 0.7123),
        {"predictor": "repeat last frame", "context": None, "metrics": repeat, "slices": {}, "confusions": []},
        {"predictor": "last velocities", "context": None, "metrics": velocities},
    ]
    return {
        "title": "A run",
        "log_rows": log,
        "evaluation": {
            "checkpoint": "runs/a/step-40", "corpus": "corpora/a", "split": "validation", "num_targets": 20_000,
            "num_games": 184, "results": results,
        },
        "corpus": CorpusInfo(
            num_games=200, num_frames=2_000_000, bytes_per_frame=16.3, optional_bytes_per_frame={},
            games_by_version={}, games_without={},
            games_by_stage={"Battlefield": 120, "Final Destination": 80}, games_by_character={"Fox": 150, "Marth": 90},
            games_by_split={}, num_suspect=0, suspect_by_rule={}, num_unchecked=0,
            rejects_by_reason={"short": 2, "duplicate": 1}, rejects=[],
        ),
        "environment": {
            "commands": [{"command": "wm train a.yaml"}, {"command": "wm train a.yaml"}],
            "code": {"git_revision": "0123456789abcdef", "dirty": True}, "software": {"python": "3.12.1", "ray": None},
            "machine": {"cpu": "EPYC", "cores": 2, "memory_bytes": 25e9, "gpus": [{"name": "H100"}, {"name": "H100"}]},
        },
        "config": "seed: 7\n",
    }  # fmt: skip


def hostile_inputs() -> dict:
    """The same with markup and scripts wherever a name comes from outside."""
    inputs = report_inputs() | {"title": HOSTILE, "config": HOSTILE}
    evaluation = inputs["evaluation"]
    evaluation |= {"checkpoint": HOSTILE, "corpus": HOSTILE, "split": HOSTILE}
    evaluation["results"].append({"predictor": HOSTILE, "context": None, "metrics": {"pos_mae": estimate(0.1)}})
    evaluation["results"][1]["slices"][HOSTILE] = {HOSTILE: {"count": 5, "metrics": {"change_acc": estimate(0.3)}}}
    evaluation["results"][1]["confusions"][0] |= {"truth": HOSTILE, "predicted": [{"action": HOSTILE, "count": 1}]}
    names = {HOSTILE: 3}
    inputs["corpus"] = replace(
        inputs["corpus"], games_by_stage=names, games_by_character=names, rejects_by_reason=names
    )
    inputs["environment"]["commands"].append({"command": HOSTILE})
    inputs["environment"]["machine"]["cpu"] = HOSTILE
    inputs["log_rows"].append({"kind": "eval", "targets_seen": 1, "context": HOSTILE, "pos_mae": 0.3})
    return inputs
