"""Which notebooks a study runs, and how one is run: papermill, unknown parameters refused, one GPU per run."""

import ast
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from xbuslib.config import Config, resolve
from xbuslib.errors import StudyError, machine_faults, unknown
from xbuslib.files import REPOSITORY

if TYPE_CHECKING:
    from IPython.display import HTML, Markdown

FIRST_ANALYSIS = 5  # notebooks with this number or a higher one read the finished runs of a study
CELL_HOURS = "XBUS_CELL_HOURS"  # a cell that takes longer than so many hours is taken to hang
INTERACTIVE = "interactive"  # tag of the parameters cell of a notebook that is for a person, not for a study


def analyses(study: str, dataset: str, data: str, systems: list[str]) -> dict[str, dict[str, str]]:
    """{notebook: its parameters} of the analyses of a study, in order: every notebooks/NN_*.ipynb, NN from 05 on.

    Each is given those of study, dataset, data and system that its parameters cell has; its system is `prompted`. Left
    out are notebooks tagged INTERACTIVE and, where no system reads a prompt, those that ask for a system. Raises
    StudyError for a notebook that cannot be read.
    """
    known = {"study": study, "dataset": dataset, "data": data, "system": prompted(systems)}
    chosen = {}
    for path in sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        names, tags = _parameters_cell(path)
        given = {name: value for name, value in known.items() if name in names}
        if int(path.stem[:2]) >= FIRST_ANALYSIS and INTERACTIVE not in tags and given.get("system") != "":
            chosen[path.stem] = given
    return chosen


def prompted(systems: list[str]) -> str:
    """xbusnet if it is among `systems`, else the first that reads a prompt; "" if none does."""
    from xbuslib.models import registry

    smoke = resolve("smoke", [])  # small and without weights: which prompts a system reads depends on neither
    return next((name for name in sorted(systems, key=lambda name: name != "xbusnet")
                 if name == "xbusnet" or registry.build(name, smoke).prompts), "")


