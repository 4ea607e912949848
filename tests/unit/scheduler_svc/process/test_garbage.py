"""The collector leaves alone what was there from the start."""

import gc

from scheduler_svc.process.garbage import spare_the_loop


def test_what_exists_at_the_start_is_never_looked_at_again() -> None:
    threshold = gc.get_threshold()
    try:
        spare_the_loop()
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[0] > threshold[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
