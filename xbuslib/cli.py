"""The `xbuslib` command: everything that is not a notebook. Faults end with one message and exit code 1."""

import importlib.metadata
import json
from pathlib import Path
from typing import Annotated

import typer

from xbuslib import cli_bridges
from xbuslib.config import PROFILES
from xbuslib.data.catalogue import DATASETS
from xbuslib.display.terminal import show
from xbuslib.errors import StudyError, machine_faults

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
data_app = typer.Typer(no_args_is_help=True, help="Datasets: check, download, make, decode.")
app.add_typer(data_app, name="data")
cli_bridges.register(app, data_app)


def choice(names, text: str):
    """An option whose names stand in the help and are completed; they are checked where they are used."""
    return typer.Option(help=text, metavar="|".join(names), autocompletion=lambda: list(names))


AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
Dataset = Annotated[str, choice(DATASETS, "dataset")]
Data = Annotated[str, typer.Option(help="the dataset's folder; the phantom is made if none is given")]
Folds = Annotated[str, typer.Option("--folds", help="folder of val_fold*.csv lists; or fold numbers: 0,1 or 0-2; or "
                                    "all: train on every lesion, score none")]
StartFrom = Annotated[str, typer.Option("--start-from", help="start from these weights: a run folder, a study trained "
                                        "with --folds all, hf://USER/NAME or hf://USER/NAME@REVISION")]
Profile = Annotated[str, choice(PROFILES, "how large: does it run, small encoders, or the paper's")]
Overrides = Annotated[list[str], typer.Option("--set", help="key=value, e.g. iterations=400; repeat for more")]
Study = Annotated[str, typer.Option("--study", help="name of the results folder; default DATASET-PROFILE")]
FLAGS = {"overrides": "set", "name": "study"}  # parameters whose flag, and key of a study file, has another name


def say(as_json: bool, message: object, **facts: object) -> None:
    """Print a message, or the facts in it as JSON."""
    typer.echo(json.dumps(facts, default=str, ensure_ascii=False) if as_json else message)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xbuslib {importlib.metadata.version('xbuslib')}")
        raise typer.Exit()


@app.callback()
def about(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                                help="print the version")] = False) -> None:
    """XBusNet study: text-guided segmentation of breast-ultrasound lesions."""


@app.command()
def study(context: typer.Context, dataset: Dataset = "phantom", data: Data = "", folds: Folds = "",
          profile: Profile = "quick",
          systems: Annotated[str, typer.Option(help="names from `xbuslib systems`, comma-separated, or all")] = "all",
          overrides: Overrides = [], seeds: Annotated[str, typer.Option(help="such as 0,1 or 0-4")] = "0",  # noqa: B006
          jobs: Annotated[int, typer.Option(help="folds at once; 0: one per core, or one in the paper profile")] = 0,
          gpus: Annotated[str, typer.Option(help="GPU ids, comma-separated: one fold on each")] = "",
          slurm: Annotated[bool, typer.Option(help="submit the jobs to a Slurm cluster")] = False,
          slurm_profile: Annotated[str, typer.Option(help="folder with your cluster's config.yaml: account, "
                                                     "partition, …; default workflow/profiles/slurm")] = "",
          start_from: StartFrom = "", name: Study = "",
          config: Annotated[Path | None, typer.Option(help="study file (YAML) with these flags as keys; flags given "
                                                      "beside it win")] = None,
          dry_run: Annotated[bool, typer.Option(help="say what would run")] = False, as_json: AsJson = False) -> None:
    """Run the study: train and score every (system, fold, seed) that is not there yet. ./run_all.sh calls this."""
    from xbuslib.config import parse_overrides
    from xbuslib.workflow.outcome import say_results
    from xbuslib.workflow.request import request
    from xbuslib.workflow.study import run_study, settle

    given = {FLAGS.get(key, key): value for key, value in context.params.items() if key not in (
        "config", "dry_run", "as_json") and context.get_parameter_source(key).name != "DEFAULT"}
    if "set" in given:
        given["set"] = parse_overrides(given["set"])
    wanted = request(given, config)
    settings, at_once = settle(wanted)
    worked = run_study(wanted, settings, at_once, dry_run)
    if not dry_run:
        say_results(settings, worked, as_json)


