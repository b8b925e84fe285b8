"""How long commands take that should answer at once: the best of some starts, in processes of their own.

    python benchmarks/start.py --output benchmarks/start.json

On a busy machine the seconds of the processor say more than those of the clock.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "regroup_lib"]
# What is started, and the seconds that it may take.
STARTS: dict[str, tuple[list[str], float]] = {
    "python": ([sys.executable, "-c", "pass"], 0.1),
    "regroup --help": ([*COMMAND, "--help"], 0.5),
    "regroup data list": ([*COMMAND, "data", "list"], 1.0),
    "import RegroupClassifier": ([sys.executable, "-c", "import regroup_lib as rg; rg.RegroupClassifier"], 2.0),
    "regroup results": ([*COMMAND, "results"], 2.0),
    "regroup results check": ([*COMMAND, "results", "check"], 30.0),
}


def started(command: list[str]) -> dict[str, float]:
    """Run a command and return its seconds on the clock and of the processor, and its peak memory."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)  # it is not waited for again
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")
    scale = 1024**2 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "processor": usage.ru_utime + usage.ru_stime, "megabytes": usage.ru_maxrss / scale}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=3, help="starts of each; the check of all records is run once")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    found = {}
    print(f"{'':26}{'seconds':>9}{'processor':>11}{'MB':>7}{'goal':>7}{'to python':>11}")
    for name, (command, goal) in STARTS.items():
        times = 1 if "check" in name else arguments.times
        best = min((started(command) for _ in range(times)), key=lambda result: result["processor"])
        found[name] = best | {"goal": goal}
        ratio = best["processor"] / found["python"]["processor"]
        row = f"{best['seconds']:9.2f}{best['processor']:11.2f}{best['megabytes']:7.0f}{goal:7.1f}{ratio:11.0f}"
        print(f"{name:26}{row}", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
