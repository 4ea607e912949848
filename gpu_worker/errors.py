"""The errors of the model side of the worker.

    Exception
    └── WorkerError
        ├── WorkerRefused    the scheduler will never take this worker, with the reason
        ├── ModelRefused     a model that can't be served, with the reason
        ├── DeviceLost       a device that this process can use no more, whatever it does; the next process may
        ├── CommandRefused   a command that names something unknown or contradicts what the worker holds; no effect
        │   └── SequenceRefused   it is one sequence that makes it so, and the command would do without
        ├── CacheLost        a sequence's cache that could not be moved; the worker has forgotten the sequence
        └── PassFailed       one batch's forward pass can't go on, for example because its logits are not numbers

They carry no wire format: the process side turns a CommandRefused into a CommandError and a
failed pass into a BatchError.
"""

_LONGEST_LINE = 300


class WorkerError(Exception):
    """Root of everything that this package raises on purpose."""


class WorkerRefused(WorkerError):
    """The scheduler will never take this worker; the message gives its reason."""


class ModelRefused(WorkerError):
    """A model that can't be served; the message gives the reason."""


class DeviceLost(WorkerError):
    """A device answers this process no more; the message gives the error after which that was found out."""


class CommandRefused(WorkerError):
    """A command that can't be carried out; the worker is as it was before it."""


class SequenceRefused(CommandRefused):
    """One sequence of a command is in the way; without it the command may be given again."""

    def __init__(self, seq_id: int, message: str) -> None:
        super().__init__(message)
        self.seq_id = seq_id


class CacheLost(WorkerError):
    """A sequence's cache could not be moved, and is forgotten with the sequence; it can be computed again."""

    def __init__(self, seq_id: int, message: str) -> None:
        super().__init__(message)
        self.seq_id = seq_id


class PassFailed(WorkerError):
    """A forward pass that can't go on; its batch is forgotten and the others go on."""


def one_line(error: BaseException) -> str:
    """What an error of a library says, in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_LINE else text[:_LONGEST_LINE] + " ..."
