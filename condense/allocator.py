"""The C library's memory allocator, told to keep what it has."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 2**31 - 1


def tune_allocator() -> None:
    """Make glibc reuse large blocks rather than return them to the system after each tensor.

    By default every tensor above 32 MiB is mapped afresh and its pages are zeroed on first touch, which costs
    convolution nets on the CPU about half their speed. The process then keeps its peak memory until it ends, so this is
    for programs, at their start, and never happens on import. Does nothing where there is no glibc.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST)
    mallopt(M_TRIM_THRESHOLD, LARGEST)
