"""The steps, a module each, whose `run(task)` does one; and what they share: the large model, a load on a service."""
