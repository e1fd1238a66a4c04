"""Machines that can be rented, their prices, and groups of them as the command line names them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from datasets.runtime.errors import UserError
from wm.config.typed_yaml import from_plain

MACHINES_FILE = Path(__file__).with_name("machines.yaml")
LOCAL = "local"
"""The machine that the profile was measured on; it costs nothing unless `--price local=USD` says so."""
GROUP = re.compile(r"(?:(\d+)x)?([A-Za-z0-9][\w.-]*?)(:spot)?")
Price = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """A kind of GPU."""

    pattern: str
    """Of its name as CUDA reports it."""
    memory_gb: PositiveFloat
    bf16_tflops: PositiveFloat | None = None
    """Dense matrix products; None: not published."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A type of machine."""

    name: str = ""
    gpus: NonNegativeInt
    gpu: str | None = None
    """Kind of its GPUs; None for a machine without, and for the machine of a profile whose GPU is not listed."""
    cores: PositiveInt | None = None
    memory_gb: PositiveFloat | None = None
    disk_gb: PositiveFloat | None = None
    link_gb_per_s: PositiveFloat | None = None
    network_gb_per_s: PositiveFloat | None = None
    usd_per_hour: NonNegativeFloat
    spot_usd_per_hour: Price | None = None
    source: str
    """Of the prices."""
    checked_on: date


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """All machines and kinds of GPUs that are known."""

    machines: dict[str, Machine]
    gpus: dict[str, Gpu] = field(default_factory=dict)

    def kind_of(self, device_name: str | None) -> str | None:
        """The kind of a GPU by the name that CUDA reports; None if it is not listed."""
        name = device_name or ""
        return next((kind for kind, gpu in self.gpus.items() if re.search(gpu.pattern, name)), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineGroup:
    """Machines of one type that work together."""

    machine: Machine
    number: int = 1
    is_spot: bool = False

    @property
    def num_gpus(self) -> int:
        """Of all machines together."""
        return self.number * self.machine.gpus

    @property
    def usd_per_hour(self) -> float:
        """Of all machines together."""
        spot = self.machine.spot_usd_per_hour
        return self.number * (spot if self.is_spot and spot is not None else self.machine.usd_per_hour)

    @property
    def text(self) -> str:
        """As a table shows it: `2 x p4d.24xlarge spot`."""
        return f"{self.number} x {self.machine.name}{' spot' if self.is_spot else ''}"


@cache
def catalogue() -> Catalogue:
    """The machines of `machines.yaml`."""
    content = from_plain(yaml.safe_load(MACHINES_FILE.read_text()), Catalogue, MACHINES_FILE.name)
    return replace(content, machines={name: replace(m, name=name) for name, m in content.machines.items()})


def hourly_prices() -> dict[str, float]:
    """Dollars an hour of the machines of `machines.yaml` by type, and of spot machines by `TYPE:spot`."""
    machines = catalogue().machines
    spot = {f"{name}:spot": machine.spot_usd_per_hour for name, machine in machines.items()}
    return {name: machine.usd_per_hour for name, machine in machines.items()} | {
        name: usd for name, usd in spot.items() if usd is not None
    }


def parse_group(text: str, known: Mapping[str, Machine], prices: Mapping[str, float]) -> MachineGroup:
    """A group such as `p4d.24xlarge`, `2xp4d.24xlarge` or `p4d.24xlarge:spot`.

    Args:
        known: machines by name.
        prices: USD an hour for one machine of a type, on demand or spot, as the group says; instead of the listed one.
    Raises:
        UserError: no such machine, or it has no spot price.
    """
    found = GROUP.fullmatch(text.strip())
    if found is None or (found[1] is not None and int(found[1]) < 1):
        raise UserError(f"--machines {text}: expected [NUMBERx]TYPE[:spot], such as 2xp4d.24xlarge or g6.xlarge:spot")
    number, name, is_spot = int(found[1] or 1), found[2], found[3] is not None
    if name not in known:
        raise UserError(f"--machines {text}: no machine {name}; expected one of {', '.join(known)}")
    machine = known[name]
    if name in prices:
        machine = replace(machine, usd_per_hour=prices[name], spot_usd_per_hour=prices[name], source="the command line")
    if is_spot and machine.spot_usd_per_hour is None:
        raise UserError(f"--machines {text}: no spot price of {name} is known; name it with --price {name}=USD")
    return MachineGroup(machine=machine, number=number, is_spot=is_spot)


def parse_prices(texts: Sequence[str], known: Mapping[str, Machine]) -> dict[str, float]:
    """Prices such as `p4d.24xlarge=12.5`, USD an hour for one machine.

    Raises:
        UserError: not of that form, no such machine, or no positive number.
    """
    prices = {}
    for text in texts:
        name = text.partition("=")[0]
        if name not in known:
            raise UserError(f"--price {text}: expected TYPE=USD with a type of {', '.join(known)}")
        prices[name] = parse_price(text)[1]
        if not prices[name]:
            raise _not_a_price(text)
    return prices


def parse_price(text: str) -> tuple[str, float]:
    """Name and USD an hour of `NAME=USD`, where a name may be free of charge.

    Raises:
        UserError: no name, or no number of at least 0.
    """
    name, _, value = text.partition("=")
    try:
        usd = float(value)
    except ValueError as error:
        raise _not_a_price(text) from error
    if not name.strip() or not 0 <= usd < float("inf"):
        raise _not_a_price(text)
    return name.strip(), usd


def _not_a_price(text: str) -> UserError:
    value = text.partition("=")[2]
    return UserError(f"--price {text}: found {value!r}, expected dollars an hour, a positive number")
