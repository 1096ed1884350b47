"""Memory that a step frees is there for the next one (xbuslib/models/memory.py)."""

import platform
import subprocess
import sys

import pytest

# Two steps of 20 maps of 64 MB, made and dropped one after the other; prints the pages that the second one was handed.
STEPS = """
import resource, torch
from xbuslib.models import memory
{first}
def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
step()
print(step())
"""


def pages(first: str) -> int:
    """Page faults of STEPS in a process of its own, `first` being done first."""
    done = subprocess.run([sys.executable, "-c", STEPS.format(first=first)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_kept_memory_is_not_handed_out_again_page_by_page():
    kept, usual = pages("assert memory.keep_freed()"), pages("")
    assert usual > 20 * 32  # even in huge pages of 2 MB, and 20 · 16 384 in small ones
    assert kept < usual / 20


def test_another_c_library_is_left_alone(monkeypatch):
    from xbuslib.models import memory

    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("asked a library that has no mallopt"))
    assert memory.keep_freed.__wrapped__() is False
