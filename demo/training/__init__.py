"""How the demo model and the benchmark model are made. Nothing that runs imports this package."""
