"""The worker's end of the control channel, and the thread that carries out what comes over it. Imports no torch."""
