"""What the core is about: sequences, batches, where they stand, and the messages that name them. Decides nothing."""
