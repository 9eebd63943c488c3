#!/usr/bin/env python3
"""Prints the line coverage of the tests, one file per line.

    scripts/coverage.py COV TESTS.json PROFILES

COV is the program `cov` of the crate llvm_profparser. TESTS.json is the output of
`cargo test --no-run --message-format=json`. PROFILES is the directory of the .profraw files that the
tests wrote.
"""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

cov, tests, profiles = sys.argv[1:]
root = Path(__file__).resolve().parents[1]

objects = set()
for line in Path(tests).read_text().splitlines():
    message = json.loads(line) if line.startswith("{") else {}
    if message.get("reason") != "compiler-artifact" or "build-script" in "".join(message["target"]["kind"]):
        continue
    if str(root) in message["manifest_path"]:
        objects.update(filter(None, [message.get("executable")]))
        objects.update(name for name in message["filenames"] if name.endswith(".so"))

command = [cov, "show"]
for profile in sorted(Path(profiles).glob("*.profraw")):
    # A process that was killed leaves an empty file.
    if profile.stat().st_size:
        command += ["--instr-profile", str(profile)]
for name in sorted(objects):
    # `cov` fails on objects without coverage data.
    if b"__llvm_covfun" in Path(name).read_bytes():
        command += ["--object", name]
shown = subprocess.run(command, capture_output=True, text=True)
if shown.returncode:
    sys.exit(f"{cov} failed: {shown.stderr.splitlines()[:1]}")

counted = defaultdict(lambda: [0, 0])
file, in_tests, attribute = None, False, ""
for line in shown.stdout.splitlines():
    marked = re.match(r" *\d+\| *(\d*)\|(.*)", line)
    if not marked:
        path = Path(line)
        file = path.relative_to(root) if line and path.is_relative_to(root) else None
        in_tests = file is not None and (
            not {"tests", "benches", "examples"}.isdisjoint(file.parts) or file.name in ("tests.rs", "kernel_tests.rs")
        )
        attribute = ""
        continue
    hits, source = marked.groups()
    # Unit tests are at the end of a file; they are not counted.
    in_tests = in_tests or (attribute == "#[cfg(test)]" and source.strip() == "mod tests {")
    attribute = source.strip()
    if file and hits and not in_tests:
        counted[file][0] += int(hits) > 0
        counted[file][1] += 1

parts = defaultdict(lambda: [0, 0])
for file, (ran, lines) in sorted(counted.items()):
    print(f"{ran / lines:7.1%}  {ran:4} of {lines:4}  {file}")
    part = {"plugins": "elements", "crates": file.parts[1]}.get(file.parts[0], "core")
    parts[part][0] += ran
    parts[part][1] += lines
for part, (ran, lines) in sorted(parts.items()):
    print(f"coverage of {part}: {ran / lines:.1%} of {lines} lines")
