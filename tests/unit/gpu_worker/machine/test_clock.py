"""The host keeps ahead of a device by so much work and no more, and a stopwatch reads what the device took."""

import pytest
import torch

from gpu_worker.machine.clock import HOST_CLOCK, DeviceClock, Stopwatch, Stretch, clock_of

CUDA = torch.device("cuda")


class Device:
    """A device that works through units while somebody waits for it; its events carry its own time."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.busy_until_ms = 0.0
        self.num_waits = 0

    def enqueue(self, unit_ms: float) -> None:
        self.busy_until_ms = max(self.busy_until_ms, self.now_ms) + unit_ms

    def event(self) -> "Event":
        return Event(self)

    @property
    def work_left_ms(self) -> float:
        return max(0.0, self.busy_until_ms - self.now_ms)


class Event:
    def __init__(self, device: Device) -> None:
        self._device = device
        self.at_ms = 0.0

    def record(self) -> None:
        self.at_ms = max(self._device.busy_until_ms, self._device.now_ms)

    def query(self) -> bool:
        return self.at_ms <= self._device.now_ms

    def synchronize(self) -> None:
        self._device.num_waits += 1
        self._device.now_ms = max(self._device.now_ms, self.at_ms)

    def elapsed_time(self, end_event: "Event") -> float:
        return end_event.at_ms - self.at_ms


def run(device: Device, clock: DeviceClock, unit_ms: float, count: int) -> list[float]:
    """Enqueues units as the clock lets it; returns the work on its way right after each, which no stop can stop."""
    left: list[float] = []
    for _ in range(count):
        clock.keep_pace()
        begin = clock.mark()
        device.enqueue(unit_ms)
        clock.enqueued(begin, clock.mark())
        left.append(device.work_left_ms)
    return left


def test_of_long_units_one_is_on_its_way_at_a_time() -> None:
    device = Device()
    assert max(run(device, DeviceClock(device.event, run_ahead_ms=1.0), unit_ms=3.0, count=20)) == 3.0


def test_of_short_units_as_many_are_on_their_way_as_fit() -> None:
    device = Device()
    left = run(device, DeviceClock(device.event, run_ahead_ms=1.0), unit_ms=0.25, count=20)
    assert max(left) == 1.0
    assert min(left[3:]) > 0.25  # the device has the next one before it has done the last


def test_units_that_grow_put_off_a_stop_by_one_of_them_at_most() -> None:
    device = Device()
    clock = DeviceClock(device.event, run_ahead_ms=1.0)
    run(device, clock, unit_ms=0.1, count=20)
    assert run(device, clock, unit_ms=5.0, count=20)[-1] == 5.0


def test_nothing_is_waited_for_twice() -> None:
    device = Device()
    clock = DeviceClock(device.event, run_ahead_ms=1.0)
    run(device, clock, unit_ms=3.0, count=5)
    clock.settle()
    num_waits = device.num_waits
    clock.keep_pace()
    assert device.num_waits == num_waits
    assert device.work_left_ms == 0.0


def test_a_stopwatch_sums_up_by_kind_what_the_device_took() -> None:
    device = Device()
    clock = DeviceClock(device.event, run_ahead_ms=1.0)
    stopwatch = Stopwatch(clock)
    marks = [clock.mark()]
    for unit_ms in (1.0, 2.0, 4.0):
        device.enqueue(unit_ms)
        marks.append(clock.mark())
    stopwatch.share_out(Stretch({"attention": 1.0}, marks[0], marks[2]))
    stopwatch.share_out(Stretch({"attention": -1.0, "experts": 1.0}, marks[1], marks[2]))
    stopwatch.share_out(Stretch({"attention": 0.25, "experts": 0.75}, marks[2], marks[3]))
    assert stopwatch.read() == {"attention": 2_000_000, "experts": 5_000_000}


def test_on_a_cpu_nothing_is_on_its_way() -> None:
    begin = HOST_CLOCK.mark()
    end = HOST_CLOCK.mark()
    HOST_CLOCK.enqueued(begin, end)
    HOST_CLOCK.keep_pace()
    HOST_CLOCK.settle()
    assert HOST_CLOCK.elapsed_ns(begin, end) == end - begin >= 0


def test_a_device_whose_events_tell_the_time_is_timed_by_them(caplog: pytest.LogCaptureFixture) -> None:
    device = Device()
    assert isinstance(clock_of(CUDA, 1.0, device.event), DeviceClock)
    assert not caplog.records


class TimelessEvent(Event):
    def elapsed_time(self, end_event: Event) -> float:
        raise RuntimeError("Both events must be created with argument 'enable_timing=True'.")


def test_a_device_whose_events_tell_no_time_is_waited_for_at_each_mark(caplog: pytest.LogCaptureFixture) -> None:
    device = Device()

    def synchronize() -> None:
        device.now_ms = max(device.now_ms, device.busy_until_ms)

    clock = clock_of(CUDA, 1.0, lambda: TimelessEvent(device), synchronize)
    (record,) = caplog.records
    assert "enable_timing" in record.getMessage()
    clock.keep_pace()
    begin = clock.mark()
    device.enqueue(3.0)
    end = clock.mark()
    clock.enqueued(begin, end)
    assert device.work_left_ms == 0
    assert clock.elapsed_ns(begin, end) > 0
