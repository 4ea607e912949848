"""Identities that the core hands out, as distinct types; never used again within one life of a worker."""

from typing import NewType

SeqId = NewType("SeqId", int)
BatchId = NewType("BatchId", int)
BlockId = NewType("BlockId", int)
CommandId = NewType("CommandId", int)
