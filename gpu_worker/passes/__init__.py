"""The suspended forward pass: what runs next in a batch, and where it may be left standing."""
