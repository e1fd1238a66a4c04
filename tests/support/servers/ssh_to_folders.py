"""`ssh` and `rsync` for a PATH: machines that are folders. Copies arrive there; commands are recorded, and not run."""

from __future__ import annotations

import os
from pathlib import Path

SSH = """#!/usr/bin/env bash
# ssh OPTIONS USER@ADDRESS COMMAND
for argument; do case $argument in *@*.*.*.*) address=${argument#*@} ;; esac; done
printf '%s\\t%s\\n' "$address" "${*: -1}" | tr '\\n' ' ' >>"$MACHINES/commands"
echo >>"$MACHINES/commands"
[ -e "$MACHINES/fails" ] && case ${*: -1} in *"$(cat "$MACHINES/fails")"*) exit 1 ;; esac
exit 0
"""
RSYNC = """#!/usr/bin/env bash
# rsync OPTIONS SOURCE USER@ADDRESS:TARGET
source=${*: -2:1} target=${*: -1}
address=${target#*@} address=${address%%:*} path=${target#*:}
path=$MACHINES/$address/${path#\\~/}
mkdir -p "$(dirname "$path")"
case $source in */) mkdir -p "$path" && cp -r "$source." "$path" ;; *) cp "$source" "$path" ;; esac
"""


class Machines:
    """Machines that can be reached by `ssh` and `rsync` with the environment `environ`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tools = folder / "bin"
        tools.mkdir(parents=True)
        for name, script in (("ssh", SSH), ("rsync", RSYNC)):
            (tools / name).write_text(script)
            (tools / name).chmod(0o755)
        self.environ = {"MACHINES": str(folder), "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}

    def home(self, address: str) -> Path:
        """Home folder of the machine at `address`."""
        return self.folder / address

    def commands(self, address: str) -> list[str]:
        """What was run there, in order."""
        recorded = self.folder / "commands"
        lines = recorded.read_text().splitlines() if recorded.exists() else []
        return [line.partition("\t")[2] for line in lines if line.startswith(f"{address}\t")]

    def fail(self, part: str | None) -> None:
        """Let commands that contain `part` fail from now on; none if None."""
        if part is None:
            (self.folder / "fails").unlink(missing_ok=True)
        else:
            (self.folder / "fails").write_text(part)
