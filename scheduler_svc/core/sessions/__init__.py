"""Programs that come again after a tool has run, and how long what is cached of them is kept (arXiv 2511.02230)."""

from scheduler_svc.core.sessions.limits import SessionLimits
from scheduler_svc.core.sessions.program import Kept
from scheduler_svc.core.sessions.programs import Programs
from scheduler_svc.core.sessions.tool_times import ToolTimes

__all__ = ["Kept", "Programs", "SessionLimits", "ToolTimes"]
