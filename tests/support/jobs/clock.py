"""A clock that tests set."""


class Clock:
    """Seconds since 1970, as the test says."""

    def __init__(self, now_s: float = 1_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s
