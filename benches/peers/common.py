"""Shared code of the benchmarks and tools: paths, CPU affinity, the program, statistics."""

import json
import os
import platform
import re
import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
OUT = TARGET / "bench"
# Data for evaluation that is not part of the repository.
TEST_DATA = (ROOT / os.environ.get("RETINAFACE_TEST_DATA", "../shared")).resolve()
MODEL = ROOT / ".fetch/models/retinaface_mnet025.onnx"
CLIP = ROOT / ".fetch/media/WolfgangLanger_Pexels.mp4"
PROGRAM = Path(os.environ.get("RETINAFACE", TARGET / "release/retinaface"))
QUICK = os.environ.get("QUICK", "0") not in ("", "0")

ENVIRONMENT = {
    **os.environ,
    "GST_PLUGIN_PATH": f"{TARGET / 'plugins'}:{os.environ.get('GST_PLUGIN_PATH', '')}".rstrip(":"),
    "RETINAFACE_RUNTIMES": os.environ.get("RETINAFACE_RUNTIMES", str(ROOT / ".fetch")),
    "RETINAFACE_MODEL": os.environ.get("RETINAFACE_MODEL", str(MODEL)),
}


def pin_to_cores():
    """Restricts this process and its children to the first allowed cores; returns their number.

    The environment variable BENCH_CORES is the maximum; the default is 2.
    """
    cores = sorted(os.sched_getaffinity(0))[: int(os.environ.get("BENCH_CORES", "2"))]
    os.sched_setaffinity(0, cores)
    return len(cores)


def machine():
    """Hardware and operating system, without names of hosts or users."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpuinfo)
    flags = re.search(r"^flags\s*: (.*)$", cpuinfo, re.MULTILINE)
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    extensions = [name for name in ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"] if flags and name in flags[1].split()]
    return {
        "cpu": model[1] if model else platform.machine(),
        "extensions": extensions,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": release.get("PRETTY_NAME", platform.system()).strip('"'),
        "gpu": "present" if Path("/dev/nvidia0").exists() or Path("/dev/dri/renderD128").exists() else "none at hand",
    }


class Unavailable(Exception):
    """A measurement that is not possible on this machine, with the reason."""


def bench(**arguments):
    """Runs `retinaface bench` on the clip; `threads=2` is `--threads 2`. Returns the JSON object."""
    command = [str(PROGRAM), "bench", "--json", str(CLIP)]
    for name, value in arguments.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    try:
        run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    except FileNotFoundError:
        raise Unavailable("the program is not built") from None
    except subprocess.TimeoutExpired:
        raise Unavailable("timed out after 300 s") from None
    if run.returncode != 0:
        messages = [line for line in run.stderr.strip().splitlines() if line] or ["no error message"]
        raise Unavailable(messages[0])
    return json.loads(run.stdout)


def summary(values):
    """Median, minimum and maximum, to four significant digits, and the number of values."""
    rounded = [float(f"{value:.4g}") for value in (statistics.median(values), min(values), max(values))]
    return dict(zip(["median", "min", "max"], rounded), n=len(values))


def paired_ratios(numerators, denominators):
    """The ratio of each round that has both values."""
    return [a / b for a, b in zip(numerators, denominators) if a is not None and b is not None]


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write(name, content):
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / name).write_text(json.dumps(content, indent=1) + "\n")
