"""Counts the requests that a front end refuses. Knows no wire format."""

from collections.abc import Iterator
from contextlib import contextmanager

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.errors import ServiceError
from scheduler_svc.generation import Generator


@contextmanager
def counting_refusals(generator: Generator, request_class: RequestClass) -> Iterator[None]:
    """Counts a request as refused if the block raises ServiceError; one request should be in one block at a time."""
    try:
        yield
    except ServiceError as error:
        generator.note_refused(request_class, error.refusal)
        raise