@app.command()
def fold(system: Annotated[str, typer.Option(help="a name from `xbuslib systems`")] = "xbusnet",
         fold: Annotated[str, typer.Option(help="validation fold, from 0; all: train on every lesion")] = "0",
         seed: Annotated[int, typer.Option(help="training seed")] = 0,
         dataset: Dataset = "phantom", data: Data = "",
         folds: Annotated[str, typer.Option("--folds", help="folder of val_fold*.csv lists")] = "",
         profile: Profile = "quick", overrides: Overrides = [], start_from: StartFrom = "",  # noqa: B006
         name: Study = "", as_json: AsJson = False) -> None:
    """Train one system on one fold and score it: what notebook 04 runs, without Jupyter."""
    from xbuslib.config import parse_overrides, resolve
    from xbuslib.models import registry
    from xbuslib.runs import record
    from xbuslib.workflow.notebooks import one_gpu
    from xbuslib.workflow.request import request

    system = registry.checked(system)  # refused before any data are made or decoded
    if not (fold.isdecimal() or fold == record.ALL):
        raise StudyError(f"--fold {fold!r} is neither a number such as 0 nor {record.ALL}")
    if folds and not Path(folds).is_dir():
        raise StudyError(f"--folds {folds!r} is no folder of fold lists; to train on one fold say --fold NUMBER")
    settings = parse_overrides(overrides)
    where = request({"dataset": dataset, "data": data, "profile": profile, "set": settings, "study": name}).name
    from xbuslib.runs.fold import run_fold
    from xbuslib.runs.source import open_source

    config = resolve(profile, settings)
    with one_gpu():  # of --gpus, where `xbuslib study --folds all` has called this
        path = run_fold(system, int(fold) if fold.isdecimal() else fold, config,
                        open_source(dataset, data, folds, config, where), study=where, seed=seed, start_from=start_from)
    table = record.summary(path)
    if table.empty:
        return say(as_json, f"{path}: trained on every lesion; there is nothing to score it on", folder=path)
    if as_json:
        show(table.assign(folder=str(path)).to_dict("records"), True, "")
    else:
        typer.echo(f"{path}\n{table.round(4).to_string(index=False)}")


@app.command()
def notebook(name: Annotated[str, typer.Argument(help="e.g. 04_train_fold")],
             output: Annotated[Path, typer.Option(help="where the executed copy goes")],
             parameters: Annotated[list[str], typer.Option("-p", help="key=value of the parameters cell")] = [],  # noqa: B006
             as_json: AsJson = False) -> None:
    """Execute a notebook with papermill; unknown parameters are refused."""
    from xbuslib.config import parse_overrides
    from xbuslib.workflow.notebooks import execute

    execute(name, output, parse_overrides(parameters))
    say(as_json, f"{name}: {output}", notebook=name, output=output)


@app.command()
def report(name: Annotated[str, typer.Argument(metavar="STUDY", help="e.g. phantom-quick")],
           partial: Annotated[bool, typer.Option("--partial", help="even if runs are missing")] = False,
           as_json: AsJson = False) -> None:
    """Make a study's report from its finished runs and executed notebooks."""
    from xbuslib.report.page import build

    page = build(name, partial)
    say(as_json, page, study=name, page=page)


@app.command()
def export(name: Annotated[str, typer.Argument(metavar="STUDY", help="e.g. phantom-quick")],
           out: Annotated[Path, typer.Option(help="folder to write, or an earlier export to replace")],
           data: Annotated[bool, typer.Option(help="with the dataset's clinical table, and with figures and notebooks, "
                                                "which show its images; or without")] = True,
           as_json: AsJson = False) -> None:
    """Copy what a finished study's tables rest on: scores, tables, figures, notebooks; no weights or maps."""
    from xbuslib.runs.export import export as write

    folder = write(name, out, data)
    say(as_json, folder, study=name, folder=folder)


@app.command()
def systems(profile: Profile = "paper", as_json: AsJson = False) -> None:
    """The systems with their parameter counts, prompts and weights."""
    from xbuslib.models.overview import catalogue

    show(catalogue(profile), as_json, f"systems, profile {profile}")


@app.command()
def runs(name: Annotated[str, typer.Option("--study", help="only this study")] = "",
         compare: Annotated[tuple[Path, Path] | None, typer.Option(
             metavar="A B", help="two run folders: what differs of all that can change their numbers")] = None,
         as_json: AsJson = False) -> None:
    """Finished runs and where they are; or in what two of them differ."""
    from xbuslib.runs.record import compared, listing, no_runs

    if compare:
        rows = compared(*compare)
        if not as_json:  # three decimals, as of a score, could hide what differs
            rows = [{key: str(value) if isinstance(value, float) else value for key, value in row.items()}
                    for row in rows]
        return show(rows, as_json, "what differs")
    found = listing(name or None)
    if name and found.empty:
        raise no_runs(name)
    show(found.to_dict("records"), as_json, "finished runs")


