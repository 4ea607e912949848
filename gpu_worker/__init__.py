"""The worker: the only package that knows torch. It runs a Hugging Face mixture-of-experts model as it is told to."""
