from qllm.client.bench.load.memory.books import Books
from qllm.v1 import admin_pb2


def books(**memory: int) -> Books:
    load = admin_pb2.MemoryLoad(total_bytes=1000, **memory)
    return Books.of(admin_pb2.GetLoadsResponse(total_blocks=10, free_blocks=4, memory=load))


def test_what_is_kept_for_later_has_not_leaked() -> None:
    assert books(free_bytes=400, prefix_bytes=500, session_bytes=100).is_at_rest
    assert books(free_bytes=400, prefix_bytes=500).num_held_blocks == 1


def test_only_counters_grow() -> None:
    grown = books(num_offloads=7, offload_ns=50, free_bytes=3, num_kept_sessions=2).since(books(num_offloads=5))
    assert (grown["num_offloads"], grown["offload_ns"]) == (2, 50)
    assert not {"free_bytes", "num_kept_sessions", "fragmentation"} & set(grown)
