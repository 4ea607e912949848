"""Client library of QLLM: an async client, a synchronous face on it, and the `qllm-client` command.

Speaks `qllm.v1` over gRPC and knows nothing of how the service works.
"""

from client.access import AccessOptions, AccessRefused
from client.async_client import DEFAULT_ADDRESS, AsyncClient, Draining, Loads, ServerInfo
from client.batches import (
    Batch,
    BatchAnswer,
    BatchInputError,
    BatchItem,
    BatchPage,
    BatchResult,
    BatchStatus,
    ItemError,
)
from client.errors import (
    Cancelled,
    DeadlineExceeded,
    DuplicateRequest,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    QllmError,
    ServerError,
    Unauthenticated,
    Unavailable,
    Unreachable,
)
from client.messages import (
    ChatMessage,
    Delta,
    FinishReason,
    GenerateOptions,
    GenerationResult,
    Hypothesis,
    Prompt,
    PromptToken,
    RequestClass,
    TokenLogprob,
    Usage,
)
from client.stream import GenerationStream
from client.sync_client import Client, SyncGenerationStream
from client.tools import Tool, ToolCall, ToolChoice

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
