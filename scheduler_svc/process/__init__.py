"""What the process needs whatever it serves: descriptors, memory, panics of libraries, and a log that is no flood."""
