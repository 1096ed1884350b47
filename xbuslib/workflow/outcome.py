"""What `xbuslib study` ends with: the mean over folds, and where to look."""

import shlex
import sys

from xbuslib.display.terminal import show
from xbuslib.files import outputs_root
from xbuslib.runs.record import ALL, listing, study_summary
from xbuslib.workflow.study import Settings


def say_results(settings: Settings, worked: bool, as_json: bool) -> None:
    """What a study run ends with: the mean over folds, and where to look."""
    study, everything = settings.study, settings.folds == [ALL]
    if everything:
        show(listing(study).to_dict("records"), as_json, f"study {study}: trained on every lesion, scored on none")
    else:
        show(study_summary(study).to_dict("records"), as_json, f"study {study}: mean lesion metrics over folds")
    done = "" if worked else "Nothing to do: every run is there and current. "
    folder = outputs_root() / study
    page = "" if everything else f"Report: {folder / 'report' / 'index.html'}\n"
    command = f"./run_all.sh --config {shlex.quote(str(folder / 'study.yaml'))}"
    print(f"{done}Results: {folder} (runs/, tables/, figures/ and executed notebooks in notebooks/)\n{page}"
          f"Repeat it: {command}", file=sys.stderr if as_json else sys.stdout)
