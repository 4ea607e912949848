"""Why no fault here is a jump of the clock: of what the service or the worker decides only leases read the time of day.

Else that time is read to be shown: in answers, logs, chat templates and files' headers, each named here. Leases and
windows of durable jobs are compared by schedulers on several machines, which have no other clock in common; a wrong one
costs work done twice, never a second outcome, as the histories of the store show.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("scheduler_svc", "gpu_worker", "protos/qllm")
READS_THE_TIME_OF_DAY = {
    ("time", "time"), ("time", "time_ns"), ("time", "localtime"), ("time", "gmtime"), ("time", "ctime"),
    ("time", "strftime"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"),
}  # fmt: skip
ONLY_SHOWN = {
    "scheduler_svc/api/openai/answer.py",  # "created" of an answer
    "scheduler_svc/api/openai/app.py",  # "created" of a model
    "scheduler_svc/api/openai/responses/response.py",  # "created_at" and "completed_at" of a response
    "scheduler_svc/text/chat_template.py",  # strftime_now, which templates may call
    "scheduler_svc/timeline/timeline.py",  # when a recording began
    "gpu_worker/execution/cost_recorder.py",  # the date in a cost table's source
}


DECIDES_BY_IT = {"scheduler_svc/jobs/store/store.py"}


def reads_the_time_of_day(source: str) -> bool:
    """Whether a module calls or hands on one of these functions, or imports one by its name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if (name, node.attr) in READS_THE_TIME_OF_DAY:
                return True
        imported = node.names if isinstance(node, ast.ImportFrom) and node.module == "time" else ()
        if any(("time", alias.name) in READS_THE_TIME_OF_DAY for alias in imported):
            return True
    return False


def test_the_time_of_day_decides_of_leases_and_is_else_read_only_to_be_shown() -> None:
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(modules) > 200
    readers = {str(path.relative_to(ROOT)) for path in modules if reads_the_time_of_day(path.read_text())}
    assert readers <= ONLY_SHOWN | DECIDES_BY_IT, (
        "what decides counts seconds of a monotonic clock: the loop's, or time.monotonic()"
    )


def test_every_way_to_read_it_is_seen() -> None:
    for source in (
        "time.time()",
        "loop = time.time",
        "datetime.now(UTC)",
        "datetime.datetime.now()",
        "from time import time",
    ):
        assert reads_the_time_of_day(source)
    for source in ("time.monotonic()", "loop.time()", "self._loop.time()", "from time import monotonic"):
        assert not reads_the_time_of_day(source)
