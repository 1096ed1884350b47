"""How the numbers of a study came about: facts of its runs, for the report."""

import json
from collections import Counter
from datetime import datetime

from xbuslib.config import PROFILES
from xbuslib.data import catalogue
from xbuslib.models import registry
from xbuslib.runs import caveats
from xbuslib.runs.study import Study


def facts(study: Study, records: list[dict]) -> list[tuple[str, str]]:
    """Pairs of name and text on all runs together. `records` are the run.json of every run of the study."""
    config, first = study.facts["config"], study.facts
    dates = sorted(record["created"] for record in records)
    records = caveats.trained(records) or records
    minutes = sum(record["seconds"]["total"] for record in records) / 60
    return [
        ("Dataset", f"{catalogue.label(first['dataset'])}, {len(study.cases)} validated images, "
                    f"fingerprint {first['dataset_fingerprint'][:12]}"),
        ("Profile", f"{config['profile']}, recipe {config['recipe']}, {config['image_size']} × {config['image_size']} "
                    f"pixels, {_several(r['plan'].get('iterations', '–') for r in records)} iterations, "
                    f"batch {_several(r['plan'].get('batch_size', '–') for r in records)}"),
        ("Changed settings", _changed(config)),
        ("Prompt policy of the tables", _policies(records)),
        ("Weights of encoders", f"{study.encoders} (requested: {config['weights']})"),
        ("Folds", f"{_several(study.runs['fold'])}, of {config['folds']}; fold list {first['folds_checksum']}"),
        ("Seeds", _several(study.runs["seed"])),
        ("Code", _commits(records)),
        ("Precision", _several(record["precision"] for record in records)),
        ("Hardware", _several(record["device"] for record in records)),
        ("Software", "; ".join(Counter(_software(record) for record in records))),
        ("Training and scoring", f"{minutes:,.1f} minutes in {len(records)} runs, "
                                 f"{_day(dates[0])} to {_day(dates[-1])}"),
    ]


def systems(study: Study, records: list[dict]) -> list[dict]:
    """One row per system: runs, minutes, parameters, precision, hardware and memory."""
    rows = []
    for system in study.systems:
        own = [record for record in records if record["system"] == system]
        minutes = [record["seconds"]["total"] / 60 for record in own]
        rows.append({
            "system": own[0]["paper_name"], "registry name": system, "runs": len(own),
            "minutes": f"{sum(minutes):.1f}", "minutes per run": f"{sum(minutes) / len(minutes):.1f}",
            "trained parameters": f"{own[0]['trainable'] or 0:,}",
            "frozen parameters": f"{own[0]['frozen'] or 0:,}",
            "encoders": registry.encoder_label(own[0]["weights"]) or "none",
            "precision": _several(record["precision"] for record in own),
            "hardware": _several(record["device"] for record in own),
            "peak memory (GB)": f"{max(record['peak_memory_gb'] for record in own):.1f}"})
        if system in study.adopted:
            rows[-1] |= dict.fromkeys(["minutes", "minutes per run", "trained parameters", "frozen parameters",
                                       "encoders", "precision", "peak memory (GB)"], "unknown") | {
                "hardware": "elsewhere: adopted predictions"}
    return rows


def not_run(study: Study, executed: dict) -> list[str]:
    """Notebooks that belong to the study and have not been executed."""
    settings = _settings(study)
    return [name for name in [*settings.get("notebooks", []), *settings.get("analyses", [])] if name not in executed]


def _changed(config: dict) -> str:
    """The settings that differ from those of the profile."""
    usual = PROFILES[config["profile"]].model_dump()
    return ", ".join(f"{key}={value}" for key, value in config.items() if value != usual.get(key)) or "none"


def _settings(study: Study) -> dict:
    """study.json; empty where the runs were made one by one."""
    path = study.folder / "study.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _policies(records: list[dict]) -> str:
    by_policy: dict[str, set[str]] = {}
    for record in records:
        policy, attributes = record["scorings"][0]
        label = "no prompt" if (policy, attributes) == ("none", "none") else f"{policy} with attributes {attributes}"
        by_policy.setdefault(label, set()).add(record["system"])
    order = registry.names()
    return "; ".join(f"{label} ({', '.join(sorted(names, key=lambda n: order.index(n) if n in order else len(order)))})"
                     for label, names in by_policy.items())


def _commits(records: list[dict]) -> str:
    count = Counter(((record["commit"] or "none")[:8], record["dirty"]) for record in records)
    return "; ".join(f"commit {commit}{' with local changes' if dirty else ''}: {n} run{'s' * (n > 1)}"
                     for (commit, dirty), n in count.items())


def _software(record: dict) -> str:
    return f"Python {record['python']}, " + ", ".join(f"{name} {v}" for name, v in record["versions"].items())


def _several(values) -> str:
    return ", ".join(map(str, sorted(set(values))))


def _day(moment: str) -> str:
    return datetime.fromisoformat(moment).strftime("%Y-%m-%d %H:%M")
