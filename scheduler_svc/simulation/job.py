"""What a simulation is asked to do, read from parsed JSON and checked in full."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from qllm.cost_table import CostTable, CostTableRefused, parse_cost_table, shipped_tables
from qllm.settings import SettingRefused, check

from scheduler_svc.core.policies import POLICIES, Limits
from scheduler_svc.core.sessions import SessionLimits
from scheduler_svc.core.starvation import StarvationLimits
from scheduler_svc.core.state.cursor import PreemptAt
from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.simulation.agent_fields import CLASSES, parse_agents
from scheduler_svc.simulation.agents import AgentLoad
from scheduler_svc.simulation.arrivals import ClosedLoop, Request
from scheduler_svc.simulation.errors import JobRefused
from scheduler_svc.simulation.fields import Fields

MAX_REQUESTS = 1_000_000
_MOST = 1e9
_MOST_CLIENTS = 4096
_MOST_BLOCKS = 1 << 24
_NAMES = (
    "cost_table",
    "policy",
    "preempt_at",
    "settings",
    "requests",
    "closed_loop",
    "agents",
    "num_blocks",
    "num_host_blocks",
)
_LOOP_NAMES = (
    "num_clients",
    "num_prompt_tokens",
    "num_output_tokens",
    "until_s",
    "from_s",
    "class",
    "prompt_spread",
    "seed",
)

Settings = TypeVar("Settings", Limits, StarvationLimits, SessionLimits)


@dataclass(frozen=True, slots=True)
class Job:
    """One simulation.

    Attributes:
        limits: What the policy plans with; a lead is not needed, as commands take no time to arrive.
    """

    cost_table: CostTable
    requests: tuple[Request, ...]
    closed_loop: ClosedLoop | None = None
    agents: AgentLoad | None = None
    policy: str = "qllm"
    preempt_at: PreemptAt = PreemptAt.EXPERT
    limits: Limits = field(default_factory=lambda: Limits(control_lead_s=0.0))
    starvation: StarvationLimits = field(default_factory=StarvationLimits)
    sessions: SessionLimits = field(default_factory=SessionLimits)

    @property
    def longest(self) -> int:
        """The most tokens of a prompt and its answer."""
        return _longest(self.cost_table)


def parse_job(content: object) -> Job:
    """Returns the job that a parsed JSON object describes; raises JobRefused naming what is wrong with it.

        {"cost_table": {...}, "num_blocks": 2000, "num_host_blocks": 0, "policy": "qllm", "preempt_at": "expert",
         "settings": {"max_num_seqs": 32, "min_share": 0.1},
         "requests": [[arrival_s, "ls" or "be", num_prompt_tokens, num_output_tokens], ...],
         "closed_loop": {"num_clients": 8, "num_prompt_tokens": 1100, "num_output_tokens": 64, "class": "be",
                         "from_s": 5, "until_s": 65, "prompt_spread": 0.2, "seed": 0},
         "agents": {"num_programs": 100, "rate_per_s": 0.5, ...}}

    Everything but cost_table and requests has a default: the numbers of blocks are the table's; there is no closed loop
    and are no agents, and those in them are as `ClosedLoop` and `AgentLoad` have them. Settings are the fields of
    `Limits`, `StarvationLimits` and `SessionLimits`.
    """
    read = Fields(content, "job", _NAMES)
    table = _with_blocks(_cost_table(read.get("cost_table")), read)
    policy = read.choice("policy", tuple(POLICIES)) if "policy" in read else "qllm"
    places = tuple(place.value for place in PreemptAt)
    limits, starvation, sessions = _settings(read)
    return Job(
        cost_table=table,
        requests=_requests(read.get("requests"), table),
        closed_loop=_closed_loop(read.get("closed_loop"), table) if "closed_loop" in read else None,
        agents=parse_agents(read.get("agents"), _longest(table)) if "agents" in read else None,
        policy=policy,
        preempt_at=PreemptAt(read.choice("preempt_at", places)) if "preempt_at" in read else PreemptAt.EXPERT,
        limits=limits,
        starvation=starvation,
        sessions=sessions,
    )


def _cost_table(content: object) -> CostTable:
    """Returns the table that an object describes, as `qllm-worker --simulated` reads it, or the shipped one by name."""
    shipped = shipped_tables()
    if isinstance(content, str) and content not in shipped:
        raise JobRefused(f"cost_table: got {content!r}, allowed is an object, or {', '.join(shipped)}")
    try:
        return parse_cost_table(shipped[content] if isinstance(content, str) else content, "cost_table")
    except CostTableRefused as error:
        raise JobRefused(str(error)) from None


def _with_blocks(table: CostTable, read: Fields) -> CostTable:
    """Returns the table with the numbers of blocks that the job names."""
    num_blocks = read.count("num_blocks", 1, _MOST_BLOCKS) if "num_blocks" in read else table.num_blocks
    num_host_blocks = (
        read.count("num_host_blocks", 0, _MOST_BLOCKS) if "num_host_blocks" in read else table.num_host_blocks
    )
    return replace(table, num_blocks=num_blocks, num_host_blocks=num_host_blocks)


def _settings(read: Fields) -> tuple[Limits, StarvationLimits, SessionLimits]:
    """Returns the defaults, with those values replaced that the job names; each name belongs to one of them."""
    limits, starvation, sessions = Limits(control_lead_s=0.0), StarvationLimits(), SessionLimits()
    if "settings" not in read:
        return limits, starvation, sessions
    path = "job.settings"
    given = Fields(read.get("settings"), path, (*_names(limits), *_names(starvation), *_names(sessions)))
    return _replaced(limits, given, path), _replaced(starvation, given, path), _replaced(sessions, given, path)


def _replaced(default: Settings, given: Fields, path: str) -> Settings:
    values: dict[str, Any] = {
        name: given.count(name, 0, int(_MOST))
        if isinstance(getattr(default, name), int)
        else given.number(name, 0.0, _MOST)
        for name in _names(default)
        if name in given
    }
    settings = replace(default, **values)
    try:
        check(settings, path)
    except SettingRefused as refusal:
        raise JobRefused(str(refusal)) from None
    return settings


def _names(settings: Limits | StarvationLimits | SessionLimits) -> tuple[str, ...]:
    return tuple(one.name for one in fields(settings))


def _requests(content: object, table: CostTable) -> tuple[Request, ...]:
    if not isinstance(content, list) or len(content) > MAX_REQUESTS:
        raise JobRefused(f"job.requests: allowed is a list of at most {MAX_REQUESTS}")
    longest = _longest(table)
    return tuple(_request(f"job.requests[{number}]", row, longest) for number, row in enumerate(content))


def _longest(table: CostTable) -> int:
    return min(table.max_model_len, table.num_blocks * 16)


def _request(path: str, row: object, longest: int) -> Request:
    names = ("arrival_s", "class", "num_prompt_tokens", "num_output_tokens")
    if not isinstance(row, list) or len(row) != len(names):
        raise JobRefused(f"{path}: got {row!r}, allowed is [{', '.join(names)}]")
    read = Fields(dict(zip(names, row, strict=True)), path, names)
    num_prompt_tokens = read.count("num_prompt_tokens", 1, longest - 1)
    return Request(
        arrival_s=read.number("arrival_s", 0.0, _MOST),
        request_class=CLASSES[read.choice("class", tuple(CLASSES))],
        num_prompt_tokens=num_prompt_tokens,
        num_output_tokens=read.count("num_output_tokens", 1, longest - num_prompt_tokens),
    )


def _closed_loop(content: object, table: CostTable) -> ClosedLoop:
    path, longest = "job.closed_loop", _longest(table)
    read = Fields(content, path, _LOOP_NAMES)
    until_s = read.number("until_s", 0.0, _MOST)
    loop = ClosedLoop(
        num_clients=read.count("num_clients", 0, _MOST_CLIENTS),
        num_prompt_tokens=read.count("num_prompt_tokens", 1, longest - 1),
        num_output_tokens=read.count("num_output_tokens", 1, longest - 1),
        until_s=until_s,
        from_s=read.number("from_s", 0.0, until_s) if "from_s" in read else 0.0,
        request_class=CLASSES[read.choice("class", tuple(CLASSES))] if "class" in read else RequestClass.BEST_EFFORT,
        prompt_spread=read.number("prompt_spread", 0.0, 1.0) if "prompt_spread" in read else 0.2,
        seed=read.count("seed", 0, int(_MOST)) if "seed" in read else 0,
    )
    if loop.longest_prompt + loop.num_output_tokens > longest:
        raise JobRefused(
            f"{path}: got prompts of up to {loop.longest_prompt} tokens and outputs of {loop.num_output_tokens}, "
            f"allowed are {longest} together"
        )
    if loop.num_clients and table.is_free:
        raise JobRefused(f"{path}: got a table whose work takes no time, with which clients would ask without end")
    return loop
