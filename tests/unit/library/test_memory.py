"""What is free for the next model, from a /proc of our own and what systemd says."""

from __future__ import annotations

import dataclasses
import os

import pytest

from llmsvc.errors import UnavailableError
from llmsvc.library import memory
from llmsvc.systemd import manager
from tests.unit.cli.states import state

MEGA = 1_000_000


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """add(PID, NAME, KILOBYTES...): a process."""
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    (tmp_path / "meminfo").write_text(
        "MemTotal:  16000000 kB\nMemAvailable:  1000000 kB\nHugePages_Total:  0\n"
    )

    def add(pid: int, name: str, **kilobytes: int) -> None:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
        lines = [f"Name:\t{name}\n", *(f"{key}:\t{value} kB\n" for key, value in kilobytes.items())]
        (tmp_path / str(pid) / "status").write_text("".join(lines))

    return add


@pytest.fixture
def systemd(monkeypatch):
    """smollm2 runs as process 50, and units have the limits in this dict."""
    limits: dict[str, int] = {}
    monkeypatch.setattr(manager, "instances", lambda: [state("smollm2", pid=50)])
    monkeypatch.setattr(manager, "memory_limits", lambda units: {u: limits[u] for u in units if u in limits})
    return limits


def test_the_running_model_gives_back_what_is_its_own_but_not_mapped_files(proc, systemd):
    proc(50, "llmsvc", RssAnon=300_000, RssFile=90_000, RssShmem=0, VmLck=0, VmRSS=390_000)
    room = memory.room("gemma3")
    assert (room.free, room.running, room.limit) == (1_300_000 * 1024, "smollm2", None)
    assert memory.resident(50) == 390_000 * 1024


def test_an_engine_that_is_a_child_of_the_backend_counts_as_its_own(proc, systemd, tmp_path):
    proc(50, "llmsvc", RssAnon=50_000, VmRSS=60_000)
    proc(51, "engine", RssAnon=300_000, VmRSS=400_000)
    before = memory.room("smollm2")
    (tmp_path / "50" / "task" / "55").mkdir(parents=True)
    (tmp_path / "50" / "task" / "55" / "children").write_text("51 \n")
    assert memory.resident(50) == 460_000 * 1024
    assert memory.room("smollm2").free - before.free == 300_000 * 1024
    assert memory.resident(52) is None


def test_locked_files_are_given_back_too(proc, systemd):
    proc(50, "llmsvc", RssAnon=300_000, RssFile=90_000, VmLck=90_000)
    assert memory.room("gemma3").free == 1_390_000 * 1024


@pytest.mark.parametrize("unit", ["llmsvc-backend.slice", "llama-server@gemma3.service"])
def test_a_lower_limit_of_slice_or_unit_counts(proc, systemd, unit):
    systemd[unit] = 500 * MEGA
    room = memory.room("gemma3")
    assert room.free == 500 * MEGA
    assert room.limit == f"is allowed by MemoryMax= of {unit}"


def test_a_higher_limit_changes_nothing(proc, systemd):
    systemd["llmsvc-backend.slice"] = 500_000 * MEGA
    assert memory.room("gemma3").limit is None


def test_the_largest_processes_are_named_but_not_the_model_that_stops(proc, systemd):
    proc(50, "llmsvc", RssAnon=9_000_000)
    proc(60, "small", RssAnon=1000)
    for pid in (61, 62, 63, 64):
        proc(pid, f"p{pid}\x1b[2J", RssAnon=pid * 10_000)
    holders = memory.room("gemma3").holders
    assert [holder.pid for holder in holders] == [64, 63, 62]
    assert holders[0] == dataclasses.replace(holders[0], name="p64?[2J", user=memory._user(os.getuid()))


def test_without_systemd_only_the_machine_counts(proc, monkeypatch):
    def absent() -> None:
        raise UnavailableError("systemd does not run here")

    monkeypatch.setattr(manager, "instances", absent)
    assert memory.room("gemma3").free == 1_000_000 * 1024


@pytest.mark.parametrize(("swap", "free"), [(0, 1_000_000), (500_000, 1_500_000), (90_000_000, 16_000_000)])
def test_swap_makes_room_up_to_what_the_machine_has(proc, systemd, tmp_path, swap, free):
    with (tmp_path / "meminfo").open("a") as meminfo:
        meminfo.write(f"SwapFree:  {swap} kB\n")
    assert memory.room("gemma3").free == free * 1024


def test_zfs_gives_its_cache_back(proc, systemd, tmp_path):
    (tmp_path / "spl/kstat/zfs").mkdir(parents=True)
    (tmp_path / "spl/kstat/zfs/arcstats").write_text(
        "13 1 0x01 123 33456 9 9\nname  type data\nc_min  4  100000\nsize  4  700000\n"
    )
    assert memory.room("gemma3").free == 1_000_000 * 1024 + 600_000
