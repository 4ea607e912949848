"""lm-evaluation-harness gives a served model the scores that it gives it through transformers.

It runs a task of multiple choice, by log-likelihoods, and one of generation, both by its `local-completions` and by its
own `hf` backend, and compares the scores, the log-likelihood of every choice and every text. Nothing is downloaded: the
tasks lie beside this file.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OPENAI_API_KEY": "none"}

from importlib.metadata import version

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

TASKS = Path(__file__).parent / "lm_eval_tasks"
NAMES = ["qllm_choice", "qllm_until"]
TOLERANCE = 1e-3  # of a log-likelihood, which is a sum over tokens


def main() -> int:
    """Runs both; returns the exit code."""
    url, directory, name = os.environ["QLLM_HTTP"], os.environ["QLLM_MODEL_DIR"], os.environ["QLLM_MODEL"]
    os.chdir(TASKS)  # where the tasks look for their data
    served = evaluated(
        "local-completions",
        {
            "model": name,
            "base_url": f"{url}/completions",
            "tokenizer": directory,
            "tokenized_requests": True,
            "num_concurrent": 4,
            "max_length": 2048,
            "add_bos_token": True,
        },
    )
    own = evaluated("hf", {"pretrained": directory, "dtype": "float32", "device": "cpu", "add_bos_token": True})
    print(f"lm-eval {version('lm-eval')}, transformers {version('transformers')}")
    return 1 if [*scores_that_differ(served, own), *answers_that_differ(served, own)] else 0


def evaluated(model: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns what the harness finds."""
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    found = simple_evaluate(
        model=model, model_args=arguments, tasks=NAMES, task_manager=manager, batch_size=4, log_samples=True
    )
    return dict(found)


def scores_that_differ(served: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """Prints the scores side by side; returns those that differ."""
    different = []
    for task in NAMES:
        for metric, value in own["results"][task].items():
            if not isinstance(value, float) or "stderr" in metric:
                continue
            mine = served["results"][task][metric]
            print(f"{task:12} {metric:18} served {mine:.4f}   hf {value:.4f}")
            if mine != value:
                different.append(f"{task} {metric}")
    return different


def answers_that_differ(served: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """Compares answer by answer; prints and returns those that differ."""
    different, worst, num_answers = [], 0.0, 0
    for task in NAMES:
        pairs = zip(served["samples"][task], own["samples"][task], strict=True)
        for mine, theirs in pairs:
            for one, other in zip(mine["filtered_resps"], theirs["filtered_resps"], strict=True):
                num_answers += 1
                if isinstance(one, str):
                    is_same = one == other
                else:
                    (likelihood, is_greedy), (their_likelihood, their_greedy) = one, other
                    error = abs(likelihood - their_likelihood)
                    worst = max(worst, error)
                    is_same = error <= TOLERANCE and bool(is_greedy) == bool(their_greedy)
                if not is_same:
                    different.append(f"{task} document {mine['doc_id']}: served {one!r}, hf {other!r}")
    print(f"{num_answers} answers compared, largest difference of a log-likelihood {worst:.1e}")
    print(*different, sep="\n")
    return different


if __name__ == "__main__":
    sys.exit(main())
