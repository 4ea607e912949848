"""Reads the agents of a job from parsed JSON, and checks them in full."""

from typing import Any

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.simulation.agents import DEFAULT_TOOLS, AgentLoad, Tool, TurnSpread
from scheduler_svc.simulation.errors import JobRefused
from scheduler_svc.simulation.fields import Fields

CLASSES = {"ls": RequestClass.LATENCY_SENSITIVE, "be": RequestClass.BEST_EFFORT}
_PATH = "job.agents"
_MOST_PROGRAMS = 100_000
_MOST_TURNS = 1000
_MOST_TOOLS = 100
_MOST = 1e9
_NAMES = (
    "num_programs",
    "rate_per_s",
    "num_prompt_tokens",
    "num_tool_tokens",
    "num_output_tokens",
    "num_turns",
    "turn_spread",
    "tools",
    "class",
    "seed",
)


def parse_agents(content: object, longest: int) -> AgentLoad:
    """Returns the agents that a parsed JSON object describes.

        {"num_programs": 100, "rate_per_s": 0.5, "num_prompt_tokens": 2000, "num_tool_tokens": 300,
         "num_output_tokens": 100, "num_turns": 8, "turn_spread": "fixed" or "geometric", "class": "be", "seed": 0,
         "tools": [[name, mean_s, sigma], ...]}

    Args:
        content: The object. All but num_programs and rate_per_s have the defaults of `AgentLoad`.
        longest: The most tokens of a prompt and its answer.

    Raises:
        JobRefused: Something in it is not allowed.
    """
    read = Fields(content, _PATH, _NAMES)
    counts = {"num_prompt_tokens": 1, "num_tool_tokens": 1, "num_output_tokens": 1}
    given: dict[str, Any] = {name: read.count(name, low, longest) for name, low in counts.items() if name in read}
    if "num_turns" in read:
        given["num_turns"] = read.count("num_turns", 1, _MOST_TURNS)
    if "turn_spread" in read:
        given["turn_spread"] = TurnSpread(read.choice("turn_spread", tuple(TurnSpread)))
    if "class" in read:
        given["request_class"] = CLASSES[read.choice("class", tuple(CLASSES))]
    if "seed" in read:
        given["seed"] = read.count("seed", 0, int(_MOST))
    load = AgentLoad(
        num_programs=read.count("num_programs", 1, _MOST_PROGRAMS),
        rate_per_s=read.number("rate_per_s", 1e-6, _MOST),
        tools=_tools(read.get("tools")) if "tools" in read else DEFAULT_TOOLS,
        **given,
    )
    num_turns = 1 if load.turn_spread is TurnSpread.GEOMETRIC else load.num_turns
    if load.num_tokens_of(num_turns) > longest:
        raise JobRefused(
            f"{_PATH}: got programs of {load.num_tokens_of(num_turns)} tokens after {num_turns} turns, allowed are "
            f"{longest}"
        )
    return load


def _tools(content: object) -> tuple[Tool, ...]:
    if not isinstance(content, list) or not 1 <= len(content) <= _MOST_TOOLS:
        raise JobRefused(f"{_PATH}.tools: allowed is a list of 1 to {_MOST_TOOLS}")
    tools = tuple(_tool(f"{_PATH}.tools[{number}]", row) for number, row in enumerate(content))
    if len({tool.name for tool in tools}) < len(tools):
        raise JobRefused(f"{_PATH}.tools: got {', '.join(tool.name for tool in tools)}, allowed are different names")
    return tools


def _tool(path: str, row: object) -> Tool:
    names = ("name", "mean_s", "sigma")
    if not isinstance(row, list) or len(row) != len(names) or not isinstance(row[0], str) or not row[0]:
        raise JobRefused(f"{path}: got {row!r}, allowed is [{', '.join(names)}]")
    read = Fields(dict(zip(names, row, strict=True)), path, names)
    return Tool(row[0], read.number("mean_s", 1e-3, 3600), read.number("sigma", 0.0, 5.0))
