"""Known requests come at their times; clients come when they were answered, with lengths of their own."""

from scheduler_svc.core.state.sequence import RequestClass
from scheduler_svc.simulation.arrivals import Arrivals, ClosedLoop, Request

LS, BE = RequestClass.LATENCY_SENSITIVE, RequestClass.BEST_EFFORT
LOOP = ClosedLoop(num_clients=3, num_prompt_tokens=100, num_output_tokens=10, until_s=60.0)


def test_requests_come_in_the_order_of_their_times_and_once() -> None:
    arrivals = Arrivals([Request(2.0, LS, 5, 5), Request(1.0, BE, 6, 6)], None)
    assert arrivals.next_s == 1.0
    assert not list(arrivals.take_due(0.5))
    assert [arrival.request.arrival_s for arrival in arrivals.take_due(3.0)] == [1.0, 2.0]
    assert arrivals.next_s == float("inf")


def test_a_client_asks_again_when_it_was_answered_and_not_before() -> None:
    arrivals = Arrivals([], LOOP)
    assert [arrival.client for arrival in arrivals.take_due(0.0)] == [0, 1, 2]
    assert arrivals.next_s == float("inf")
    arrivals.ask_again(1, 7.5)
    assert arrivals.next_s == 7.5
    (again,) = arrivals.take_due(7.5)
    assert again.client == 1
    assert again.request.arrival_s == 7.5
    assert again.request.request_class is BE


def test_a_clients_prompts_are_its_own_whoever_is_answered_first() -> None:
    def lengths(order: list[int]) -> dict[int, list[int]]:
        arrivals = Arrivals([], LOOP)
        drawn: dict[int, list[int]] = {client: [] for client in range(3)}
        for number, client in enumerate([-1, *order]):
            if client >= 0:
                arrivals.ask_again(client, float(number))
            for arrival in arrivals.take_due(float(number)):
                assert arrival.client is not None
                drawn[arrival.client].append(arrival.request.num_prompt_tokens)
        return drawn

    first, second = lengths([0, 1, 2, 0, 1, 2]), lengths([2, 2, 1, 1, 0, 0])
    assert first == second
    assert len(set(map(tuple, first.values()))) == 3
    assert all(80 <= length <= 120 for mine in first.values() for length in mine)
