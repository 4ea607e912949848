"""Attention of a ragged batch: the layer's stage, and the kinds of arithmetic it may run on."""
