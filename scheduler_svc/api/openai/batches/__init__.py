"""OpenAI's Files and Batch APIs over a store of jobs. Source: OpenAI API reference, Files and Batch."""
