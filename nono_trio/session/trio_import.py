"""The first import of trio, without the process that it would start.

trio names its threads, and asks `ctypes.util.find_library` once for the library that has
`pthread_setname_np`. On Linux that function runs `ldconfig`. Each start of a command paid for it.
"""

from __future__ import annotations

import importlib
import sys

# glibc's name for it. Another C library has no such file: trio then leaves its threads unnamed.
THREAD_LIBRARY = "libpthread.so.0"


def import_trio() -> None:
    """Import trio, if it is not imported yet; call it before the modules that import trio."""
    if sys.platform == "linux" and "trio" not in sys.modules:
        _import_without_process()


def _import_without_process() -> None:
    import ctypes.util  # late: trio is the first to need it

    find_library = ctypes.util.find_library
    ctypes.util.find_library = lambda name: THREAD_LIBRARY if name == "pthread" else None
    try:
        importlib.import_module("trio")
    finally:
        ctypes.util.find_library = find_library
