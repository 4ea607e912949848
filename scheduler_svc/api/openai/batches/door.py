"""Where jobs and files are, for paths that exist whether there are any or not."""

from scheduler_svc.api.jobs.errors import JobsNotKept
from scheduler_svc.jobs.interface import JobFrontDoor


def require_door(given: JobFrontDoor | None) -> JobFrontDoor:
    """Returns the door; raises JobsNotKept if there is none."""
    if given is None:
        raise JobsNotKept
    return given
