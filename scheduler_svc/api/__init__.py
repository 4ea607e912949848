"""The public APIs: what they share, from a message's values to checked requests, and from tokens to text."""
