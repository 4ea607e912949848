from scripts.engine.decision_time import InstantWorker, beside_a_full_cache, fill_cache, make_scheduler


def test_a_cache_is_filled_with_blocks_that_nobody_holds() -> None:
    scheduler = make_scheduler(0, 8, num_more_blocks=300)
    fill_cache(scheduler, InstantWorker(scheduler), 300)
    load = scheduler.memory_load()
    assert 300 <= load.prefix_bytes <= 310
    assert load.num_cached_tokens == load.best_effort_bytes == 0
    scheduler.check_integrity()


def test_both_ways_are_timed_round_by_round() -> None:
    turns = beside_a_full_cache(num_queued=20, num_running=4, num_cached=50, num_decisions=30, rounds=3)
    assert turns.labels == ["empty cache", "50 blocks cached"]
    ratio = turns.ratio("50 blocks cached", "empty cache", "schedule_us")
    assert ratio is not None
    assert ratio.count == 3
