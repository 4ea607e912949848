"""Beam search over candidates that a model gave: which texts go on, which are finished, and when it is over."""
