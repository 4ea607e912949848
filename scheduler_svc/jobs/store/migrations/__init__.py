"""How the tables came to be what they are, a file for each step; run by `migrate`."""
