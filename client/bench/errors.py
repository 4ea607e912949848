"""What ends a benchmark, and what ends one of its requests.

BenchError             ends the command with one line and exit code 1
├── BadTrace           a trace file cannot be read: names the file and the line
├── BadFile            a result file or a recorded trace cannot be read: names the file and what is wrong in it
├── TargetFailed       the server cannot be measured: not there, no model, or it refuses the simplest request
├── ServiceFailed      a service that the command started did not come up, ended, or failed as a target does
└── MissingExtra       a library of the extra `bench` is not installed

RequestFailed          ends one request; it is counted under `kind`, and the load goes on
"""


class BenchError(Exception):
    """Base of what ends a benchmark."""


class BadTrace(BenchError):
    """A trace file cannot be read."""


class BadFile(BenchError):
    """A result file or a recorded trace cannot be read."""


class TargetFailed(BenchError):
    """The server cannot be measured.

    Attributes:
        kind: What the request that it failed would be counted under, such as "UNAVAILABLE"; None if it failed none.
    """

    def __init__(self, message: str, kind: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind


class ServiceFailed(BenchError):
    """A service that was started here did not come up, ended or failed; the message holds the end of its log."""


class MissingExtra(BenchError):
    """A library that only the benchmark needs is not installed."""

    def __init__(self, library: str) -> None:
        super().__init__(f"{library} is not installed; it comes with: pip install 'qllm[bench]'")


class RequestFailed(Exception):
    """One request got no complete answer.

    Attributes:
        kind: What it is counted under, such as "HTTP 429" or "UNAVAILABLE".
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
