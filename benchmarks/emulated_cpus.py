"""Do the notebooks print the same on other CPUs? Runs them under the emulations that their libraries offer.

    python benchmarks/emulated_cpus.py                    all notebooks, all settings; writes data/results/
    python benchmarks/emulated_cpus.py -k avx2 FILE...    some

Emulated are the instruction sets of torch (ATen, MKL, oneDNN), of NumPy and of OpenBLAS, and two threads
instead of one. This is one machine pretending to be others, not other machines. Every stored output is
compared except PNG, whose SVG stands beside it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.run_notebooks import ONE_THREAD, find_notebooks, missing_data, name_of, run  # noqa: E402

RESULTS = ROOT / "data" / "results"
THREADS = dict.fromkeys(ONE_THREAD, "2")


def numpy_features() -> str:
    """The CPU features that NumPy dispatches on and this CPU has: what can be switched off."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    return " ".join(name for name in __cpu_dispatch__ if __cpu_features__.get(name))


def settings() -> dict[str, dict[str, str]]:
    """Name and environment variables of each setting."""
    found = {
        "this CPU, one thread": {},
        "torch without vector code": {"ATEN_CPU_CAPABILITY": "default"},
        "torch with AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
        "MKL compatible": {"MKL_CBWR": "COMPATIBLE"},
        "MKL with AVX2": {"MKL_CBWR": "AVX2"},
        "oneDNN with SSE 4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
        "oneDNN with AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        "OpenBLAS for Haswell": {"OPENBLAS_CORETYPE": "Haswell"},
        "OpenBLAS for Nehalem": {"OPENBLAS_CORETYPE": "Nehalem"},
        "two threads": THREADS,
        "two OpenBLAS threads": {"OPENBLAS_NUM_THREADS": "2"},
    }
    if numpy_features():
        found["NumPy's baseline"] = {"NPY_DISABLE_CPU_FEATURES": numpy_features()}
    oldest = ("torch without vector code", "MKL compatible", "oneDNN with SSE 4.1", "OpenBLAS for Nehalem")
    old = {k: v for name in (*oldest, "NumPy's baseline") for k, v in found.get(name, {}).items()}
    found["an old CPU, all of these"] = old
    found["an old CPU, two threads"] = {**old, **THREADS}
    return found


def run_under(setting: dict[str, str], path: Path) -> dict[str, str | float | list[str]]:
    """One notebook in a process of its own, for the libraries read these variables when they are loaded."""
    variables = {**os.environ, **dict.fromkeys(ONE_THREAD, "1"), **setting}
    variables.pop("MPLBACKEND", None)
    command = [sys.executable, __file__, "--one", str(path)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode:
        return {"state": "failed", "seconds": 0.0, "detail": done.stderr.strip().splitlines()[-3:]}
    return json.loads(done.stdout.splitlines()[-1])


def summary(rows: list[dict[str, str | float]], used: dict[str, dict[str, str]], skipped: list[str]) -> str:
    """The result as a page."""
    lines = [
        "# The notebooks under emulated CPUs",
        "",
        "Written by `python benchmarks/emulated_cpus.py`; its rows are in `emulated-cpus.csv`.",
        f"One machine ({platform.machine()}, {os.cpu_count()} virtual cores) pretends to be",
        "others; these are not other machines.",
        "Compared with the stored outputs: text, tables, SVG; not PNG, whose SVG stands beside it.",
        "",
        ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "pandas", "scikit-learn", "scipy"))
        + f", Python {platform.python_version()}.",
        "",
        "| Setting | Variables | Notebooks with the stored outputs | Others |",
        "|:--|:--|--:|:--|",
    ]
    for name, variables in used.items():
        mine = [row for row in rows if row["setting"] == name]
        same = [row for row in mine if row["state"] == "same"]
        others = ", ".join(f"{row['notebook']} ({row['state']})" for row in mine if row["state"] != "same")
        shown = " ".join(f"`{key}={value}`" for key, value in variables.items())
        lines.append(f"| {name} | {shown} | {len(same)} of {len(mine)} | {others} |")
    if skipped:
        lines += ["", f"Not run, their data were missing: {', '.join(skipped)}."]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "notebooks", nargs="*", type=Path, help="default: all in chapters/; results are written"
    )
    parser.add_argument("-k", default="", help="only settings whose name holds this")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="notebooks at a time")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        result = run(options.one, check=True, pixels_matter=False)
        print(
            json.dumps({"state": result.state, "seconds": round(result.seconds, 1), "detail": result.detail})
        )
        return 0
    notebooks = options.notebooks or find_notebooks()
    skipped = [name_of(path) for path in notebooks if missing_data(path)]
    runnable = [path for path in notebooks if name_of(path) not in skipped]
    used = {name: variables for name, variables in settings().items() if options.k.lower() in name.lower()}
    rows = []
    for name, variables in used.items():
        with ThreadPoolExecutor(options.jobs) as pool:
            results = list(pool.map(run_under, [variables] * len(runnable), runnable))
        for path, result in zip(runnable, results, strict=True):
            detail = result.pop("detail")
            rows.append({"setting": name, "notebook": name_of(path), **result})
            print(f"{name:28} {result['state']:>8} {result['seconds']:6.1f} s  {name_of(path)}", flush=True)
            print("".join(f"      {line}\n" for line in detail), end="")
    if not options.notebooks and not options.k:
        RESULTS.mkdir(parents=True, exist_ok=True)
        with open(RESULTS / "emulated-cpus.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["setting", "notebook", "state", "seconds"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        (RESULTS / "emulated-cpus.md").write_text(summary(rows, used, skipped), "utf-8")
    return int(any(row["state"] != "same" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
