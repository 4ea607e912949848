"""What Prometheus reads of the service: how requests fared, and the loads, over all workers that it has had.

    engine, front ends ──▶ RequestMetrics ──┐
                                            ├──▶ Metrics.page: Prometheus' text format
    core's loads ─────────▶ LoadMetrics ────┘

Watches and decides nothing. Holds numbers by class and by words of this room: never a prompt, never an id. Names are
vLLM's where they mean the same.
"""

from scheduler_svc.metrics.metrics import CONTENT_TYPE, Metrics

__all__ = ["CONTENT_TYPE", "Metrics"]
