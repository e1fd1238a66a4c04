"""Training and evaluation need few packages: a GPU machine without a network has torch and the common ones."""

from __future__ import annotations

import json
import subprocess
import sys

from tiny_runs import tiny_run, with_targets

from wm.config.typed_yaml import to_plain

UNNEEDED = ("ray", "peppi_py", "psutil", "tyro", "rich", "plotly", "jinja2", "py7zr", "tensorboardX")
SCRIPT = """
import json, sys

UNNEEDED = sys.argv[2].split(",")


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in UNNEEDED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())
import torch
torch.set_num_threads(1)
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain
from wm.data.training_data import open_data
from wm.launch.evaluate_checkpoint import evaluate_checkpoint
from wm.runs.run import Run
from wm.training.trainer import train

config = from_plain(json.loads(sys.argv[1]), RunConfig, "test")
run = Run(config)
run.claim()
train(run, open_data(config), lambda rows: None, None)
evaluate_checkpoint(config.out, config.train_corpus, num_targets=20, num_dreams=8)
"""


def test_training_and_evaluation_run_without_ray_the_parser_and_other_packages(tiny_corpus, tmp_path):
    config = with_targets(tiny_run(tiny_corpus, tmp_path / "run"), 2)
    script = [sys.executable, "-c", SCRIPT, json.dumps(to_plain(config)), ",".join(UNNEEDED)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    assert "change_acc" in done.stdout
    assert "no curves for TensorBoard (No module named 'tensorboardX')" in done.stderr
