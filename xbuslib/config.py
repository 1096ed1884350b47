"""The profiles: every number of the protocol with its reason.

`smoke` shows that the code runs, `quick` is the same study on small encoders and small images for two
CPU cores, `paper` is Section 2.3 of the paper. Single values are changed with `key=value` overrides.
"""

from typing import Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from xbuslib.errors import StudyError, unknown

POLICIES = ("first_pass", "paper", "reference", "none")


class Config(BaseModel):
    """One resolved configuration. Defaults are the paper's protocol; see docs/protocol.md for the choices."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: Literal["smoke", "quick", "paper"]
    size: Literal["paper", "quick"] = "paper"  # encoders: full size, or narrow ones of the same families
    weights: Literal["pretrained", "partial", "random"] = "pretrained"  # Sec. 2.5: CLIP and ImageNet weights
    recipe: Literal["uniform", "official", "strong"] = "uniform"  # one protocol for every system, Sec. 3.1

    image_size: int = Field(352, ge=32, le=2048, multiple_of=32)  # Sec. 2.2; the encoders halve it five times
    folds: int = Field(5, ge=2, le=20)  # Sec. 2.3
    folds_seed: int = 0  # one split for every system and training seed
    fold_by: Literal["patient", "dataset"] = "patient"  # "dataset": a fold for each of several, trained on the others
    # The training itself, by default as the recipe says (recipes.py): uniform is Sec. 2.3. A value given here wins.
    iterations: int | None = Field(None, ge=0)  # 0: scored as it starts, from the run of --start-from
    train_images: int | None = Field(None, ge=2)  # so many of the training images, by one fixed order; None: all
    batch_size: int | None = Field(None, ge=2)  # batch normalisation needs two
    learning_rate: float | None = Field(None, gt=0)
    final_learning_rate: float | None = Field(None, ge=0)
    weight_decay: float | None = Field(None, ge=0)
    drop_spatial: float | None = Field(None, ge=0, le=1)  # size and location are each left out of this share of prompts
    drop_attributes: float | None = Field(None, ge=0, le=1)  # the same for shape, margin and BI-RADS
    amp: bool | None = None  # bfloat16 where the hardware has it, see precision.py

    threshold: float = Field(0.5, gt=0, lt=1)  # Sec. 2.4
    first_pass_threshold: float = Field(0.30, gt=0, lt=1)  # Sec. 2.7
    phantom_cases: int = Field(250, ge=10)  # size of the embedded dataset: about that of BLU
    # Memory and time only: no result depends on these, and runs that differ in them are of one protocol.
    prediction_batch: int = Field(4, ge=1)
    checkpoint_every: int = Field(200, ge=1)  # iterations a killed run can lose
    recompute: bool = False  # XBusNet: what the fusion head keeps for backward is computed again there

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_as_a_number(cls, value: object, info: ValidationInfo) -> object:
        kind = cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise ValueError("yes, no, true and false are not values of this setting")
        return value


NOT_OF_THE_PROTOCOL = {"prediction_batch", "checkpoint_every", "recompute"}

PROFILES = {
    "paper": Config(profile="paper"),
    "quick": Config(
        profile="quick", size="quick", weights="random",
        image_size=64, iterations=150,  # twelve systems on five folds within half an hour on two slow cores
        learning_rate=2e-3,  # small networks from random weights learn too little at 1e-4 in so few iterations
        prediction_batch=16, phantom_cases=60,
    ),
    "smoke": Config(
        profile="smoke", size="quick", weights="random", image_size=64, iterations=6, batch_size=4,
        learning_rate=1e-3, prediction_batch=8, checkpoint_every=3, phantom_cases=20,
    ),
}


def resolve(profile: str, overrides: dict | list[str] | None = None) -> Config:
    """The configuration of `profile` with `overrides` (a dict, or strings "key=value") applied.

    Raises StudyError for an unknown profile or key, or a value out of range.
    """
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    values = PROFILES[profile].model_dump() | parse_overrides(overrides)
    try:
        return Config(**values)
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, e['loc']))}: {_explain(e)}" for e in error.errors()]
        raise StudyError("the configuration does not hold together:\n" + "\n".join(faults)) from None


def parse_overrides(overrides: dict | list[str] | None) -> dict:
    """{"iterations": 400} from ["iterations=400"]; values are read as YAML scalars."""
    if isinstance(overrides, dict):
        return dict(overrides)
    pairs = {}
    for item in overrides or []:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise StudyError(f"override {item!r} is not of the form key=value, e.g. iterations=400")
        try:
            pairs[key.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: of a date such as 2026-13-01
            raise StudyError(f"override {item!r}: its value cannot be read ({' '.join(str(error).split())}); "
                             "write a number, a word or true, e.g. iterations=400") from None
    return pairs


def _explain(error: dict) -> str:
    if error["type"] == "extra_forbidden":
        return "no such setting; " + str(unknown("setting", error["loc"][0], Config.model_fields)).partition("; ")[2]
    return f"{error['msg']} (got {error['input']!r})"
