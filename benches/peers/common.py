"""What the parts of the bench share: where things are, the cores, our program, ratios of pairs."""

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


def pin():
    """Keeps this process, and those it starts, on the first cores allowed: at most `BENCH_CORES`, by default 2."""
    cores = sorted(os.sched_getaffinity(0))[: int(os.environ.get("BENCH_CORES", "2"))]
    os.sched_setaffinity(0, cores)
    return len(cores)


def machine():
    """What the figures come from; no names of hosts or people."""
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
        "gpu": "one there" if Path("/dev/nvidia0").exists() or Path("/dev/dri/renderD128").exists() else "none at hand",
    }


class Missing(Exception):
    """What was to be measured cannot run here; says why."""


def ours(**arguments):
    """One `retinaface bench` of the clip: its JSON object. `threads=2` becomes `--threads 2`."""
    command = [str(PROGRAM), "bench", "--json", str(CLIP)]
    for name, value in arguments.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    try:
        run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    except FileNotFoundError:
        raise Missing("the program is not built") from None
    except subprocess.TimeoutExpired:
        raise Missing("did not end within 300 s") from None
    if run.returncode != 0:
        words = [line for line in run.stderr.strip().splitlines() if line] or ["no word of why"]
        raise Missing(words[0])
    return json.loads(run.stdout)


def spread(values):
    """Median, least and most of the values, each to four figures."""
    rounded = [float(f"{value:.4g}") for value in (statistics.median(values), min(values), max(values))]
    return dict(zip(["median", "least", "most"], rounded), n=len(values))


def pairs(over, under):
    """Of each round that has both: one over the other."""
    return [a / b for a, b in zip(over, under) if a is not None and b is not None]


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write(name, content):
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / name).write_text(json.dumps(content, indent=1) + "\n")
