"""What happens to a study when the machine fails it: `python -m tests.faults` prints a tally."""
