"""Client library of QLLM: an async client, a synchronous face on it, and the `qllm-client` command.

Speaks `qllm.v1` over gRPC and knows nothing of how the service works.
"""

from client.async_client import DEFAULT_ADDRESS, AsyncClient, Draining, Loads, ServerInfo
from client.errors import (
    Cancelled,
    DeadlineExceeded,
    DuplicateRequest,
    InvalidRequest,
    Overloaded,
    QllmError,
    ServerError,
    Unavailable,
    Unreachable,
)
from client.messages import (
    ChatMessage,
    Delta,
    FinishReason,
    GenerateOptions,
    GenerationResult,
    Prompt,
    RequestClass,
    Usage,
)
from client.stream import GenerationStream
from client.sync_client import Client, SyncGenerationStream

__all__ = [
    "DEFAULT_ADDRESS",
    "AsyncClient",
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
    "InvalidRequest",
    "Loads",
    "Overloaded",
    "Prompt",
    "QllmError",
    "RequestClass",
    "ServerError",
    "ServerInfo",
    "SyncGenerationStream",
    "Unavailable",
    "Unreachable",
    "Usage",
]
