import pytest
from qllm.client.bench.results.gains import find_gains
from qllm.client.bench.set_ups import SetUpName

from tests.unit.client.bench.samples import result


def test_the_gain_is_shared_out_between_priority_and_stopping_inside() -> None:
    waits_s = {SetUpName.FCFS: 8.0, SetUpName.PRIORITY: 0.4, SetUpName.LAYER: 0.2, SetUpName.EXPERT: 0.1}
    gains = find_gains({name: result(name, ttft_s=wait_s).summary for name, wait_s in waits_s.items()})
    by_name = {gain.name.strip(): gain for gain in gains}
    priority, inside = by_name["priority between iterations"], by_name["stopping inside an iteration"]
    assert (priority.factor, inside.factor, by_name["both"].factor) == pytest.approx((20.0, 4.0, 80.0))
    assert (priority.share_of_time, inside.share_of_time) == pytest.approx((7.6 / 7.9, 0.3 / 7.9), abs=1e-4)
    assert priority.share_of_factor is not None
    assert inside.share_of_factor is not None
    assert priority.share_of_factor + inside.share_of_factor == pytest.approx(1.0, abs=1e-3)
    assert inside.share_of_wait == pytest.approx(0.3 / 0.35, abs=1e-4)  # 50 ms are the idle server's own
    assert by_name["of it, at layers"].factor == pytest.approx(2.0)


def test_steps_whose_set_ups_were_not_measured_are_left_out() -> None:
    gains = find_gains({SetUpName.FCFS: result(ttft_s=2.0).summary, SetUpName.EXPERT: result(ttft_s=1.0).summary})
    assert [gain.name for gain in gains] == ["both"]
    assert find_gains({}) == []


def test_shares_of_a_gain_that_is_none_are_absent() -> None:
    same = result(ttft_s=1.0).summary
    gains = find_gains({SetUpName.FCFS: same, SetUpName.PRIORITY: same, SetUpName.EXPERT: same})
    assert {(gain.factor, gain.share_of_time, gain.share_of_factor) for gain in gains} == {(1.0, None, None)}
