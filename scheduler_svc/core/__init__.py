"""The scheduler core: pure decisions about sequences, batches, blocks and time.

No I/O, no clock (time is an argument), no asyncio, gRPC, ZeroMQ or protobuf. Source:
arXiv 2503.09304, sections 3 and 4.
"""
