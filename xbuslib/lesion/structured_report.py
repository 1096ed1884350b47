"""The structured report on one segmented image: its schema, and how it is filled."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from xbuslib.data import catalogue
from xbuslib.data.originals import at_size
from xbuslib.evaluation import measure
from xbuslib.evaluation.measure import Lesion
from xbuslib.lesion.ensemble import Segmentation, UserPrompt
from xbuslib.lesion.reading import Picture
from xbuslib.models import registry
from xbuslib.prompts.words import reads_size_and_location
from xbuslib.runs import caveats as departures

PURPOSE = "Research use only, not a medical device."


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageFacts(_Part):
    """Where the pixels came from. Of a DICOM file nothing about the patient is kept."""

    file: str
    sha256: str
    kind: str
    width: int
    height: int
    pixel_mm: tuple[float, float] | None = Field(description="width and height of a pixel; null if unknown")
    pixel_source: str
    notes: list[str]


class Attributes(_Part):
    """What the user gave of the lesion; null: not given. The model finds none of it."""

    shape: str | None
    margin: str | None
    birads: str | None
    size: str | None = Field(description="null: found by the model's own first pass, or not read (model.reads)")
    quadrant: str | None = Field(description="null: found by the model's own first pass, or not read (model.reads)")


class PromptRow(_Part):
    """The prompt of one run. Null: its system does not read it, or the first pass found nothing."""

    fold: int | str  # "all": trained on every lesion
    seed: int
    size: str | None = None
    quadrant: str | None = None
    global_text: str | None = None
    local_text: str | None = None
    x: float | None = None
    y: float | None = None


class ModelFacts(_Part):
    """Which runs these are, and what must be kept in mind with them."""

    system: str
    paper_name: str
    study: str
    dataset: str
    profile: str
    image_size: int
    iterations: int
    folds: list[int | str]
    seeds: list[int]
    encoders: list[str] = Field(description="each pretrained encoder and where its weights are from")
    commits: list[str]
    identities: list[str]
    threshold: float
    reads: list[str] = Field(description="the prompts that the system reads")
    caveats: list[str]


class Agreement(_Part):
    """How far the runs of an ensemble agree; ranges are over the runs that find a lesion."""

    runs: int
    runs_with_lesion: int
    mean_sd: float | None = Field(description="mean SD of the probability within the ensemble's mask; null if empty")
    longest_diameter: tuple[float, float] | None = Field(description="smallest and largest over runs")
    area: tuple[float, float] | None = Field(description="smallest and largest over runs")


class Report(_Part):
    """report.json. `lesion` is null where no pixel reaches the threshold; then there are no measurements."""

    schema_version: Literal[1] = 1
    purpose: str = PURPOSE
    created: str
    image: ImageFacts
    attributes: Attributes
    prompts: list[PromptRow]
    model: ModelFacts
    statement: str
    highest_probability: float
    lesion: Lesion | None
    agreement: Agreement | None = Field(description="null for a single run")


def make(picture: Picture, found: Segmentation, given: UserPrompt) -> Report:
    """The report on one image, segmented under the prompt `given`."""
    lesion = measure.lesion(found.mask, picture.pixel_mm)
    highest = float(found.probability.max())
    notes = list(picture.notes)
    if not picture.pixel_mm:
        notes.append("The pixel size is unknown: lengths are in pixels, areas in square pixels, and pixels are taken "
                     "as square.")
    rows = found.prompts.astype(object).where(found.prompts.notna(), None).to_dict("records")
    return Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        image=ImageFacts(file=picture.path.name, sha256=picture.sha256, kind=picture.kind, width=picture.frame[0],
                         height=picture.frame[1], pixel_mm=picture.pixel_mm, pixel_source=picture.pixel_source,
                         notes=notes),
        attributes=Attributes(**vars(given)), prompts=[PromptRow(**row) for row in rows],
        model=_model(found, given), statement=_statement(lesion, found.threshold, highest),
        highest_probability=highest, lesion=lesion, agreement=_agreement(found, picture))


def in_order(folds: Iterable[int | str]) -> list[int | str]:
    """Each fold once, by number; "all" is last."""
    return sorted(set(folds), key=lambda fold: (isinstance(fold, str), fold))


def _statement(lesion: Lesion | None, threshold: float, highest: float) -> str:
    if lesion is None:
        return (f"No lesion above threshold: the highest probability is {highest:.2f}, and {threshold:g} is needed. "
                "Nothing was measured.")
    text = (f"One region was segmented in the {lesion.quadrant} quadrant of the frame." if lesion.regions == 1 else
            f"{lesion.regions} separate regions were segmented; the largest, in the {lesion.quadrant} quadrant of the "
            f"frame, was measured. It holds {lesion.measured_share:.0%} of the segmented pixels.")
    return text + (" It reaches the edge of the image: diameters and area are lower bounds." if lesion.touches_edge
                   else "")


def _agreement(found: Segmentation, picture: Picture) -> Agreement | None:
    if found.disagreement is None:
        return None
    own = [measure.lesion(at_size(one, *picture.frame) >= found.threshold, picture.pixel_mm) for one in found.members]
    lesions = [lesion for lesion in own if lesion]
    lengths, areas = [one.longest_diameter for one in lesions], [one.area for one in lesions]
    return Agreement(runs=len(own), runs_with_lesion=len(lesions),
                     mean_sd=float(found.disagreement[found.mask].mean()) if found.mask.any() else None,
                     longest_diameter=(min(lengths), max(lengths)) if lesions else None,
                     area=(min(areas), max(areas)) if lesions else None)


def _model(found: Segmentation, given: UserPrompt) -> ModelFacts:
    run = found.runs[0]
    config = run["config"]
    encoders = [registry.encoder_label([weights]) for weights in run["weights"]]
    caveats = []
    if catalogue.dataset(run["dataset"]).simulated:
        caveats.append("The model was trained on a simulated phantom, not on patients: on a real image its outline and "
                       "measurements show how the software works and nothing else.")
    caveats += departures.caveats(found.runs, ", ".join(encoders))
    if (given.shape or given.margin or given.birads) and "local_text" not in found.reads:
        caveats.append(f"{run['paper_name']} reads no attributes: the given shape, margin and BI-RADS changed nothing.")
    size_read, location_read = reads_size_and_location(found.reads)
    if (given.size or given.quadrant) and not location_read:
        caveats.append(f"{run['paper_name']} reads neither size nor location: what was given changed nothing.")
    elif given.size and not size_read:
        caveats.append(f"{run['paper_name']} reads no size: the given size class changed nothing.")
    return ModelFacts(
        system=run["system"], paper_name=run["paper_name"], study=run["study"], dataset=catalogue.label(run["dataset"]),
        profile=config["profile"], image_size=config["image_size"], iterations=run["plan"]["iterations"],
        folds=in_order(one["fold"] for one in found.runs), seeds=sorted({one["seed"] for one in found.runs}),
        encoders=encoders, commits=sorted({(one["commit"] or "unknown")[:8] for one in found.runs}),
        identities=sorted({one["identity"] for one in found.runs}), threshold=config["threshold"],
        reads=list(found.reads), caveats=caveats)
