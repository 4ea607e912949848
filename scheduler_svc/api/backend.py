"""What every front end stands on. Knows no wire format."""

from dataclasses import dataclass

from scheduler_svc.api.text_generation import TextGenerator
from scheduler_svc.generation import Generator
from scheduler_svc.jobs.interface import JobFrontDoor


@dataclass(frozen=True, slots=True)
class Backend:
    """What answers requests.

    Attributes:
        generator: Runs them.
        texts: Its text side.
        jobs: Where durable jobs and files are; None: none are kept, and requests about them say so.
    """

    generator: Generator
    texts: TextGenerator
    jobs: JobFrontDoor | None = None
