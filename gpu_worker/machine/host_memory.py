"""Owns the host's memory that a device copies to and from: page-locked while the system gives that, ordinary after.

A limit on locked memory, or a container without the right to it, makes copies slower and no result wrong: the
host then waits for each of them.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gpu_worker.errors import one_line

logger = logging.getLogger(__name__)


class HostMemory:
    """Host memory for one purpose.

    Args:
        purpose: What it is for, in a word, for the log.
        new_tensor: Makes a tensor without contents, as torch.empty.
    """

    def __init__(self, purpose: str, new_tensor: Callable[..., Tensor] = torch.empty) -> None:
        self._purpose = purpose
        self._new_tensor = new_tensor
        self._is_locked = True

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A host tensor without contents, in page-locked memory unless the system has refused that once."""
        if self._is_locked:
            try:
                return self._new_tensor(shape, dtype=dtype, pin_memory=True)
            except RuntimeError as error:
                self._is_locked = False
                logger.warning(
                    "page-locked memory for %s refused error=%r instead=ordinary memory, "
                    "whose copies the host waits for",
                    self._purpose,
                    one_line(error),
                )
        return self._new_tensor(shape, dtype=dtype)
