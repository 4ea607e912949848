"""`python -m scripts.gpu_proof`: what is proven, for how long, and where the results go. Standard library alone."""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from scripts.gpu_proof.packages import ROOT, Need, download_command, needs, unpack_wheels
from scripts.gpu_proof.plan import PLANNED_MINUTES, STEP_NAMES, STEPS, Boxes
from scripts.gpu_proof.proof import Interrupted, Proof, environment_of_steps
from scripts.gpu_proof.record import Record
from scripts.gpu_proof.step_process import end_leftovers

_GEOMETRIES = ("auto", "mixtral-8x7b", "mixtral-8x1b", "tiny")
_FAULTS = ("crash", "hang")
_REFUSED = 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    steps = "\n".join(
        f"  {step.name:12} {f'{step.seconds:.0f} s' if step.seconds else 'the rest':9} {step.what}" for step in STEPS
    )
    result = argparse.ArgumentParser(
        prog="python -m scripts.gpu_proof",
        description="Proves the GPU path, the most valuable facts first. Each step has a time box and a process of its "
        "own; results.json, summary.txt and log.txt are written after every figure, so that a cut-off loses nothing.",
        epilog=f"steps, with their boxes in a proof of {PLANNED_MINUTES:.0f} minutes:\n{steps}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--minutes", type=float, default=PLANNED_MINUTES, help="Time of the whole proof; boxes are scaled to it.")
    add("--out", type=Path, required=True, metavar="DIR", help="Folder for the results; made if it is not there.")
    add("--only", action="append", choices=STEP_NAMES, default=[], help="Run this step; may be repeated.")
    add("--skip", action="append", choices=STEP_NAMES, default=[], help="Leave this step out; may be repeated.")
    add("--box", action="append", default=[], metavar="STEP=SECONDS", help="Time box of a step; may be repeated.")
    add("--wheels", type=Path, metavar="DIR", help="Folder of wheels, which come before what is installed.")
    add(
        "--geometry",
        choices=_GEOMETRIES,
        default="auto",
        help="Shape of the large model; auto takes what memory holds.",
    )
    add(
        "--device",
        choices=("auto", "cuda", "cpu"),
        help="Where models run (default: cuda; in a rehearsal, where one can).",
    )
    add(
        "--rehearse",
        action="store_true",
        help="The tiny geometry and few repetitions: shows that the proof itself works.",
    )
    add(
        "--fault",
        action="append",
        default=[],
        metavar="STEP=crash|hang",
        help="Have a step crash or hang, in a rehearsal.",
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a proof; returns 0 if all steps passed, 1 if not, 2 if it was asked for nonsense, 128 + n after signal n."""
    began_s = time.monotonic()
    arguments = parser().parse_args(argv)
    try:
        boxes = Boxes(_number("--minutes", arguments.minutes), _boxes(arguments.box))
        faults = _pairs("--fault", arguments.fault, _FAULTS)
    except ValueError as refusal:
        print(f"gpu_proof: {refusal}", file=sys.stderr)
        return _REFUSED
    chosen = frozenset(arguments.only or STEP_NAMES) - frozenset(arguments.skip)
    with tempfile.TemporaryDirectory(prefix="gpu-proof-") as temporary:
        site = Path(temporary) / "site"
        complaints = unpack_wheels(arguments.wheels, site) if arguments.wheels else []
        unmet = [need for need in needs([str(site), *sys.path]) if not need.is_met]
        facts = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "minutes": arguments.minutes,
            "python": sys.version.split()[0],
            "commit": _commit(),
            "missing": [*complaints, *map(str, unmet)],
        }
        record = Record(arguments.out, facts, STEP_NAMES)
        _say_what_is_missing(unmet, complaints)
        record.state(packages_checked_s=round(time.monotonic() - began_s, 2))
        settings = {
            "out": str(arguments.out.resolve()),
            "device": arguments.device or ("auto" if arguments.rehearse else "cuda"),
            "geometry": "tiny" if arguments.rehearse and arguments.geometry == "auto" else arguments.geometry,
            "rehearse": arguments.rehearse,
        }
        environment = environment_of_steps(ROOT, site)
        proof = Proof(STEPS, chosen, boxes, settings, faults, environment, ROOT, record, began_s)
        _raise_on_signals()
        end_leftovers()
        code = 1
        try:
            proof.run()
            code = 0 if proof.has_passed else 1
        except Interrupted as interruption:
            code = 128 + interruption.number
        print(f"\n{record.summary()}", flush=True)
        record.log.close()
        return code


def _say_what_is_missing(unmet: Sequence[Need], complaints: Sequence[str]) -> None:
    for complaint in complaints:
        print(complaint, flush=True)
    for need in unmet:
        print(f"package {need}", flush=True)
    if unmet:
        print("Steps that need one of these fail. Where a package index can be reached, fetch wheels:", flush=True)
        print(f"    {download_command(unmet)}", flush=True)
        print("carry the folder to this machine, and add: --wheels wheels", flush=True)


def _raise_on_signals() -> None:
    def interrupt(number: int, _: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)  # a second one must not cut short what the first one ends
        raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def _number(name: str, value: float) -> float:
    if not 0.05 <= value <= 600:
        raise ValueError(f"{name}: got {value:g}, allowed is 0.05 to 600")
    return value


def _boxes(pairs: Sequence[str]) -> dict[str, float]:
    boxes = {}
    for name, value in _pairs("--box", pairs).items():
        try:
            boxes[name] = float(value)
        except ValueError:
            boxes[name] = 0.0
        if not 0 < boxes[name] <= 36_000:
            raise ValueError(f"--box: got {name}={value}, allowed is {name}=SECONDS, above 0, at most 36000")
    return boxes


def _pairs(option: str, pairs: Sequence[str], values: Sequence[str] = ()) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if name not in STEP_NAMES or not separator or (values and value not in values):
            allowed = f"one of {', '.join(STEP_NAMES)}, then =, then {' or '.join(values) or 'a number'}"
            raise ValueError(f"{option}: got {pair}, allowed is {allowed}")
        found[name] = value
    return found


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
