"""`xbuslib score`, `adopt`, `publish` and `data export-nnunet`: ways in from and out to other frameworks."""

from pathlib import Path
from typing import Annotated

import typer

from xbuslib.display.terminal import show

AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


def register(app: typer.Typer, data_app: typer.Typer) -> None:
    """Add the commands of this file to `xbuslib` and `xbuslib data`."""
    app.command("score")(score)
    app.command("adopt")(adopt)
    app.command("publish")(publish)
    data_app.command("export-nnunet")(export_nnunet)


def score(reference: Annotated[Path, typer.Option(help="folder of reference masks (PNG, TIFF, JPEG, BMP, GIF)")],
          prediction: Annotated[Path, typer.Option(help="folder of predicted masks, matched by name")],
          out: Annotated[Path, typer.Option(help="CSV file to write")],
          as_drawn: Annotated[bool, typer.Option("--as-drawn", help="bright is lesion even where it fills or surrounds "
                                                 "the frame, which is refused otherwise")] = False,
          as_json: AsJson = False) -> None:
    """Score any folder of masks: the paper's metrics, and the released code's beside them."""
    from xbuslib.evaluation.scoring import score_folders

    table = score_folders(reference, prediction, out, as_drawn)
    notes = table.attrs["notes"]
    if not as_json:
        for note in notes:
            typer.echo(f"note: {note}", err=True)
    mean = table.drop(columns="case_id").mean()
    row = {key: None if value != value else value for key, value in mean.items()} | {"images": len(table)}
    show([row | {"notes": notes} if as_json else row], as_json, f"mean over images, written to {out}")


def adopt(name: Annotated[str, typer.Option(help="of the system in the study's folders, such as nnunet")],
          study: Annotated[str, typer.Option(help="a study with trained runs")],
          fold: Annotated[str, typer.Option(help="whose validation images were predicted, from 0; each: every fold, "
                                            "from one folder")],
          predictions: Annotated[Path, typer.Option(help="folder with CASE_ID.png, .npz or .npy for each of them: "
                                                    "masks or probability maps, at the image's or the study's size")],
          label: Annotated[str, typer.Option(help="name in tables; default: --name")] = "",
          as_drawn: Annotated[bool, typer.Option("--as-drawn", help="bright is lesion even where it fills or surrounds "
                                                 "the frame, which is refused otherwise")] = False,
          as_json: AsJson = False) -> None:
    """Take other people's predictions into a study as a system of its tables, scored like its own."""
    from xbuslib.runs import adopted, record

    paths, notes = adopted.adopt(name, study, fold, predictions, label, as_drawn)
    if not as_json:
        for note in notes:
            typer.echo(f"note: {note}", err=True)
    rows = [{"folder": str(path)} | record.summary(path)[["dice", "iou", "fpr", "fnr"]].iloc[0].to_dict()
            for path in paths]
    show([row | {"notes": notes} for row in rows] if as_json else rows, as_json, f"adopted as {name}")
    if not as_json:
        typer.echo("Run the study again (./run_all.sh, same flags) for its tables, or one notebook: "
                   f"xbuslib notebook 05_overall_performance -p study={study} --output FILE")


def export_nnunet(study: Annotated[str, typer.Option(help="a study that has been started: its images and folds")],
                  out: Annotated[Path, typer.Option(help="folder that gets nnUNet_raw and nnUNet_preprocessed")],
                  number: Annotated[int, typer.Option(min=1, max=999, help="nnU-Net's number of the dataset")] = 501,
                  data: Annotated[str, typer.Option(help="the dataset's folder, if it is no longer where it was")] = "",
                  as_json: AsJson = False) -> None:
    """Write a study's lesions and its very folds as nnU-Net (version 2) reads them."""
    import json
    import shlex

    from xbuslib.runs.nnunet import export

    facts = export(study, out, number, data)
    variables = " ".join(f"nnUNet_{part}={shlex.quote(facts[part])}" for part in ("raw", "preprocessed", "results"))
    typer.echo(json.dumps(facts) if as_json else
               f"{facts['cases']} cases in {facts['folds']} folds: {facts['dataset']}\nexport {variables}")


def publish(run: Annotated[Path, typer.Argument(metavar="RUN-OR-SYSTEM", help="a run folder; or a system's, such as "
                                                "outputs/STUDY/runs/xbusnet, for all its runs")],
            out: Annotated[Path, typer.Option(help="folder to write, or an earlier one to replace")],
            push: Annotated[str, typer.Option(help="USER/NAME of the Hugging Face Hub to upload it to")] = "",
            private: Annotated[bool, typer.Option("--private", help="--push makes a private one")] = False,
            as_json: AsJson = False) -> None:
    """Write trained weights as a folder that travels: safetensors, settings, model card, checksums."""
    import json

    from xbuslib.lesion.ensemble import find_runs
    from xbuslib.runs import publish as written
    from xbuslib.runs import published

    if push:
        published.require_name(push)
    folder = written.publish(find_runs(run), out)
    address = published.push(folder, push, private) if push else None
    typer.echo(json.dumps({"folder": str(folder), "address": address}) if as_json else address or folder)
