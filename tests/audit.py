"""python -m tests.audit: known faults of the installed packages, by pip-audit; what could not be looked up is counted.

`./run_tests.sh --full` calls this. pip-audit alone ends well though its database knew none of the packages.
"""

import json
import subprocess
import sys


def verdict(dependencies: list[dict]) -> tuple[list[str], bool]:
    """What to print, and whether all is well: no known fault, and at least half of the packages were looked up."""
    known = [row for row in dependencies if "skip_reason" not in row]
    faults = [f"{row['name']} {row['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none'}"
              for row in known for fault in row["vulns"]]
    count = f"pip-audit: {len(known)} of {len(dependencies)} packages were looked up, {len(faults)} known faults"
    enough = len(known) >= len(dependencies) / 2
    return [*faults, count + ("" if enough else ": too few to say anything; is its database in reach?")], \
        enough and not faults


def main() -> None:
    command = [sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        lines, well = verdict(json.loads(done.stdout)["dependencies"])
    except ValueError:
        sys.exit(f"pip-audit gave no result: {done.stderr.strip()[-1000:]}")
    print("\n".join(lines))
    sys.exit(not well)


if __name__ == "__main__":
    main()
