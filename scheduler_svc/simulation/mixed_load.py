"""The mixed load, simulated inside this process: LS requests at random times beside BE clients that never pause.

    result = simulate_mixed_load("h200-mixtral-8x7b", MixedLoad(ls_rate_per_s=0.7), ls_tpot_s=0.05)
    fcfs = simulate_mixed_load("h200-mixtral-8x7b", MixedLoad(ls_rate_per_s=0.7), policy="fcfs")
    assert result.be_tokens_per_s > 0.7 * fcfs.be_tokens_per_s

The defaults are those of `qllm-client bench`. The same load meets every set-up with the same requests.
"""

import random
from collections import abc
from dataclasses import dataclass
from statistics import fmean

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.simulation.job import parse_job
from scheduler_svc.simulation.simulation import Outcome, Simulation


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedLoad:
    """Who asks, and how much.

    Attributes:
        ls_rate_per_s: LS requests a second, at random times (Poisson), until the window ends; 0: none.
        num_be_clients: Clients that each have a BE request under way all the time; 0 leaves the server to LS requests.
        warm_up_s: Seconds of load before the window.
        seconds: Length of the window.
        seed: Fixes the times of LS requests and the lengths of BE prompts, 20 % shorter to 20 % longer than the mean.
    """

    ls_rate_per_s: float = 0.7
    ls_prompt_tokens: int = 80
    ls_output_tokens: int = 16
    num_be_clients: int = 8
    be_prompt_tokens: int = 1100
    be_output_tokens: int = 64
    warm_up_s: float = 5.0
    seconds: float = 60.0
    seed: int = 0

    def requests(self) -> list[list[object]]:
        """Returns the LS requests as a job lists them."""
        times, until_s = random.Random(f"ls {self.seed}"), self.warm_up_s + self.seconds
        rows: list[list[object]] = []
        at_s = times.expovariate(self.ls_rate_per_s) if self.ls_rate_per_s else until_s
        while at_s < until_s:
            rows.append([at_s, "ls", self.ls_prompt_tokens, self.ls_output_tokens])
            at_s += times.expovariate(self.ls_rate_per_s)
        return rows

    def closed_loop(self) -> dict[str, object]:
        """Returns the BE clients as a job describes them."""
        return {
            "num_clients": self.num_be_clients,
            "num_prompt_tokens": self.be_prompt_tokens,
            "num_output_tokens": self.be_output_tokens,
            "from_s": self.warm_up_s,
            "until_s": self.warm_up_s + self.seconds,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class MixedLoadResult:
    """What the load met.

    Attributes:
        ls: The LS requests that arrived in the window, all served to the end.
        ls_tokens_per_s: LS output tokens in the window, by its length.
        be_tokens_per_s: BE output tokens in the window, by its length.
        simulation: The simulation that has ended, with the core and its counters.
    """

    ls: tuple[Outcome, ...]
    ls_tokens_per_s: float
    be_tokens_per_s: float
    simulation: Simulation

    @property
    def ls_ttft_s(self) -> list[float]:
        """Times to first token of LS requests, sorted."""
        return sorted(one.ttft_s for one in self.ls)

    @property
    def ls_tpot_s(self) -> list[float]:
        """Each LS request's mean time from a token to the next, sorted."""
        return sorted(one.tpot_s for one in self.ls if one.tpot_s is not None)

    @property
    def mean_ls_ttft_s(self) -> float:
        """Mean time to first token of LS requests."""
        return fmean(self.ls_ttft_s)

    @property
    def mean_ls_tpot_s(self) -> float:
        """Mean time from token to token of LS requests."""
        return fmean(self.ls_tpot_s)


def simulate_mixed_load(
    cost_table: object,
    load: MixedLoad,
    *,
    policy: str = "qllm",
    preempt_at: str = "expert",
    extra_requests: abc.Sequence[list[object]] = (),
    **settings: float,
) -> MixedLoadResult:
    """Runs the core that serves under this load, in virtual time; a minute takes about a second.

    Args:
        cost_table: The machine and the model: name of a shipped table, or a table as parsed JSON.
        load: Who asks.
        policy: As `--policy`.
        preempt_at: As `--preempt-at`.
        extra_requests: More requests, as a job lists them.
        settings: Fields of the core's `Limits` and `StarvationLimits`.

    Raises:
        JobRefused: An argument is not allowed.
        Stalled: The core contradicts itself.
    """
    job = {
        "cost_table": cost_table,
        "policy": policy,
        "preempt_at": preempt_at,
        "settings": settings,
        "requests": [*load.requests(), *extra_requests],
        "closed_loop": load.closed_loop(),
    }
    simulation = Simulation(parse_job(job))
    simulation.run()
    window = simulation.window
    rates = {each: num_tokens / load.seconds for each, num_tokens in window.num_tokens.items()}
    ls = (one for one in simulation.outcomes if one.request_class is RequestClass.LATENCY_SENSITIVE)
    return MixedLoadResult(
        ls=tuple(one for one in ls if window.from_s <= one.arrival_s),
        ls_tokens_per_s=rates[RequestClass.LATENCY_SENSITIVE],
        be_tokens_per_s=rates[RequestClass.BEST_EFFORT],
        simulation=simulation,
    )
