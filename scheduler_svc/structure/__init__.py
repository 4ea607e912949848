"""Grammars that texts are kept to, as far as the scheduler judges them: in a process of their own, within limits."""
