"""What every executor checks of the scheduler's commands, with a model or without. Imports no torch."""
