"""Finds cached blocks again by the tokens that they hold: each full block by a digest of all tokens up to its end.

    tokens      |t0 .. t15|t16 .. t31|t32 ..
    digests     d0 = H(root, t0 .. t15)    d1 = H(d0, t16 .. t31)      root = H(salt)

So a block is found only by who has the same salt and the same tokens before it, and its rows are what it would compute
itself. The digest is a cryptographic one: nobody can make up tokens that are taken for another's.
"""

import hashlib
from array import array
from collections.abc import Iterable
from functools import partial

from scheduler_svc.core.state.ids import BlockId
from scheduler_svc.core.state.sequence import Sequence

# Of salts and of blocks apart, so that no salt can be made up that is taken for a block's.
_digest_of_salt = partial(hashlib.blake2b, digest_size=32, person=b"salt")
_digest_of_block = partial(hashlib.blake2b, digest_size=32, person=b"block")


def extend_digests(sequence: Sequence, block_size: int, num_blocks: int) -> list[bytes]:
    """Computes the digests of a sequence's first full blocks as far as they are not known yet; returns all known."""
    digests = sequence.block_digests
    if len(digests) < num_blocks:
        parent = digests[-1] if digests else _digest_of_salt(sequence.salt).digest()
        start = len(digests) * block_size
        tokens = array("i", sequence.token_ids(start, num_blocks * block_size)).tobytes()
        step = len(tokens) // (num_blocks - len(digests))
        for at in range(0, len(tokens), step):
            parent = _digest_of_block(parent + tokens[at : at + step]).digest()
            digests.append(parent)
    return digests


class PrefixIndex:
    """Which block holds the tokens of which digest."""

    def __init__(self) -> None:
        self._block_of: dict[bytes, BlockId] = {}
        self._digest_of: dict[BlockId, bytes] = {}

    def __len__(self) -> int:
        return len(self._block_of)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._block_of

    def find(self, digests: Iterable[bytes]) -> tuple[BlockId, ...]:
        """Returns the blocks of the longest beginning that is cached."""
        found: list[BlockId] = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            found.append(block)
        return tuple(found)

    def add(self, digest: bytes, block: BlockId) -> bool:
        """Adds a block that was computed; returns False where another one holds the same already."""
        if digest in self._block_of:
            return False
        self._block_of[digest] = block
        self._digest_of[block] = digest
        return True

    def drop(self, block: BlockId) -> None:
        """Forgets what a block holds, if it is known."""
        digest = self._digest_of.pop(block, None)
        if digest is not None:
            del self._block_of[digest]
