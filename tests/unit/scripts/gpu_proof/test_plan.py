import pytest

from scripts.gpu_proof.plan import PLANNED_MINUTES, STEPS, Boxes


def test_all_boxes_but_the_last_fit_with_a_third_of_the_time_left_for_it() -> None:
    boxes = Boxes(PLANNED_MINUTES, {})
    left_s = PLANNED_MINUTES * 60
    for step in STEPS[:-1]:
        left_s -= boxes.seconds(step, left_s)
    assert left_s > PLANNED_MINUTES * 60 / 3
    assert boxes.seconds(STEPS[-1], left_s) == left_s


@pytest.mark.parametrize("step", STEPS[:-1], ids=lambda step: step.name)
def test_boxes_scale_with_the_time_of_the_proof(step: object) -> None:
    whole, half = (Boxes(minutes, {}).seconds(step, 1e6) for minutes in (PLANNED_MINUTES, PLANNED_MINUTES / 2))
    assert whole == pytest.approx(2 * half)


def test_a_box_that_was_given_counts_and_no_box_is_longer_than_what_is_left() -> None:
    boxes = Boxes(PLANNED_MINUTES, {"decode": 33.0})
    decode = next(step for step in STEPS if step.name == "decode")
    assert boxes.seconds(decode, 100.0) == 33.0
    assert boxes.seconds(decode, 20.0) == 20.0
