"""The demo model and the benchmark model: how they are made. No part of the service imports this package."""
