"""Who may do what: API keys, what each of them allows, quotas, certificates, and where a service may be bound."""
