"""Rows as JSON or as a table in a terminal."""

import json
import sys


def show(rows: list[dict], as_json: bool, title: str) -> None:
    """Print rows as JSON, or as a table with a title."""
    if as_json:
        known = [{key: None if value != value else value for key, value in row.items()} for row in rows]  # no NaN there
        print(json.dumps(known, indent=1, ensure_ascii=False, allow_nan=False))
        return
    if not rows:
        print(f"{title}: none")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    Console(width=None if sys.stdout.isatty() else 140).print(table)  # a log has no width of its own


def _cell(value) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if isinstance(value, float) else str(value)
