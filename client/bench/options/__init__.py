"""The options that bench commands share: their names, help, defaults and checks."""
