"""Records what the worker did when, as trace events that Perfetto and Chrome open (`qllm-scheduler --trace FILE`).

    engine, core ──▶ Timeline ──▶ TraceSink ──▶ TraceFile's thread ──▶ FILE

Watches and decides nothing. Holds numbers and ids: never a prompt, never a token.
"""

from scheduler_svc.timeline.timeline import Timeline
from scheduler_svc.timeline.trace_file import TraceFile

__all__ = ["Timeline", "TraceFile"]
