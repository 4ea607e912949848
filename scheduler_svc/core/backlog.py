"""Predicts how long the best-effort work that is there keeps a further request waiting. Decides nothing."""

import math

from scheduler_svc.core.state.batch import Shape
from scheduler_svc.core.state.queues import BE_DECODE, BE_PREFILL
from scheduler_svc.core.workload import Workload


def best_effort_wait_s(work: Workload) -> float:
    """Predicts after how long a further best-effort request would be begun, were there no other work, in seconds.

    Before it come the prompts that wait, in iterations that the decodes take part in; and where an iteration has no
    place left, it waits until one of those that decode has ended. The attention of decodes is left out: it is not known
    how long their texts get. Infinite while costs are not known and there is any work.
    """
    limits = work.limits
    prompts, decodes = work.ahead(BE_PREFILL), work.ahead(BE_DECODE)
    num_live = prompts.num_sequences + decodes.num_sequences
    if not work.cost_model.is_ready:
        return math.inf if num_live else 0.0
    wait_s = 0.0
    riding = min(decodes.num_sequences, limits.max_num_seqs)
    if prompts.num_sequences:
        num_tokens = max(1, min(limits.be_chunk_tokens, prompts.num_tokens))
        context = prompts.num_tokens // prompts.num_sequences
        chunk = Shape.of_chunk(num_tokens, context) + Shape(riding, 0, riding, 0)
        wait_s += prompts.num_tokens / num_tokens * work.iteration_s(chunk)
    if riding and num_live >= limits.max_num_seqs:
        num_rounds = decodes.num_tokens / decodes.num_sequences * (num_live + 1 - limits.max_num_seqs) / riding
        wait_s += num_rounds * work.iteration_s(Shape(riding, 0, riding))
    return wait_s
