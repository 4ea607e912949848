"""A worker without a model, in the time that a table says. Imports no torch."""
