"""How tokens are chosen from logits: rules, filters, draws, and what a sequence has had so far."""
