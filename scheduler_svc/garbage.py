"""Keeps Python's garbage collector from stopping the event loop for long: a full round over everything takes 40 ms and more.

Almost all that a request leaves behind is freed by reference counts; the collector is there for the few cycles.
"""

import gc

# Objects made before a round over the young ones: Python's default of 700 means a hundred rounds a second here.
_YOUNG_OBJECTS = 20_000


def spare_the_loop() -> None:
    """Takes all that exists now, modules and classes mostly, out of the collector's rounds, and makes these rarer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 10, 10)
