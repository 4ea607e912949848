"""The bench commands: each one owns the order of events between its options and its report."""
