"""The engine around the core: requests in, commands to the worker, and tokens out to their readers."""
