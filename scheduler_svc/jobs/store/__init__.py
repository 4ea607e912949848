"""The durable store of jobs, in SQLite or PostgreSQL. The only room that knows SQL; it needs the extra `jobs`."""
