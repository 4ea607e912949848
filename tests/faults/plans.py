"""What is asked, and the tokens that come where nothing happens: learned once, while no fault is near."""

import random
from collections.abc import Iterable, Sequence

from tests.faults.harness.clients import Clients
from tests.faults.records import Class, Plan

_AT_ONCE = 4
_LOWEST_TOKEN, _HIGHEST_TOKEN = 10, 1000  # of every model that is served here, and none of them special


def plan(request_class: Class, num_prompt_tokens: int, num_tokens: int, number: int, *, seeded: bool = False) -> Plan:
    """Returns a plan whose prompt, and whose seed where it has one, follow from its number."""
    rng = random.Random(number)
    prompt = tuple(rng.randint(_LOWEST_TOKEN, _HIGHEST_TOKEN) for _ in range(num_prompt_tokens))
    return Plan(request_class, prompt, num_tokens, seed=number if seeded else None)


def mixed(number: int, num_plans: int, *, prompts: range, outputs: range, ls_share: float) -> list[Plan]:
    """Returns plans of both classes, of random lengths, half of them greedy; equal for equal arguments."""
    rng = random.Random(number)
    plans = []
    for i in range(num_plans):
        request_class = Class.LATENCY_SENSITIVE if i < ls_share * num_plans else Class.BEST_EFFORT
        lengths = rng.choice(prompts), rng.choice(outputs)
        plans.append(plan(request_class, *lengths, 1000 * number + i, seeded=bool(i % 2)))
    rng.shuffle(plans)
    return plans


PROBE = plan(Class.LATENCY_SENSITIVE, 8, 2, 1)
LS_PROMPTS = [plan(Class.LATENCY_SENSITIVE, 1200, 16, 10 + i, seeded=bool(i)) for i in range(2)]
BE_PROMPTS = [plan(Class.BEST_EFFORT, 700, 12, 20 + i, seeded=bool(i % 2)) for i in range(3)]
ARRIVAL = plan(Class.LATENCY_SENSITIVE, 40, 8, 30)
DECODES = [
    plan(request_class, 20 + 8 * i, 60, 40 + i, seeded=i >= 2)
    for i in range(4)
    for request_class in (Class.LATENCY_SENSITIVE, Class.BEST_EFFORT)
]
FILLERS = [plan(Class.BEST_EFFORT, 500, 60, 60 + i, seeded=bool(i % 2)) for i in range(4)]
CROWDERS = [plan(Class.LATENCY_SENSITIVE, 900, 40, 70 + i) for i in range(2)]
JOB_ITEMS = [plan(Class.BEST_EFFORT, 4 + i, 2 + 2 * i, 9000 + i, seeded=bool(i % 2)) for i in range(12)]
OF_MOMENTS = (PROBE, *LS_PROMPTS, *BE_PROMPTS, ARRIVAL, *DECODES, *FILLERS, *CROWDERS, *JOB_ITEMS)


class References:
    """The tokens of each plan where nothing happens."""

    def __init__(self) -> None:
        self._tokens: dict[Plan, tuple[int, ...]] = {}

    async def learn(self, address: str, plans: Iterable[Plan], bound_s: float = 300.0) -> None:
        """Asks for each plan that is not known once; raises AssertionError if one is not answered whole."""
        async with Clients(address) as clients:
            unknown = [each for each in dict.fromkeys(plans) if each not in self._tokens]
            for begin in range(0, len(unknown), _AT_ONCE):
                for each in unknown[begin : begin + _AT_ONCE]:
                    clients.begin(each)
                await clients.all_ended(bound_s)
            for record in clients.records:
                how = f"{record.status} {record.details}"
                assert record.status == "OK", f"without any fault a request ended with {how}"
                assert len(record.token_ids) == record.plan.num_tokens, how
                self._tokens[record.plan] = record.token_ids

    def of(self, plan: Plan) -> Sequence[int] | None:
        """Returns the tokens of a plan; None if they are not known."""
        return self._tokens.get(plan)
