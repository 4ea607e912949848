"""The service under test as processes of its own: how it is started, interrupted and stopped."""
