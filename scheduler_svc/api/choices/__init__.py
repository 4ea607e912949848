"""Several answers to one prompt, the same for every front end: how many, from which seeds, and which are returned."""
