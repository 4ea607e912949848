"""The Responses API, as a translation: requests to those of chat completions, and their answers to responses."""
