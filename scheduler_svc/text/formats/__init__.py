"""How models write what is no plain answer: calls of functions, and thoughts. A table of formats."""