@app.command()
def predict(images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="PNG, JPEG, BMP, TIFF, GIF, DICOM")],
            run: Annotated[Path, typer.Option(help="a run folder; or a system's, such as outputs/STUDY/runs/xbusnet, "
                                              "for the ensemble over its folds; hf://USER/NAME or "
                                              "hf://USER/NAME@REVISION")],
            out: Annotated[Path, typer.Option(help="folder that gets one folder of results per image")],
            shape: Annotated[str, typer.Option(help="of the lesion, e.g. irregular; none: not given")] = "",
            margin: Annotated[str, typer.Option(help="e.g. circumscribed, or spiculated,indistinct")] = "",
            birads: Annotated[str, typer.Option(help="assessment, e.g. 4a")] = "",
            pixel_mm: Annotated[str, typer.Option(help="size of a pixel: 0.078, or WIDTH,HEIGHT; goes before what a "
                                                  "DICOM file says")] = "",
            frame: Annotated[int | None, typer.Option(help="which of several frames in a file, from 1")] = None,
            crop: Annotated[str, typer.Option(help="LEFT,TOP,RIGHT,BOTTOM in pixels; or regions: a DICOM file's "
                                              "ultrasound regions, black between them. What lies outside is in no "
                                              "result")] = "",
            dicom: Annotated[bool, typer.Option("--dicom", help="for DICOM images: a Segmentation and a Structured "
                                                "Report too, with the file's patient")] = False,
            as_json: AsJson = False) -> None:
    """Segment and measure any ultrasound image with trained runs. Research use only, not a medical device."""
    from xbuslib.lesion import ensemble, reading
    from xbuslib.lesion.predict import listed, segment_files

    prompt = ensemble.user_prompt(shape, margin, birads)
    done, faults = segment_files(images, run, out, prompt, reading.pixel_size(pixel_mm), frame, crop, dicom)
    rows = listed(done, as_json)
    show(rows, as_json, "segmented images")
    for fault in faults:
        typer.echo(f"error: {fault}", err=True)
    raise typer.Exit(1 if faults else 0)


@data_app.command("check")
def data_check(dataset: Annotated[str, typer.Argument(help=f"one of {', '.join(DATASETS)}")],
               root: Annotated[Path, typer.Option(help="the dataset's folder")],
               pairs: Annotated[Path | None, typer.Option(help="folder that gets a table and a picture of the repeated "
                                                          "images")] = None, as_json: AsJson = False) -> None:
    """Count what a dataset folder holds and list what is wrong with it; exit code 1 if anything is."""
    from xbuslib.data.check import check, in_words

    report = check(dataset, root)
    if pairs and report["images"]:
        from xbuslib.analyses import repeats

        report["written"] = [str(path) for path in repeats.write(repeats.find(dataset, root), pairs)]
    typer.echo(json.dumps(report, indent=1, ensure_ascii=False) if as_json else in_words(report))
    raise typer.Exit(1 if report["problems"] else 0)


@data_app.command("download")
def data_download(dataset: Annotated[str, typer.Argument(help="blu")],
                  root: Annotated[Path, typer.Option(help="folder to fetch into")], as_json: AsJson = False) -> None:
    """Fetch the published files of a dataset."""
    from xbuslib.data import catalogue
    from xbuslib.data.download import download_blu

    row = catalogue.dataset(dataset)
    if dataset != "blu":
        raise StudyError(f"only blu can be downloaded. Where to get {row.label}: {row.source}")
    folder = download_blu(root)
    say(as_json, f"{dataset} is in {folder}", dataset=dataset, folder=folder)


@data_app.command("phantom")
def data_phantom(root: Annotated[Path, typer.Option(help="folder to make")],
                 n: Annotated[int, typer.Option(min=1, help="number of cases")] = 60,
                 seed: Annotated[int, typer.Option(help="same seed, same bytes")] = 0,
                 scanner: Annotated[str, typer.Option(help="A, or B: another hospital's machine")] = "A",
                 as_json: AsJson = False) -> None:
    """Make the simulated phantom dataset."""
    from xbuslib.data.phantom.phantom import write

    folder = write(root, n=n, seed=seed, scanner=scanner)
    say(as_json, f"{n} simulated phantom cases of scanner {scanner} are in {folder}", cases=n, folder=folder)


@data_app.command("prepare", hidden=True)
def data_prepare(parameters: Annotated[list[str], typer.Option("-p", help="key=value as in notebook 04: dataset, data, "
                                                               "study, profile, overrides, fold_lists")] = [],  # noqa: B006
                 done: Annotated[Path | None, typer.Option(help="file that says what was prepared")] = None) -> None:
    """Decode a dataset once for a study."""
    from xbuslib.config import parse_overrides
    from xbuslib.runs.source import prepare

    given = {"dataset": "phantom", "data": "", "study": "", "profile": "quick", "overrides": [], "fold_lists": ""}
    given |= parse_overrides(parameters)
    typer.echo(prepare(given, done))


def main() -> None:
    """Run the command; a StudyError becomes one message and exit code 1."""
    try:
        with machine_faults("stopped"):
            app(standalone_mode=True)
    except StudyError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None
    except SystemExit as end:
        if end.code == 130:  # Control-C, of which Typer says nothing
            typer.echo("stopped; the same command goes on from here", err=True)
        raise
