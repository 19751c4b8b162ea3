"""How much memory a model may take on this machine now: what is free, what the running model gives back,
what the unit's slice allows, and who holds the rest."""

from __future__ import annotations

import contextlib
import dataclasses
import pwd
from pathlib import Path

from llmsvc import process
from llmsvc.errors import Error, UnavailableError
from llmsvc.library import accelerators
from llmsvc.library.gguf import Header, printable
from llmsvc.library.progress import size
from llmsvc.library.settings import ModelSettings
from llmsvc.systemd import manager

_PROC = Path("/proc")
_DEV = Path("/dev")
_GPUS = {"cuda": ("nvidiactl", "dxg"), "hip": ("kfd",), "vulkan": ("dri", "nvidiactl", "dxg")}
"""What llama.cpp may be built for, and the device nodes of which it then needs one."""
_NVIDIA_SMI_SECONDS = 10.0
"""It hangs where a GPU is lost."""
_NAMED = 3
_WORTH_NAMING = 100_000_000
"""Bytes; processes that hold less are not named."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """A process that holds memory; bytes that cannot be taken from it."""

    name: str
    pid: int
    user: str
    bytes: int

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}, {self.user}) {size(self.bytes)}"


@dataclasses.dataclass(frozen=True)
class Room:
    """Memory for the next model, in bytes, once the running one has stopped.

    :ivar total: what there is with nothing else running; 0 where that is not known
    :ivar gpu: free memory of all GPUs; None where it cannot be asked
    :ivar gpu_total: all memory of all GPUs
    :ivar running: the model that has to stop for it; None if none runs
    :ivar limit: what bounds `free` if it is not the machine's memory, as `is allowed by ...`
    """

    free: int
    gpu: int | None = None
    total: int = 0
    gpu_total: int | None = None
    running: str | None = None
    limit: str | None = None
    holders: tuple[Holder, ...] = ()


def room(name: str | None = None) -> Room:
    """The room for model `name`, or for one whose unit has no limit of its own."""
    meminfo = _kilobytes(_PROC / "meminfo")
    free = meminfo.get("MemAvailable", 0) + _zfs_cache()
    running, pid, limits = None, 0, {}
    with contextlib.suppress(UnavailableError):
        for instance in manager.instances():
            if instance.pid:
                running, pid = manager.instance_name(instance.unit), instance.pid
        limits = manager.memory_limits([manager.SLICE, *([manager.unit(name)] if name else [])])
    if pid:
        free += sum(map(_held, _family(pid)))
    # what others hold and do not use goes to swap, but no model runs from there
    free = max(free, min(free + meminfo.get("SwapFree", 0), meminfo.get("MemTotal", 0)))
    limit, total = None, meminfo.get("MemTotal", 0)
    for unit, allowed in limits.items():
        total = min(total, allowed)
        if allowed < free:
            free, limit = allowed, f"is allowed by MemoryMax= of {unit}"
    gpu = _gpu_free(pid)
    return Room(
        free=free,
        gpu=gpu,
        total=total,
        gpu_total=None if gpu is None else _gpu_total(),
        running=running if running != name else None,
        limit=limit,
        holders=_holders(pid),
    )


def gpu_share(settings: ModelSettings, header: Header) -> float:
    """The part of the model that goes to GPUs, 0.0 to 1.0."""
    wanted: int | None = settings["N_GPU_LAYERS"]
    if settings["GPU"] == "none" or wanted == 0 or not has_gpu(settings["ENGINE"]):
        return 0.0
    # the output counts as one more layer
    layers = (header.block_count or 1) + 1
    return 1.0 if wanted is None or wanted < 0 else min(wanted / layers, 1.0)


def has_gpu(engine: str) -> bool:
    """Whether that engine here was built for a kind of GPU, and there is one."""
    return any(any((_DEV / node).exists() for node in _GPUS[kind]) for kind in accelerators.installed(engine))


def gpu_nodes() -> bool:
    """Whether there is the device of any GPU, whatever llama.cpp was built for."""
    return any((_DEV / node).exists() for nodes in _GPUS.values() for node in nodes)


def _gpu_free(pid: int) -> int | None:
    """Free memory of all GPUs together, with what process `pid` will give back; None where nobody tells."""
    if "cuda" not in accelerators.installed():
        return None
    mebibytes = 0
    try:
        for row in _nvidia_smi("--query-gpu=memory.free"):
            mebibytes += int(row)
        for row in _nvidia_smi("--query-compute-apps=pid,used_memory"):
            owner, _, used = row.partition(",")
            mebibytes += int(used) if int(owner) == pid else 0
    except (Error, ValueError):
        return None
    return mebibytes << 20


def _gpu_total() -> int | None:
    """Memory of all GPUs together; None where nobody tells."""
    try:
        return sum(int(row) for row in _nvidia_smi("--query-gpu=memory.total")) << 20
    except (Error, ValueError):
        return None


def _nvidia_smi(query: str) -> list[str]:
    asked = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    return process.run(asked, seconds=_NVIDIA_SMI_SECONDS).stdout.split("\n")[:-1]


def resident(pid: int) -> int | None:
    """Bytes that a process and its children have in memory, with mapped files; None where there is none."""
    found = [_kilobytes(_PROC / str(one) / "status").get("VmRSS") for one in _family(pid)]
    return None if found[0] is None else sum(size or 0 for size in found)


def _family(pid: int) -> list[int]:
    """A process and all below it: an engine may be a child of the backend."""
    family = [pid]
    for one in family:
        for children in (_PROC / str(one) / "task").glob("*/children"):
            with contextlib.suppress(OSError, ValueError):
                family += map(int, children.read_text().split())
    return family


def _held(pid: int) -> int:
    """Bytes that come free when the process ends and are not available already, as mapped files are."""
    status = _kilobytes(_PROC / str(pid) / "status")
    held = status.get("RssAnon", 0) + status.get("RssShmem", 0)
    return held + (status.get("RssFile", 0) if status.get("VmLck") else 0)


def _zfs_cache() -> int:
    """Bytes of ZFS's cache that it gives back under pressure; MemAvailable leaves them out."""
    found = {}
    with contextlib.suppress(OSError):
        for line in (_PROC / "spl/kstat/zfs/arcstats").read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) == 3 and words[2].isdigit():
                found[words[0]] = int(words[2])
    return max(found.get("size", 0) - found.get("c_min", 0), 0)


def _holders(except_pid: int) -> tuple[Holder, ...]:
    """The processes that hold most, largest first."""
    found = []
    model = _family(except_pid)
    for directory in _PROC.glob("[0-9]*"):
        pid = int(directory.name)
        held = _held(pid)
        if held >= _WORTH_NAMING and pid not in model:
            found.append((held, pid))
    holders = []
    for held, pid in sorted(found, reverse=True)[:_NAMED]:
        with contextlib.suppress(OSError):
            name = printable((_PROC / str(pid) / "comm").read_text(errors="replace").strip()) or "?"
            holders.append(Holder(name, pid, _user((_PROC / str(pid)).stat().st_uid), held))
    return tuple(holders)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _kilobytes(file: Path) -> dict[str, int]:
    """The lines `Name: 12 kB` of a file in /proc, in bytes; none where it is gone or may not be read."""
    found = {}
    with contextlib.suppress(OSError):
        for line in file.read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) == 3 and words[2] == "kB":
                found[words[0][:-1]] = int(words[1]) * 1024
    return found
