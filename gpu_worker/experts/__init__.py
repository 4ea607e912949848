"""How experts run: their weight matrices, and the queues of tokens that wait for them."""
