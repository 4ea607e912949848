"""Proves the GPU path on a machine that is at hand for a few minutes: the most valuable facts first, each kept at once.

    python -m scripts.gpu_proof --minutes 9 --out proof
    python -m scripts.gpu_proof --minutes 9 --out proof --wheels wheels          # packages that the machine lacks
    python -m scripts.gpu_proof --out rehearsal --rehearse                       # every step, small, on any machine

    __main__ ─▶ proof ─▶ step_process ──one line of JSON: run this step──▶ child ─▶ steps/
                  │           ◀──lines of JSON: figures, notes, the end──┘
                  └─▶ record: results.json, summary.txt, log.txt in the folder that --out names

Everything outside of `child` and `steps` is standard library alone: it must start on a machine whose packages are not
known yet, and must outlive whatever a step does.
"""
