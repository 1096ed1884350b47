"""`xbuslib publish`: one run, or all runs of a system, as a folder that travels: weights, settings and a model card.

The folder is a run folder without the study's images and scores: `xbuslib predict --run` and `--start-from` take it as
it is, here or from the Hugging Face Hub (runs/published.py).
"""

import json
import shutil
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from xbuslib.data import catalogue
from xbuslib.errors import StudyError
from xbuslib.evaluation.aggregation import over_folds
from xbuslib.evaluation.metrics import PAPER, RELEASED
from xbuslib.files import write_folder
from xbuslib.models import registry
from xbuslib.models.weights import sha256
from xbuslib.runs import caveats, record
from xbuslib.runs.ancestors import SEEN
from xbuslib.runs.published import PATTERNS, RUN_FILES, SUMS

CARD = Environment(loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True,  # Markdown  # nosec B701
                   lstrip_blocks=True, undefined=StrictUndefined)
LICENCE = "mit"  # of the weights, as of the project
POLICIES = {
    "first_pass": "size and location by the model's own first pass, no mask", "none": "neither size nor location",
    "paper": "size from the reference mask, location from the first pass", "reference": "size and location from the "
    "reference mask",
}
KNOWN = ("paper", "reference")  # policies that read the reference mask, which nobody has of a new image


def publish(folders: list[Path], out: Path) -> Path:
    """Write the runs in `folders`, all of one system, into `out`, in place of an earlier publication; returns it.

    One run lies at the top, several in fold_<k>/seed_<s>. Raises StudyError if a run is not complete, or has no
    weights of its own.
    """
    runs = [record.read(folder) for folder in folders]
    for folder in folders:
        if lacking := [name for name in RUN_FILES if not (folder / name).is_file()]:
            raise StudyError(f"{folder} cannot be published: it lacks {', '.join(lacking)}. Only runs that were "
                             "trained by this version of the library can; run the fold again.")
    with write_folder(out, SUMS, PATTERNS) as partial:
        for folder, run in zip(folders, runs, strict=True):
            place = partial if len(runs) == 1 else partial / f"fold_{run['fold']}" / f"seed_{run['seed']}"
            place.mkdir(parents=True, exist_ok=True)
            for name in RUN_FILES:
                shutil.copyfile(folder / name, place / name)
            seen = pd.read_csv(folder / SEEN, dtype=str)  # file names may name patients; the guard needs the hashes
            seen.assign(case_id=[f"image {n + 1}" for n in range(len(seen))]).to_csv(place / SEEN, index=False)
        (partial / "config.json").write_text(json.dumps(_config(runs), indent=1, ensure_ascii=False) + "\n")
        (partial / "README.md").write_text(card(folders, runs), encoding="utf-8")
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        (partial / SUMS).write_text("".join(f"{sha256(path)}  {path.relative_to(partial)}\n" for path in files))
    return out


def card(folders: list[Path], runs: list[dict]) -> str:
    """The model card: metadata and evaluation results as the hub reads them, then what people should know."""
    run, scores = runs[0], _scores(folders, runs)
    dataset, encoders = catalogue.dataset(run["dataset"]), registry.encoder_label(run["weights"])
    limits = caveats.caveats(runs, encoders)
    if dataset.simulated:
        limits.insert(0, "Trained on a simulated phantom, not on patients.")
    text = CARD.get_template("card.md.jinja").render(
        run=run, runs=runs, dataset=dataset, scores=scores, policies=POLICIES, known=KNOWN, limits=limits,
        paper=PAPER, released=RELEASED, encoders=[_encoder(weights) for weights in run["weights"]],
        default=run["scorings"][0], seen=_seen(folders, runs), starts=caveats.starts(runs),
        folds=sorted({str(one["fold"]) for one in runs}), identities=sorted({one["identity"] for one in runs}),
        commits=sorted({(one["commit"] or "unknown")[:8] for one in runs}))
    return f"---\n{_metadata(run, scores)}\n---\n\n{text}"


def _scores(folders: list[Path], runs: list[dict]) -> list[dict]:
    """Mean (and SD over folds) of each metric, a row per policy and attributes; none of runs that were not scored."""
    parts = []
    for folder, run in zip(folders, runs, strict=True):
        if run["fold"] != record.ALL and (folder / "per_image.csv").is_file():
            part = pd.read_csv(folder / "per_image.csv", keep_default_na=False, na_values=[""])
            parts.append(part.assign(system=run["system"], fold=run["fold"], seed=run["seed"]))
    if not parts:
        return []
    table = pd.concat(parts, ignore_index=True)
    images = table.groupby(["policy", "attributes"])["case_id"].nunique()
    rows = over_folds(table).to_dict("records")
    return [row | {"images": int(images[row["policy"], row["attributes"]])} for row in rows]


def _metadata(run: dict, scores: list[dict]) -> str:
    """The card's YAML; only scorings that know no reference mask are results of the model (the card has them all)."""
    from huggingface_hub import EvalResult, ModelCardData

    label = catalogue.label(run["dataset"])
    results = [
        EvalResult(task_type="image-segmentation", dataset_type=run["dataset"], dataset_name=label,
                   dataset_split=f"validation images of {row['folds']} fold(s)", metric_type=metric,
                   metric_name=f"{metric} (prompt: {row['policy']}, attributes: {row['attributes']})",
                   metric_value=round(float(row[metric]), 6))
        for row in scores if row["policy"] not in KNOWN for metric in PAPER + RELEASED if row[metric] == row[metric]]
    data = ModelCardData(license=LICENCE, library_name="xbuslib", pipeline_tag="image-segmentation", language="en",
                         tags=["breast-ultrasound", "medical-imaging", "segmentation", run["system"]],
                         model_name=f"{run['paper_name']} on {label}", eval_results=results or None)
    return data.to_yaml()


def _seen(folders: list[Path], runs: list[dict]) -> str:
    """How many pictures the weights have been trained on, by dataset."""
    counts: dict[str, set] = {}
    for folder in folders:
        for row in pd.read_csv(folder / SEEN, dtype=str).itertuples():
            counts.setdefault(row.dataset, set()).add(row.pixels)
    return ", ".join(f"{len(pictures)} of {catalogue.label(name)}" for name, pictures in counts.items())


def _encoder(weights: dict) -> str:
    """What must be available of a frozen encoder, whose weights are not in the folder."""
    if "sha256" not in weights:
        return f"{weights['encoder']}: random numbers, drawn again from the run's seed; nothing is needed"
    return f"{weights['encoder']}: {weights['file']}, SHA-256 {weights['sha256']}"


def _config(runs: list[dict]) -> dict:
    """config.json: what the hub shows, and where the runs lie."""
    run = runs[0]
    return {"library_name": "xbuslib", "model_type": run["system"], "dataset": run["dataset"],
            "protocol": run["protocol"], "identities": [one["identity"] for one in runs], "config": run["config"],
            "plan": run["plan"],
            "runs": ["."] if len(runs) == 1 else [f"fold_{one['fold']}/seed_{one['seed']}" for one in runs]}
