"""What sequences keep between steps: K and V in blocks, other states, and what one pass sees of them."""
