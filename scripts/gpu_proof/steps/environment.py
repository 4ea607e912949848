"""What the machine is, and which of the kernels that the worker prefers it has."""

import os
import shutil
import subprocess
import time

import torch
import transformers

from scripts.engine.bandwidth import read_bandwidth
from scripts.gpu_proof.child import StepFailed, Task


def run(task: Task) -> None:
    """Reports versions, memory and kernels, and how fast memory is read."""
    report = task.report
    report.figure("versions", torch=torch.__version__, transformers=transformers.__version__)
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    report.figure("host", cores=len(os.sched_getaffinity(0)), memory_gib=memory_gib)
    report.figure("kernels", varlen_attn=_has_varlen(), grouped_mm=hasattr(torch.nn.functional, "grouped_mm"))
    if not torch.cuda.is_available():
        if task.device == "cuda":
            raise StepFailed(
                f"torch {torch.__version__} sees no CUDA device (it is built for CUDA {torch.version.cuda})"
            )
        report.note("no CUDA device: every step runs on the CPU")
        return
    began_s = time.perf_counter()
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    first_use_s = time.perf_counter() - began_s
    report.figure(
        "device",
        name=torch.cuda.get_device_name(),
        capability=".".join(map(str, torch.cuda.get_device_capability())),
        free_gib=free_bytes / 2**30,
        total_gib=total_bytes / 2**30,
        cuda=torch.version.cuda,
        first_use_s=first_use_s,
    )
    report.figure("memory", read_gb_per_s=read_bandwidth("cuda") / 1e9)
    report.figure("driver", version=_driver())


def _has_varlen() -> bool:
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return False
    return True


def _driver() -> str:
    """The driver's version, by nvidia-smi; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=5).stdout.strip()
    except subprocess.TimeoutExpired:
        return ""