def execute(name: str, output: Path, parameters: dict) -> None:
    """Execute notebooks/<name>.ipynb with `parameters` and keep the executed copy at `output`.

    Raises StudyError for an unknown notebook or parameter, or when a cell fails; the copy shows where.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from traitlets.config import Config

    source = REPOSITORY / "notebooks" / f"{name}.ipynb"
    if not source.is_file():
        raise unknown("notebook", name, sorted(path.stem for path in source.parent.glob("*.ipynb")))
    check_parameters(name, parameters, papermill.inspect_notebook(str(source)))
    os.environ["XBUS_PROGRESS"] = "plain"  # an executed notebook is a log
    hours = _cell_hours()
    with machine_faults(f"notebook {name} stopped"):
        try:
            with one_gpu(), tempfile.TemporaryDirectory(prefix="xbuslib-") as folder:
                config = Config()
                config.KernelManager.transport = "ipc"  # sockets in the file system: no open ports
                config.KernelManager.ip = f"{folder}/kernel"  # by default all runs of one folder share it
                # a kernel that is ended while at work would log that its sockets are gone
                config.PapermillNotebookClient.extra_arguments = ["--IPKernelApp.log_level=50"]
                output.parent.mkdir(parents=True, exist_ok=True)
                papermill.execute_notebook(str(source), str(output), parameters, kernel_name="python3", config=config,
                                           progress_bar=False, execution_timeout=round(hours * 3600) or 1)
        except papermill.PapermillExecutionError as error:
            raise StudyError(f"notebook {name} stopped: {error.ename}: {error.evalue}\n"
                             f"  the executed copy is {output}") from None
        except CellTimeoutError:
            raise StudyError(f"notebook {name} stopped: a cell took more than {hours:g} hours, the limit of "
                             f"{CELL_HOURS}; the executed copy is {output}. Raise the limit if the cell was "
                             "at work; the same command goes on.") from None
        except RuntimeError as error:
            if not isinstance(error, DeadKernelError) and "Kernel" not in str(error):
                raise
            raise StudyError(f"notebook {name} stopped: its kernel died or did not start ({error}), as when the system "
                             f"ends it for want of memory. The executed copy is {output}. Look at free memory, or give "
                             "fewer --jobs; the same command goes on.") from None


def _cell_hours() -> float:
    """How long one cell may take: XBUS_CELL_HOURS, by default longer than any fold. Raises StudyError if it is none."""
    text = os.environ.get(CELL_HOURS) or "48"
    try:
        if 0 < (hours := float(text)) < float("inf"):
            return hours
    except ValueError:
        pass
    raise StudyError(f"{CELL_HOURS} is {text!r}; give a number of hours above 0, such as 48")


def check_parameters(name: str, given: dict, known: dict) -> None:
    """papermill only warns about a parameter that a notebook does not have; here it is refused."""
    unknown = [key for key in given if key not in known]
    if unknown:
        meaning = "\n".join(f"  {key}: {(about.get('help') or '').strip()}" for key, about in known.items())
        raise StudyError(f"notebook {name} has no parameter {', '.join(unknown)}; it has\n{meaning}")


def refuse_unknown_parameters(cells: list[str]) -> None:
    """The same check from inside a notebook that papermill itself was called on; `cells` is IPython's In.

    papermill puts its values in a cell "# Parameters" after the notebook's own parameters cell.
    """
    for position, cell in enumerate(cells):
        if cell.startswith("# Parameters"):
            unknown = _assigned(cell) - _assigned(cells[position - 1])
            if unknown:
                raise StudyError(f"this notebook has no parameter {', '.join(sorted(unknown))}; "
                                 f"it has {', '.join(sorted(_assigned(cells[position - 1])))}")


def begin(cells: list[str]) -> "Markdown":
    """The one line at the top of an executed notebook: when, of which commit, with which versions it ran.

    `cells` is IPython's In; raises StudyError for a parameter that the notebook does not have.
    """
    from IPython.display import Markdown

    from xbuslib.runs import environment

    refuse_unknown_parameters(cells)
    return Markdown(f"<small>{environment.stamp()}</small>")


def data_facts(dataset: str, config: Config) -> "HTML":
    """One line for a notebook that reads a dataset and no study: which images, at which size.

    HTML, so that the first Markdown under "Short answer", which the report quotes, is the answer.
    """
    from IPython.display import HTML

    from xbuslib.data import catalogue

    label = catalogue.label(dataset)
    simulated = " The images are simulated: the numbers say nothing about patients."
    return HTML(f"<p><b>{label[0].upper()}{label[1:]}, profile {config.profile}, {config.image_size} px.</b>"
                f"{simulated if catalogue.dataset(dataset).simulated else ''}</p>")


def written(paths: list[Path]) -> "Markdown":
    """One line on the files that a notebook wrote."""
    from IPython.display import Markdown

    folders = sorted({path.parent for path in paths})
    places = " and ".join(f"`{folder.parent.name}/{folder.name}`" for folder in folders)
    return Markdown(f"<small>{len(paths)} files were written to {places} of the study's folder.</small>")


@contextmanager
def one_gpu() -> Iterator[None]:
    """Hold one free GPU of XBUS_GPUS (e.g. "0,1") for this process. Does nothing where it is not set, as under a
    scheduler, which places jobs itself."""
    gpus = [gpu for gpu in os.environ.get("XBUS_GPUS", "").split(",") if gpu]
    if not gpus:
        yield
        return
    lock = _first_free(gpus)
    try:
        yield
    finally:
        lock.release()


def _first_free(gpus: list[str]) -> FileLock:
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")  # nosec B108
    while True:
        for gpu in gpus:
            lock = FileLock(folder / f"xbuslib-gpu-{os.getuid()}-{gpu}.lock")
            try:
                lock.acquire(timeout=1)  # the operating system frees it when its holder ends, however it ends
            except Timeout:
                continue
            os.environ |= {"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # numbers as in nvidia-smi
            return lock


def _parameters_cell(path: Path) -> tuple[set[str], list[str]]:
    """Names and tags of a notebook's parameters cell; none where it has no such cell."""
    try:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if "parameters" in (tags := cell["metadata"].get("tags", [])):
                return _assigned("".join(cell["source"])), tags
    except (ValueError, KeyError, SyntaxError) as error:
        raise StudyError(f"cannot read the parameters cell of {path} ({error})") from None
    return set(), []


def _assigned(cell: str) -> set[str]:
    """Names that a cell assigns at top level."""
    targets = []
    for node in ast.parse(cell).body:
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign):
            targets.append(node.target)
    return {target.id for target in targets if isinstance(target, ast.Name)}
