"""What measurements come to, and the files that keep them. Draws nothing."""
