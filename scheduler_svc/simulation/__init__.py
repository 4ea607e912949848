"""Runs the scheduler core over traffic of any length in virtual time: `python -m scheduler_svc.simulation < JOB > OUT`.

    requests ─▶ Simulation ─▶ core.Scheduler ─▶ VirtualWorker, which takes the time that a CostTable says
                     ▲──────────── results, at the virtual time at which they are due ──┘

The core is the one that serves. What is simulated is the worker and the clock: no model, no network, no tokenizer.
"""
