"""What the worker knows of the machine it runs on: devices, cores, clocks, and what this CPU does fastest."""
