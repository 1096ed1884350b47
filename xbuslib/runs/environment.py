"""Where and with what this process runs: commit, versions, hardware."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from xbuslib.files import REPOSITORY

PACKAGES = ("torch", "torchvision", "timm", "open_clip_torch", "numpy", "scipy", "pandas")


def software() -> dict:
    """Commit of the working copy, whether files under version control are changed, and versions."""
    return {
        "commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def facts() -> dict:
    """Hardware of this process and the time, for run.json; `software` is asked for when the work begins."""
    return {
        "device": device(),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),  # the GPU that --gpus or Slurm gave it
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def stamp() -> str:
    """One line for the top of an executed notebook: date, commit, versions, and the device where torch is in use."""
    now, code = datetime.now(UTC).isoformat(timespec="seconds"), software()
    versions = ", ".join(f"{name} {version}" for name, version in code["versions"].items())
    commit = code["commit"]
    source = f"commit {commit[:8]}{' with local changes' if code['dirty'] else ''}" if commit else "no commit"
    where = f"{device()} · " if "torch" in sys.modules else ""
    return f"{now} · {source} · {where}Python {code['python']}, {versions}"


def device() -> str:
    """The GPU's name, or "CPU, 2 threads (AMD EPYC, family 25, model 17)"."""
    import torch  # here and below, so that what only reads runs does not wait for it

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)} ({processor()})"


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The first processor's name, family and model as Linux lists them: other kinds give other numbers in bfloat16.

    Names alone, such as "Intel Xeon", can be those of several kinds. Where nothing is listed, the architecture.
    """
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    listed = {key.strip(): value.strip() for key, _, value in
              (line.partition(":") for line in text.split("\n\n")[0].splitlines())}
    if "model name" not in listed:  # ARM lists numbers alone
        return platform.machine()
    numbers = [f"{name} {listed[key]}" for name, key in (("family", "cpu family"), ("model", "model")) if key in listed]
    return ", ".join([" ".join(listed["model name"].split()), *numbers])


def peak_memory_gb() -> float:
    """Largest memory this process has held: on the GPU if there is one, else in RAM (10⁹ bytes)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # kilobytes on Linux


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
