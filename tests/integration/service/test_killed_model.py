"""A worker with a real model is killed under load: its streams go on, and the costs that it recorded are whole."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from qllm.cost_table import CostTable, parse_cost_table
from qllm.v1 import admin_pb2

from scheduler_svc.simulation.mixed_load import MixedLoad, simulate_mixed_load
from tests.support.service.live_service import ROOT, start_service
from tests.support.service.streams import all_tokens, requests, streams_over

MODEL = ROOT / "demo" / "model"
TOKENS_EACH = 60
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Story:
    """What was seen of a service whose worker was killed.

    Attributes:
        expected: Tokens of its streams while nothing happened.
        given: Tokens of the same ones, into which the kill fell.
        epochs: The worker's, before and after.
        loads: What it held in the end.
        at_the_kill: The table of costs that the killed worker left.
        in_the_end: That of the next one.
        file: Where it lies.
    """

    expected: list[list[int]]
    given: list[list[int]]
    epochs: tuple[int, int]
    loads: admin_pb2.GetLoadsResponse
    at_the_kill: CostTable
    in_the_end: CostTable
    file: Path


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("killed")
    file = folder / "costs.json"
    tables: list[CostTable] = []
    with start_service(MODEL, folder / "log", worker_options=("--record-costs", str(file))) as service:

        def kill() -> None:
            os.kill(service.worker_pid(), signal.SIGKILL)
            tables.append(read(file))

        asked = requests(TOKENS_EACH)
        expected = all_tokens(service, asked, [])
        before = service.info().worker_epoch
        given = streams_over(service, asked, kill)
        epochs, loads = (before, service.info().worker_epoch), service.loads()
    return Story(expected, given, epochs, loads, tables[0], read(file), file)


def read(file: Path) -> CostTable:
    return parse_cost_table(json.loads(file.read_text()))


def num_steps(table: CostTable) -> int:
    return int(table.source.partition("Fitted to ")[2].partition(" ")[0].replace(",", ""))


def test_streams_of_a_killed_worker_go_on_with_the_same_tokens(story: Story) -> None:
    assert story.given == story.expected
    assert story.epochs[0] != story.epochs[1]
    assert story.loads.free_blocks == story.loads.total_blocks


def test_the_table_of_costs_is_whole_after_a_kill_and_holds_the_steps_of_the_next_worker_at_its_end(
    story: Story,
) -> None:
    assert story.at_the_kill.expert_us[0] > 0
    assert num_steps(story.in_the_end) > num_steps(story.at_the_kill)
    assert "float32 on cpu" in story.in_the_end.source


def test_simulations_take_a_table_that_was_recorded(story: Story) -> None:
    simulated = simulate_mixed_load(json.loads(story.file.read_text()), MixedLoad(be_prompt_tokens=300, seconds=2.0))
    assert simulated.be_tokens_per_s > 0
