"""Puts a mixed load on any OpenAI-compatible server, with Locust: latency-sensitive requests and best-effort work.

    locust -f deploy/loadgen/locustfile.py --headless -H http://127.0.0.1:8000 -u 9 -r 9 -t 60s

One user in nine is latency-sensitive and pauses between requests, the others are best-effort and do not. Besides
Locust's own line for the answer as a whole there is one for the time to its first token. Locust is no dependency of
QLLM: this file knows only the public API.
"""

import json
import random
import time
from collections.abc import Iterator

from locust import HttpUser, between, constant, events, task
from requests import Response

VOCABULARY = ("the", "scheduler", "stops", "work", "inside", "a", "layer", "and", "goes", "on", "from", "there")


class StreamingUser(HttpUser):
    """Asks for streams of chat, one at a time."""

    abstract = True
    tier = ""
    num_words = 0
    max_tokens = 0

    @task
    def ask(self) -> None:
        """Asks, and reads the stream to its end."""
        prompt = " ".join(random.choices(VOCABULARY, k=self.num_words))
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.max_tokens,
            "ignore_eos": True,
            "service_tier": self.tier,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        started_s = time.perf_counter()
        name = f"{self.tier}: whole answer"
        with self.client.post(
            "/v1/chat/completions", json=body, name=name, stream=True, catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code}: {response.text[:200]}")
                return
            problem = self.read(response, started_s)
            # Locust's own time is that of the headers.
            response.request_meta["response_time"] = (time.perf_counter() - started_s) * 1e3
            if problem is not None:
                response.failure(problem)

    def read(self, response: Response, started_s: float) -> str | None:
        """Reads a stream; returns what is wrong with it, if anything is."""
        num_tokens = None
        has_begun = False
        for content in stream_of(response):
            if content == "[DONE]":
                return None if num_tokens == self.max_tokens else f"{num_tokens} tokens instead of {self.max_tokens}"
            chunk = json.loads(content)
            if "error" in chunk:
                return str(chunk["error"]["message"])
            if chunk["choices"] and not has_begun:
                has_begun = True
                self.report_first_token(time.perf_counter() - started_s)
            num_tokens = (chunk.get("usage") or {}).get("completion_tokens", num_tokens)
        return "the stream ended without [DONE]"

    def report_first_token(self, ttft_s: float) -> None:
        """Adds a line to Locust's table."""
        name = f"{self.tier}: first token"
        events.request.fire(
            request_type="SSE", name=name, response_time=ttft_s * 1e3, response_length=0, exception=None
        )


def stream_of(response: Response) -> Iterator[str]:
    """Yields what is in the events of a stream."""
    for line in response.iter_lines():
        if line.startswith(b"data: "):
            yield line.removeprefix(b"data: ").decode()


class LatencySensitiveUser(StreamingUser):
    """Somebody who waits for a short answer, reads it, and asks again."""

    weight = 1
    wait_time = between(0.2, 1.0)
    tier = "priority"
    num_words = 40
    max_tokens = 16


class BestEffortUser(StreamingUser):
    """Work that fills the machine."""

    weight = 8
    wait_time = constant(0)
    tier = "flex"
    num_words = 400
    max_tokens = 64
