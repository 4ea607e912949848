"""HTTP connections: how many there may be, how long they may be silent, and what they may send."""
