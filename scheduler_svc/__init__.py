"""The scheduler service: decides with numbers what the GPU worker runs next, and serves the public API.

Knows no tensor: it never imports torch or transformers.
"""

import os

from qllm.version import __version__ as __version__

# gRPC looks when it is imported. Without this it writes a line for each client that can't speak TLS with it, and
# strangers could fill the log.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
