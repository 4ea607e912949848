"""Runs a measurement on several variants of a service in turns, and brings what came of it to the user.

Each round starts a service for each variant anew and stops it; rounds begin with another variant each, so that what the
machine does meanwhile spreads evenly.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import typer
from qllm.client.bench.console import EXIT_FAILED, complain
from qllm.client.bench.errors import BenchError
from qllm.client.bench.load.grpc_target import GrpcTarget
from qllm.client.bench.load.run import unless
from qllm.client.bench.options.qllm import QllmOptions
from qllm.client.bench.options.target import ServiceArguments
from qllm.client.bench.report.progress import ProgressBar
from qllm.client.bench.service.interrupts import Interrupts, run_interruptibly
from qllm.client.bench.service.service import ServiceOptions, running_service
from qllm.client.bench.set_ups import Variant
from rich.console import Console

R = TypeVar("R")
Measure = Callable[[GrpcTarget, ProgressBar, asyncio.Event], Awaitable[R | None]]
"""Measures one service; ends early once the event is set, with None if there is nothing to tell by then."""


@dataclass(frozen=True, slots=True)
class InTurns:
    """What is measured, and how often.

    Attributes:
        server: The service that runs already, or the model to start services with.
        service: Further options of scheduler and worker, the same for all variants.
        variants: What differs; only one with a service that runs already.
        num_rounds: How often each of them is measured.
    """

    server: QllmOptions
    service: ServiceArguments
    variants: Sequence[Variant]
    num_rounds: int

    def run(self, measure: Measure[R]) -> tuple[list[tuple[str, R]], int]:
        """Returns each measurement with its variant's label, in order, and what the process is to end with.

        Those that were measured are returned though a signal came, or a service failed, after them.

        Raises:
            typer.Exit: A signal came before the first one.
            BenchError: A service failed before the first one.
        """
        measured: list[tuple[str, R]] = []

        async def command(interrupts: Interrupts) -> BenchError | None:
            with ProgressBar(Console(stderr=True)) as bar:
                try:
                    await self._run(measure, measured, bar, interrupts)
                except BenchError as failure:
                    return failure
                return None

        failure, exit_code = run_interruptibly(command)
        if failure is not None and not measured:
            raise failure
        if failure is not None:
            complain(f"ended early: {failure}")
        elif not measured:
            complain("interrupted before anything was measured")
            raise typer.Exit(exit_code)
        return measured, exit_code or (EXIT_FAILED if failure is not None else 0)

    async def _run(
        self, measure: Measure[R], measured: list[tuple[str, R]], bar: ProgressBar, interrupts: Interrupts
    ) -> None:
        """Adds each measurement to `measured` once it is over."""
        for number in range(self.num_rounds):
            first = number % len(self.variants)
            for variant in (*self.variants[first:], *self.variants[:first]):
                bar.entitle(f"round {number + 1} of {self.num_rounds}, {variant.label}")
                with interrupts.keeping_results():
                    result = await self._run_once(variant, measure, bar, interrupts.stop)
                if result is not None:
                    measured.append((variant.label, result))
                if interrupts.stop.is_set():
                    return

    async def _run_once(self, variant: Variant, measure: Measure[R], bar: ProgressBar, stop: asyncio.Event) -> R | None:
        async with AsyncExitStack() as stack:
            address = await unless(stop, stack.enter_async_context(self._address(variant, bar)))
            if address is None:
                return None
            target = GrpcTarget(address, ignore_eos=True)
            stack.push_async_callback(target.close)
            return await measure(target, bar, stop)

    @asynccontextmanager
    async def _address(self, variant: Variant, bar: ProgressBar) -> AsyncIterator[str]:
        if self.server.serve is None:
            yield self.server.grpc or ""
            return
        bar.begin("starting the service")
        scheduler = (*variant.scheduler, *self.service.scheduler)
        worker = (*variant.worker, *self.service.worker)
        async with running_service(ServiceOptions(self.server.serve, scheduler, worker)) as address:
            yield address
