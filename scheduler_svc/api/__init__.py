"""The public gRPC API: turns wire messages into validated requests, and token events into wire messages."""

from scheduler_svc.api.admin import ServiceSettings
from scheduler_svc.api.server import ApiServer

__all__ = ["ApiServer", "ServiceSettings"]
