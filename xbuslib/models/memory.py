"""The C library's memory on CPUs: a training step's maps are large, and the same sizes are allocated at every step.

glibc gives blocks of 32 MB and more back to the system at once, and the system hands them out again page by page, each
filled with zeros first: 200 000 pages a step of XBusNet at 352 pixels, a third of its time on two cores
(benchmarks/README.md). A process that keeps them holds its peak, a twentieth higher, until it ends.
"""

import ctypes
import platform
from functools import cache

MMAP_MAX, TRIM_THRESHOLD = -4, -1  # mallopt(3): blocks taken from the system one by one; free top that is given back
NEVER = 2**31 - 1  # the largest value that mallopt takes


@cache
def keep_freed() -> bool:
    """Have this process keep memory that it frees, for its next step; True if the C library can. Once is enough."""
    if platform.libc_ver()[0] != "glibc":
        return False  # other libraries, and macOS, keep freed memory anyway or have no such setting
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, NEVER))
