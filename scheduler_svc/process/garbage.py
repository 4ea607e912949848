"""Keeps memory that was used from being in the way: of the event loop, and of other processes.

A full round of Python's garbage collector over everything takes 40 ms and more, during which the event loop stands
still. Almost all that a request leaves behind is freed by reference counts; the collector is there for the few cycles.
"""

import ctypes
import gc
from contextlib import suppress

# Objects made before a round over the young ones: Python's default of 700 means a hundred rounds a second here.
_YOUNG_OBJECTS = 20_000


def spare_the_loop() -> None:
    """Takes all that exists now, modules and classes mostly, out of the collector's rounds, and makes these rarer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 10, 10)


def return_memory() -> None:
    """Gives what was freed back to the system, which C's allocator would keep; takes milliseconds on any thread."""
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
