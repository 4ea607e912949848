"""Tells failures that Python's `Exception` does not cover from what ends a task or the process on purpose.

A panic of a library written in Rust (tokenizers, pydantic) arrives as a BaseException, so that `except Exception` lets
it pass and whoever waits for an answer waits for ever.
"""

import asyncio
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

# What is no failure: it goes on to whoever asked for it.
ENDINGS = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class LibraryPanic(Exception):
    """A library gave up in the middle of a call; the panic is the cause."""


def panics_as_errors(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Returns a function that raises LibraryPanic where `function` raises neither an Exception nor one of `ENDINGS`."""

    @functools.wraps(function)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except (Exception, *ENDINGS):
            raise
        except BaseException as panic:
            raise LibraryPanic(f"{function.__qualname__}: {type(panic).__name__}") from panic

    return guarded
