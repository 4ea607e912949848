"""QLLM from Python: `Client`, `AsyncClient` and what goes with them; and below them what the packages share.

    from qllm import Client

    with Client("127.0.0.1:50051") as client:
        print(client.generate("def main():", max_tokens=32).collect().text)

What is shared is the wire format in `qllm.v1`, addresses, settings, how commands speak, and a log that never fails. The
scheduler and the worker import that too, and neither the client nor gRPC with it: a name of the client's brings them in
when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qllm.version import __version__ as __version__

if TYPE_CHECKING:
    from qllm.client import *

__all__ = [
    "DEFAULT_ADDRESS",
    "AccessOptions",
    "AccessRefused",
    "AsyncClient",
    "Batch",
    "BatchAnswer",
    "BatchInputError",
    "BatchItem",
    "BatchPage",
    "BatchResult",
    "BatchStatus",
    "Cancelled",
    "ChatMessage",
    "Client",
    "DeadlineExceeded",
    "Delta",
    "Draining",
    "DuplicateRequest",
    "FinishReason",
    "GenerateOptions",
    "GenerationResult",
    "GenerationStream",
    "Hypothesis",
    "InvalidRequest",
    "ItemError",
    "Loads",
    "Overloaded",
    "PermissionDenied",
    "Prompt",
    "PromptToken",
    "QllmError",
    "RequestClass",
    "ServerError",
    "ServerInfo",
    "SyncGenerationStream",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "Unauthenticated",
    "Unavailable",
    "Unreachable",
    "Usage",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module("qllm.client"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
