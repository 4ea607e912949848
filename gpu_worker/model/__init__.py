"""Loads a model, looks at it, and makes it ready to be suspended, or refuses it with the reason."""
