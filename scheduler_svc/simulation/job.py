"""What a simulation is asked to do, read from parsed JSON and checked in full."""

from dataclasses import dataclass, field, fields
from typing import TypeVar

from qllm.cost_table import CostTable, CostTableRefused, parse_cost_table, shipped_tables

from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.starvation import StarvationLimits
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.simulation.errors import JobRefused
from scheduler_svc.simulation.fields import Fields

MAX_REQUESTS = 1_000_000
_MOST = 1e9
_CLASSES = {"ls": RequestClass.LATENCY_SENSITIVE, "be": RequestClass.BEST_EFFORT}
_NAMES = ("cost_table", "policy", "preempt_at", "limits", "starvation", "requests")

Settings = TypeVar("Settings", Limits, StarvationLimits)


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the traffic."""

    arrival_s: float
    request_class: RequestClass
    num_prompt_tokens: int
    num_output_tokens: int


@dataclass(frozen=True, slots=True)
class Job:
    """One simulation.

    Attributes:
        limits: What the policy plans with; a lead is not needed, as commands take no time to arrive.
    """

    cost_table: CostTable
    requests: tuple[Request, ...]
    policy: str = "qllm"
    preempt_at: PreemptAt = PreemptAt.EXPERT
    limits: Limits = field(default_factory=lambda: Limits(control_lead_s=0.0))
    starvation: StarvationLimits = field(default_factory=StarvationLimits)


def parse_job(content: object) -> Job:
    """Returns the job that a parsed JSON object describes; raises JobRefused naming what is wrong with it.

        {"cost_table": {...}, "policy": "qllm", "preempt_at": "expert", "limits": {"max_num_seqs": 32}, "starvation": {},
         "requests": [[arrival_s, "ls" or "be", num_prompt_tokens, num_output_tokens], ...]}

    Everything but cost_table and requests has a default.
    """
    read = Fields(content, "job", _NAMES)
    table = _cost_table(read.get("cost_table"))
    policy = read.choice("policy", tuple(POLICIES)) if "policy" in read else "qllm"
    places = tuple(place.value for place in PreemptAt)
    return Job(
        cost_table=table,
        requests=_requests(read.get("requests"), table),
        policy=policy,
        preempt_at=PreemptAt(read.choice("preempt_at", places)) if "preempt_at" in read else PreemptAt.EXPERT,
        limits=_settings(read, "limits", Limits(control_lead_s=0.0)),
        starvation=_settings(read, "starvation", StarvationLimits()),
    )


def _cost_table(content: object) -> CostTable:
    """Returns the table that an object describes, in the format of `qllm-worker --simulated`, or the shipped one of a name."""
    shipped = shipped_tables()
    if isinstance(content, str) and content not in shipped:
        raise JobRefused(f"cost_table: got {content!r}, allowed is an object, or {', '.join(shipped)}")
    try:
        return parse_cost_table(shipped[content] if isinstance(content, str) else content, "cost_table")
    except CostTableRefused as error:
        raise JobRefused(str(error)) from None


def _settings(read: Fields, name: str, default: Settings) -> Settings:
    """Returns the default with those of its values replaced that the object names."""
    if name not in read:
        return default
    values = {one.name: getattr(default, one.name) for one in fields(default)}
    given = Fields(read.get(name), f"job.{name}", tuple(values))
    for key, value in values.items():
        if key in given:
            is_count = isinstance(value, int)
            values[key] = given.count(key, 0, int(_MOST)) if is_count else given.number(key, 0.0, _MOST)
    return type(default)(**values)


def _requests(content: object, table: CostTable) -> tuple[Request, ...]:
    if not isinstance(content, list) or len(content) > MAX_REQUESTS:
        raise JobRefused(f"job.requests: allowed is a list of at most {MAX_REQUESTS}")
    longest = min(table.max_model_len, table.num_blocks * 16)
    return tuple(_request(f"job.requests[{number}]", row, longest) for number, row in enumerate(content))


def _request(path: str, row: object, longest: int) -> Request:
    names = ("arrival_s", "class", "num_prompt_tokens", "num_output_tokens")
    if not isinstance(row, list) or len(row) != len(names):
        raise JobRefused(f"{path}: got {row!r}, allowed is [{', '.join(names)}]")
    read = Fields(dict(zip(names, row, strict=True)), path, names)
    num_prompt_tokens = read.count("num_prompt_tokens", 1, longest - 1)
    return Request(
        arrival_s=read.number("arrival_s", 0.0, _MOST),
        request_class=_CLASSES[read.choice("class", tuple(_CLASSES))],
        num_prompt_tokens=num_prompt_tokens,
        num_output_tokens=read.count("num_output_tokens", 1, longest - num_prompt_tokens),
    )
