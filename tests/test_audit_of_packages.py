"""What `./run_tests.sh --full` makes of pip-audit's list."""

import pytest

from tests.audit import verdict

SOUND = {"name": "a", "version": "1", "vulns": []}
FAULTY = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize("dependencies, last, well", [
    ([SOUND, SOUND, UNKNOWN], "pip-audit: 2 of 3 packages were looked up, 0 known faults", True),
    ([SOUND, FAULTY], "pip-audit: 2 of 2 packages were looked up, 1 known faults", False),
    ([SOUND, UNKNOWN, UNKNOWN], "pip-audit: 1 of 3 packages were looked up, 0 known faults: too few to say anything; "
                                "is its database in reach?", False)])
def test_an_audit_that_looked_nothing_up_is_none(dependencies, last, well):
    lines, found = verdict(dependencies)
    assert (lines[-1], found) == (last, well)
    assert lines[:-1] == (["b 2: CVE-1, mended in 3"] if FAULTY in dependencies else [])
