"""Memory as the core sees it: whose which blocks are, what may be found again, and what moves to make room."""
