"""What work takes, how far a step of it gets, and what time is left to whom: foreseen, of numbers alone."""
