"""Experiments in virtual time: traffic, what is varied, and the processes that simulate."""
