"""Carries out the scheduler's commands on one model: sequences, batches, and the loop that advances them."""
