"""The request for a study: the keys of a study file, which are the flags of the command, checked by one model."""

import re
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from xbuslib.config import PROFILES, resolve
from xbuslib.data import catalogue
from xbuslib.errors import StudyError, unknown
from xbuslib.models import registry
from xbuslib.runs.record import ALL

LONGEST = 1000  # numbers in a range of seeds or folds: more than anybody trains; a slip of a digit fills no memory


class Request(BaseModel):
    """The request for one study. Keys are those of `./run_all.sh --help`; what is left out has the flag's default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    study: str = ""  # name of the results folder; default DATASET-PROFILE
    dataset: str = "phantom"
    data: str = ""  # the dataset's folder
    folds: str | list[int] = ""  # folder of fold lists, fold numbers (by default each), or "all": train on everything
    start_from: str = ""  # a run folder, or the folder of a study trained with --folds all
    profile: str = "quick"
    systems: list[str] = Field(default_factory=registry.names)
    set: dict[str, str | float | int | bool | None] = {}  # settings of config.py that differ from the profile
    seeds: list[int] = [0]
    jobs: int = Field(0, ge=0)  # folds at once; 0: one per core, or one in the paper profile
    gpus: list[str] = []
    slurm: bool = False
    slurm_profile: str = ""  # folder with a cluster's config.yaml

    @field_validator("systems", "gpus", mode="before")
    @classmethod
    def _by_commas(cls, value):
        if value == "all":
            return registry.names()
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else \
            [str(part) for part in value] if isinstance(value, list) else value

    @field_validator("seeds", "folds", mode="before")
    @classmethod
    def _numbers(cls, value, info):
        value = str(value) if isinstance(value, int) else value
        if info.field_name == "folds" and isinstance(value, str) and (value == ALL or Path(value).is_dir()):
            return value
        if isinstance(value, str) and value:
            return whole_numbers(value, f"--{info.field_name}")
        return value

    @field_validator("seeds", "folds")
    @classmethod
    def _some(cls, value):
        if value == [] or (isinstance(value, list) and min(value) < 0):
            raise ValueError(f"{value} is no list of numbers such as 0,2 or 0-4")
        return value

    @field_validator("study")
    @classmethod
    def _folder_name(cls, value):
        if value and not re.fullmatch(r"\w[\w.+ -]*", value):
            raise ValueError(f"{value!r} is no name for a folder: letters, digits, '-', '_', '.' and '+' are allowed")
        return value

    @field_validator("dataset", "profile", "systems")
    @classmethod
    def _known(cls, value, info):
        if info.field_name == "dataset":
            return _dataset(value)
        if info.field_name == "systems":
            return _systems(value)
        if value not in PROFILES:
            raise ValueError(str(unknown("profile", value, PROFILES)))
        return value

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study or f"{self.dataset}-{self.profile}"

    @property
    def overrides(self) -> list[str]:
        """The settings as key=value, values as YAML."""
        return [f"{key}={yaml.safe_dump(value).removesuffix(chr(10)).removesuffix('...').strip()}"
                for key, value in self.set.items()]

    @property
    def fold_lists(self) -> str:
        """The folder of fold lists, or ""."""
        return self.folds if isinstance(self.folds, str) and self.folds != ALL else ""


def request(given: dict, file: Path | None = None) -> Request:
    """The checked request of the flags `given` and, below them, of a study file.

    Raises StudyError with all faults in one message.
    """
    below = _read(file) if file else {}
    values = below | given
    if isinstance(below.get("set"), dict) and isinstance(given.get("set"), dict):  # setting by setting
        values["set"] = below["set"] | given["set"]
    try:
        found = Request(**values)
    except ValidationError as error:
        faults = [f"  {_fault(fault)}" for fault in error.errors()]
        raise StudyError((f"{file}: " if file else "") + "the study cannot be run as asked:\n" + "\n".join(faults)
                         ) from None
    resolve(found.profile, found.set)  # settings of the configuration are refused here
    if found.data and not Path(found.data).is_dir():
        raise StudyError(f"--data {found.data} is not a folder; give the folder of dataset {found.dataset}. "
                         f"Where to get it: {catalogue.dataset(found.dataset).source}")
    return found


def write(found: Request, path: Path) -> None:
    """Write the study file that repeats a request."""
    values = found.model_dump() | {"study": found.name}
    kept = {key: value for key, value in values.items() if value not in ("", [], {})}
    path.write_text("# Repeats this study: ./run_all.sh --config THIS_FILE\n" + yaml.safe_dump(kept, sort_keys=False))


def whole_numbers(text: str, option: str) -> list[int]:
    """[0, 2, 3, 4] from "0,2-4".

    Raises ValueError for anything else, and for a range that counts down or holds more than 1000 numbers.
    """
    numbers = []
    for part in text.split(","):
        if not (found := re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)):
            what = "neither a folder nor numbers" if option == "--folds" else "no list of numbers"
            raise ValueError(f"{option} {text!r} is {what} such as 0,2 or 0-4")
        first, last = int(found[1]), int(found[2] or found[1])
        if not 0 <= last - first < LONGEST:
            raise ValueError(f"{option} {text!r}: the range {part.strip()} " + (
                "counts down; write the smaller number first" if last < first else f"has more than {LONGEST} numbers"))
        numbers += range(first, last + 1)
    return sorted(set(numbers))


def _systems(names: list[str]) -> list[str]:
    if not names:
        raise ValueError("no system is named; the systems are " + ", ".join(registry.names()))
    try:
        return [registry.checked(name) for name in names]
    except StudyError as error:
        raise ValueError(str(error)) from None


def _dataset(name: str) -> str:
    try:
        catalogue.dataset(name)
    except StudyError as error:
        raise ValueError(str(error)) from None
    return name


def _read(file: Path) -> dict:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"cannot read the study file {file}: {getattr(error, 'strerror', None) or error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a date such as 2026-13-01
        raise StudyError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise StudyError(f"{file} holds no keys; a study file says, for example, dataset: phantom")
    if strange := [key for key in values if not isinstance(key, str)]:
        raise StudyError(f"{file}: {strange[0]!r} is no key; the keys are {', '.join(Request.model_fields)}")
    return values


def _fault(fault: dict) -> str:
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return str(unknown("key", key, Request.model_fields))
    return f"{key}: {fault['msg'].removeprefix('Value error, ')}"
