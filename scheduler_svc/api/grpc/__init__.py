"""The gRPC API: turns wire messages into drafts of requests, and token events into wire messages."""
