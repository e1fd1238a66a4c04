"""Shipped configs are found by name."""

from wm.config.shipped import shipped_config, shipped_names


def test_every_shipped_config_is_found_by_its_name():
    assert {"demo", "mamba2-medium", "context-length"} <= set(shipped_names())
    for name in shipped_names():
        path = shipped_config(name)
        assert path is not None
        assert path.is_file()


def test_other_names_and_paths_are_no_shipped_config():
    for name in ("none", "demo.yaml", "../configs/demo", ""):
        assert shipped_config(name) is None
