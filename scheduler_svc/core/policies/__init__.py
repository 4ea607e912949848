"""The policies by name. A new one is a file here and a line in the registry."""

from scheduler_svc.core.policies.base import Ahead, BatchPlan, Limits, Pause, Policy, Sequel, View
from scheduler_svc.core.policies.fcfs import Fcfs
from scheduler_svc.core.policies.paper import Paper
from scheduler_svc.core.policies.priority_iteration import PriorityIteration
from scheduler_svc.core.policies.qllm import Qllm

POLICIES: dict[str, type[Policy]] = {policy.name: policy for policy in (Qllm, Paper, PriorityIteration, Fcfs)}

__all__ = ["POLICIES", "Ahead", "BatchPlan", "Limits", "Pause", "Policy", "Sequel", "View"]
