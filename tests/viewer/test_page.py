"""The page as text: self-contained, one module of many, nothing runs that a name holds."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from viewed import viewed

from wm.viewer.page import joined_modules, render_viewer

STATIC = Path(__file__).resolve().parents[2] / "wm" / "viewer" / "static"
NODE, TSC = shutil.which("node"), shutil.which("tsc")
MAX_LINES = 320


def test_the_page_fetches_nothing(index):
    page = render_viewer([viewed(index)], title="t", subtitle="s", about="a")
    code = re.sub(r"/\*\*.*?\*/", "", page, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)=|https?://|url\(|@import|import\(|fetch\(|XMLHttpRequest", code)
    policy = re.search(r"Content-Security-Policy\" content=\"([^\"]+)\"", page)
    assert policy is not None and policy[1].startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha")


def test_all_modules_are_part_of_the_page_and_no_name_is_there_twice():
    script = joined_modules()
    assert not re.findall(r"^(?:import|export)\b", script, re.MULTILINE)
    names = Counter(re.findall(r"^(?:async )?(?:const|let|class|function) (\w+)", script, re.MULTILINE))
    assert not [name for name, number in names.items() if number > 1]
    for path in STATIC.rglob("*.js"):
        defined = re.findall(r"^export (?:const|class|function) (\w+)", path.read_text(), re.MULTILINE)
        assert all(names[name] == 1 for name in defined), path


@pytest.mark.skipif(NODE is None, reason="needs Node.js")
def test_the_joined_module_is_valid_javascript(tmp_path):
    module = tmp_path / "page.mjs"
    module.write_text(joined_modules())
    done = subprocess.run([str(NODE), "--check", str(module)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(TSC is None, reason="needs TypeScript: make viewer-types")
def test_the_modules_are_well_typed():
    done = subprocess.run([str(TSC), "--project", str(STATIC)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_module_is_long():
    assert not [path for path in STATIC.rglob("*.js") if len(path.read_text().splitlines()) > MAX_LINES]


def test_a_hostile_name_stays_text(index):
    hostile = "</script><script>alert(1)</script>"
    dream = replace(viewed(index), label=hostile)
    page = render_viewer([dream], title=hostile, subtitle=hostile, about=hostile)
    assert "<script>alert" not in page
    assert page.count("</script>") == 2
