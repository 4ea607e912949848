"""The scheduler service: decides with numbers what the GPU worker runs next, and serves the public API.

Knows no tensor: it never imports torch or transformers.
"""

__version__ = "0.1.0"
