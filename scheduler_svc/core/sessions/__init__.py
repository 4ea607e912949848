"""Programs that come again after a tool has run, and how long what is cached of them is kept (arXiv 2511.02230)."""
