"""Makes a worker ready: from its settings to a warm model and the Hello that announces it."""
