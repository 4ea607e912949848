"""Runs a tiny random model of every family through the worker, stopped at every unit, and writes docs/families.md.

    python -m scripts.model_table                     # all families; prints as it goes, writes docs/families.md
    python -m scripts.model_table qwen3_next jamba    # these only; writes nothing

Two best-effort sequences are prefilled in chunks over scattered blocks and decoded; at every expert and layer they
stop, another sequence runs a whole iteration in between at random, and a stopped one is moved to host memory and back.
The tokens of all three must be those of transformers' `generate`.
"""

import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from textwrap import fill

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from gpu_worker.errors import ModelRefused
from gpu_worker.model.loader import LoadedModel, adopt_model
from gpu_worker.model.sequencewise import SingleSequence
from tests.support.models.families import generated, mixture_families, multimodal_families, random_model
from tests.support.worker.worker_driver import Driver, Story, random_prompts

_TABLE = Path("docs/families.md")
_PROMPTS = random_prompts((5, 43, 21))  # longer than the window and the indexer's choice of the tiny models
_NUM_TOKENS = 10
_CHUNK = 9
_MAX_MODEL_LEN = 512
_PROSE_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one family.

    Attributes:
        family: Model type.
        outcome: works, refused, differs, or untested where transformers itself makes no tiny model of it.
        note: What its layers keep, or why not.
    """

    family: str
    outcome: str
    note: str


def judge(family: str) -> Verdict:
    """Compares what the worker generates with what transformers does."""
    try:
        model = random_model(family)
        expected = generated(family, _PROMPTS, _NUM_TOKENS)
    except Exception as error:  # whatever stops transformers from running a tiny model of it
        return Verdict(family, "untested", f"{type(error).__name__}: {' '.join(str(error).split())}"[:160])
    try:
        with torch.inference_mode():
            loaded = adopt_model(model, name=family, max_model_len=_MAX_MODEL_LEN)
            actual = _preempted(loaded)
    except ModelRefused as refusal:
        return Verdict(family, "refused", " ".join(str(refusal).split()))
    if actual == expected:
        return Verdict(family, "works", _kept(loaded))
    # An indexer that scores rows equally chooses among them by how a prompt is divided: then the
    # same chunks are to be compared.
    if actual == generated(family, _PROMPTS, _NUM_TOKENS, chunk=_CHUNK):
        return Verdict(family, "works", _kept(loaded) + ", equal to `generate` with the same chunks")
    return Verdict(family, "differs", _kept(loaded))


def _preempted(loaded: LoadedModel) -> tuple[tuple[int, ...], ...]:
    """Tokens of three sequences, of which two are stopped at every unit and the third goes first at random."""
    rng = Random(1)
    driver = Driver(loaded, rng=rng, num_blocks=128)
    *patient, urgent = (driver.add(prompt, _NUM_TOKENS) for prompt in _PROMPTS)
    while live := [story for story in patient if not story.is_over]:
        batch_id = driver.start(*live, chunk=_CHUNK)
        cursor = driver.cursor(batch_id)
        while cursor < driver.end:
            cursor = driver.next_cursor(cursor)
            _raise_errors(driver.advance(batch_id, until=cursor).batch_errors)
            if batch_id in driver.batches:
                cursor = driver.cursor(batch_id)
                _interrupt(driver, rng, urgent, live[0])
    driver.finish(urgent, chunk=_CHUNK)
    tokens = tuple(story.token_ids for story in (*patient, urgent))
    driver.check_nothing_left()
    return tokens


def _interrupt(driver: Driver, rng: Random, urgent: Story, stopped: Story) -> None:
    """Between two units of a batch: now and then another's iteration, or a stopped sequence moved away and back."""
    if rng.random() < 0.1 and not urgent.is_over:
        _raise_errors(driver.advance(driver.start(urgent, chunk=_CHUNK)).batch_errors)
    if rng.random() < 0.1:
        driver.offload(stopped)
        driver.restore(stopped)


def _raise_errors(errors: Sequence[object]) -> None:
    if errors:
        raise RuntimeError(str(errors))


def _kept(loaded: LoadedModel) -> str:
    """What its layers keep of a sequence, in words."""
    forwards = [module.forward for module in loaded.model.modules()]
    single = [forward for forward in forwards if isinstance(forward, SingleSequence)]
    kept = ["latent K/V" if loaded.latent_layers else "K/V"]
    if single:
        kept.append(f"state in {len(single)} modules of {loaded.facts.num_layers} layers")
    if any(module.goes_on_token_by_token for module in single):
        kept.append("prompts go on token by token")
    if not any(loaded.facts.experts_by_layer):
        kept.append("no mixture: stops at layers")
    return ", ".join(kept)


def write_table(mixtures: Sequence[Verdict], dense: Sequence[Verdict]) -> None:
    """Writes docs/families.md."""
    counts = Counter(verdict.outcome for verdict in mixtures)
    rows = "\n".join(f"| {verdict.family} | {verdict.outcome} | {verdict.note} |" for verdict in mixtures)
    named = {
        outcome: [v for v in dense if v.outcome == outcome] for outcome in ("works", "differs", "refused", "untested")
    }
    names = {outcome: [v.family for v in verdicts] for outcome, verdicts in named.items()}
    refused = "\n".join(f"| {verdict.family} | {verdict.note} |" for verdict in named["refused"])
    _TABLE.write_text(
        f"""# Model families

Written by `python -m scripts.model_table` with transformers {transformers.__version__}:
a tiny random model of each family runs through the worker, stopped at every expert and layer, with
chunked prompts, scattered blocks, another sequence in between and moves to host memory. Its tokens
must be those of `generate`.

## Mixtures of experts

Text families whose experts are behind transformers' interface:
**{counts["works"]} work, {counts["refused"]} are refused, {counts["differs"]} differ**, {counts["untested"]} untested.

| family | outcome | what its layers keep, or why not |
|---|---|---|
{rows}

{_wrapped("Multimodal only, refused because transformers has no causal language model of them", multimodal_families())}

## Dense

Served too, and stopped at layers: {len(named["works"])} families work.

{_wrapped("Work", names["works"])}

{_wrapped("Differ", names["differs"])} transformers itself gives moshi's window to its attention and
not to its mask, and sdpa looks at the mask only.

{_wrapped("Untested, because the script's table of sizes makes no tiny model of them", names["untested"])}

Refused:

| family | why |
|---|---|
{refused}
"""
    )


def _wrapped(what: str, families: Sequence[str]) -> str:
    """Returns a list of families as a paragraph of the documentation's width."""
    return fill(f"{what}: {', '.join(families) or 'none'}.", _PROSE_WIDTH, break_on_hyphens=False)


def main() -> None:
    """Judges the families named, or all."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    mixtures = mixture_families()
    families = sys.argv[1:] or [*mixtures, *sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(mixtures))]
    verdicts = {}
    for number, family in enumerate(families, 1):
        verdicts[family] = verdict = judge(family)
        print(f"{number}/{len(families)} {family}: {verdict.outcome}; {verdict.note}", flush=True)
    if not sys.argv[1:]:
        write_table([verdicts[f] for f in mixtures], [v for f, v in verdicts.items() if f not in set(mixtures)])
        print(f"written: {_TABLE}")


if __name__ == "__main__":
    main()
