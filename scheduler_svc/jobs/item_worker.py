"""What the runner needs of whoever computes items: the APIs know what a body means, and render the answer."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from scheduler_svc.jobs.job import Claim, ItemOutcome, Progress

OnProgress: TypeAlias = Callable[[Progress], None]


class ItemWorker(Protocol):
    """Computes items, several at a time."""

    async def run(self, claim: Claim, on_progress: OnProgress) -> ItemOutcome:
        """Computes an item to its end, going on from `claim.progress`; cancelling this ends its work.

        Args:
            claim: The item.
            on_progress: To be told of all tokens that the item has: whenever there are more, and, if it can be, as soon
                as the item is queued. An item with several outputs has no progress.

        Returns:
            How it ended. One that FAILED with INTERNAL, UNKNOWN or DATA_LOSS is tried again as if that were raised.

        Raises:
            ServiceError: It can't be computed. It is tried again later where the service is busy, not there or at
                fault; otherwise it has FAILED with the error's status.
        """
