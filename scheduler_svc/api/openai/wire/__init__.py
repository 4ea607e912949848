"""What goes over the wire of the OpenAI-compatible API: bodies, events and errors."""
