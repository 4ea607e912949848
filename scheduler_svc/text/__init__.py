"""Text to tokens and back, for the model that is served, in threads where it takes long."""
