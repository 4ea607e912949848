"""What the process needs whatever it serves: descriptors, connections, memory, panics, and a log that is no flood."""
