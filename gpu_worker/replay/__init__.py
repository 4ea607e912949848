"""Decodes recorded as CUDA graphs, and replayed in place of the model's own forward."""
