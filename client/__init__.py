"""Client library of QLLM: an async client, a synchronous face on it, and the `qllm-client` command.

Speaks `qllm.v1` over gRPC and knows nothing of how the service works.
"""

from qllm.client.access import AccessOptions, AccessRefused
from qllm.client.async_client import DEFAULT_ADDRESS, AsyncClient, Draining, Loads, ServerInfo
from qllm.client.batches import (
    Batch,
    BatchAnswer,
    BatchInputError,
    BatchItem,
    BatchPage,
    BatchResult,
    BatchStatus,
    ItemError,
)
from qllm.client.errors import (
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
from qllm.client.messages import (
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
from qllm.client.stream import GenerationStream
from qllm.client.sync_client import Client, SyncGenerationStream
from qllm.client.tools import Tool, ToolCall, ToolChoice

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
