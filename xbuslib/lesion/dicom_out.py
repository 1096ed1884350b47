"""A segmentation as DICOM files that refer to the source image: two Segmentations and a Structured Report.

Binary (the mask) and fractional (the probability) Segmentation, and a measurement report (TID 1500) with a planar
region (TID 1410). They carry the patient and study of the source file, as any object of that study must.
"""

import importlib.metadata
import io
from typing import TYPE_CHECKING

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

from xbuslib.data.cases import margin_words
from xbuslib.errors import StudyError
from xbuslib.lesion import dicom_codes as codes
from xbuslib.lesion.ensemble import Segmentation
from xbuslib.lesion.reading import Picture
from xbuslib.lesion.structured_report import Report

if TYPE_CHECKING:
    import highdicom

IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# Attributes of type 2: they must be there, and may be empty (part 5, 7.4.3).
EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
         "StudyTime", "ReferringPhysicianName")
SERIES = (9001, 9002, 9003)  # series numbers: mask, probability, report
MAKER, LEVELS = "XBusNet study", 255  # steps of the fractional segmentation


def require() -> None:
    """Raise StudyError if highdicom is not installed."""
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise StudyError("--dicom needs highdicom: pip install 'xbuslib[dicom]', or pip install highdicom") from None


def source(picture: Picture) -> Dataset:
    """The attributes of the file that a picture was read from, without its pixels.

    Raises StudyError if it is no DICOM file of one frame with an identity, or if its pixel size cannot be known.
    """
    path = picture.path
    if picture.kind != "DICOM":
        raise StudyError(f"{path}: --dicom writes files that refer to a DICOM image, and this one is {picture.kind}. "
                         "Leave --dicom out, or give the scanner's own file.")
    data = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    if int(data.get("NumberOfFrames") or 1) > 1:
        raise StudyError(f"{path} holds {data.NumberOfFrames} frames; --dicom is for files of one. Export the frame "
                         "as a file of its own.")
    lacking = [name for name in IDENTITY if not data.get(name)]
    if lacking:
        raise StudyError(f"{path} lacks {', '.join(lacking)}, so that no other file can refer to it. Export it again "
                         "from the archive, with its identifiers.")
    if not picture.pixel_mm and not picture.regions:
        raise StudyError(f"{path}: its pixel size is unknown, and a DICOM report needs millimetres. "
                         "Give --pixel-mm, or leave --dicom out.")
    for name in EMPTY:
        if name not in data:
            setattr(data, name, "")
    if "ImagePositionPatient" not in data and "FrameOfReferenceUID" in data:
        del data.FrameOfReferenceUID  # it has no place in it
    return data


def files(picture: Picture, found: Segmentation, report: Report) -> dict[str, bytes]:
    """segmentation.dcm, probability.dcm and report.dcm; none where no lesion was found.

    Raises StudyError where the source does not fit (`source`), or where the lesion has no one pixel size.
    """
    data = source(picture)
    if report.lesion is None:
        return {}
    if report.lesion.unit != "mm":
        why = next((note for note in picture.notes if note.startswith("The lesion ")), "its pixel size is unknown.")
        raise StudyError(f"{picture.path}: {why} A DICOM report needs millimetres: give --pixel-mm, or leave --dicom "
                         "out.")
    shape, kind = (int(data.Rows), int(data.Columns)), data.SOPClassUID
    if kind == UltrasoundMultiFrameImageStorage:  # of one frame: highdicom takes it for one of many
        data.SOPClassUID = UltrasoundImageStorage
    try:
        mask = _segmentation(data, _placed(found.mask, picture.origin, shape), report, binary=True)
        share = _segmentation(data, _placed(found.probability, picture.origin, shape), report, binary=False)
        made = {"segmentation.dcm": mask, "probability.dcm": share, "report.dcm": _report(data, mask, report)}
        return {name: _bytes(file, kind) for name, file in made.items()}
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # an attribute that breaks the standard
        raise StudyError(f"{picture.path}: its attributes cannot stand in a DICOM file made from it ({error}). Correct "
                         "them in the archive and export it again, or leave --dicom out.") from None


def _placed(values: np.ndarray, origin: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """(h, w) values of a crop in the whole (H, W) frame, with nothing around them."""
    whole = np.zeros(shape, values.dtype)
    left, top = origin
    whole[top:top + values.shape[0], left:left + values.shape[1]] = values
    return whole


def _segmentation(data: Dataset, values: np.ndarray, report: Report, binary: bool) -> "highdicom.seg.Segmentation":
    import highdicom

    description = highdicom.seg.SegmentDescription(
        segment_number=1, segment_label="Lesion", segmented_property_category=codes.ABNORMAL,
        segmented_property_type=codes.LESION, algorithm_type="AUTOMATIC", anatomic_regions=[codes.BREAST],
        tracking_uid=highdicom.UID(), tracking_id="Lesion 1",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=report.model.paper_name, family=codes.ARTIFICIAL_INTELLIGENCE, version=_version(report)))
    what = "mask" if binary else "probability"
    made = highdicom.seg.Segmentation(
        [data], values, "BINARY" if binary else "FRACTIONAL", [description], max_fractional_value=LEVELS,
        omit_empty_frames=False, content_label="LESION_MASK" if binary else "LESION_PROB",
        content_description=f"Lesion, {what}; research use only",
        series_description=f"Lesion {what}, research use only",
        **_made(report, SERIES[0] if binary else SERIES[1]), manufacturer=MAKER,
        manufacturer_model_name=report.model.paper_name, software_versions=_version(report),
        device_serial_number="-".join(report.model.identities)[:64])
    made.PatientOrientation = data.get("PatientOrientation", "")  # required, if empty, of images without a position
    return made


def _made(report: Report, series: int) -> dict:
    import highdicom

    return {"series_instance_uid": highdicom.UID(), "sop_instance_uid": highdicom.UID(), "series_number": series,
            "instance_number": 1}


def _version(report: Report) -> str:
    return f"xbuslib {importlib.metadata.version('xbuslib')}, run {report.model.identities[0]}"


def _report(data: Dataset, mask: "highdicom.seg.Segmentation", report: Report) -> "highdicom.sr.ComprehensiveSR":
    from highdicom import sr

    device = sr.ObserverContext(sr.CodedConcept("121007", "DCM", "Device"), sr.DeviceObserverIdentifyingAttributes(
        uid=mask.SOPInstanceUID, name="xbuslib", manufacturer_name=MAKER, model_name=report.model.paper_name))
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device), procedure_reported=codes.PROCEDURE,
        imaging_measurements=[_lesion(data, mask, report)], referenced_images=[data],
        title=sr.CodedConcept("126000", "DCM", "Imaging Measurement Report"))
    return sr.ComprehensiveSR(
        evidence=[data, mask], content=content[0], **_made(report, SERIES[2]), manufacturer=MAKER, is_complete=True,
        is_verified=False, series_description="Lesion measurements, research use only")


def _lesion(data: Dataset, mask: "highdicom.seg.Segmentation",
            report: Report) -> "highdicom.sr.PlanarROIMeasurementsAndQualitativeEvaluations":
    """TID 1410 on the segment, its algorithm, and the largest region's measurements."""
    from highdicom import sr

    lesion, segment = report.lesion, mask.SegmentSequence[0]
    region = sr.ReferencedSegmentationFrame(
        mask.SOPClassUID, mask.SOPInstanceUID, frame_number=1, segment_number=1,
        source_image=sr.SourceImageForSegmentation(data.SOPClassUID, data.SOPInstanceUID))
    del region[0].ReferencedSOPSequence[0].ReferencedFrameNumber  # not beside a segment's number (part 3, C.17.6.3)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=segment.TrackingUID, identifier=segment.TrackingID),
        referenced_segment=region,
        finding_type=codes.LESION, finding_sites=[sr.FindingSite(codes.BREAST)],
        algorithm_id=sr.AlgorithmIdentification(name=report.model.paper_name, version=_version(report),
                                                parameters=_parameters(report)),
        measurements=[
            sr.Measurement(codes.LONGEST, lesion.longest_diameter, codes.MILLIMETRE),
            sr.Measurement(codes.ORTHOGONAL, lesion.orthogonal_diameter, codes.MILLIMETRE),
            sr.Measurement(codes.AREA, lesion.area, codes.SQUARE_MILLIMETRE)],
        qualitative_evaluations=[sr.QualitativeEvaluation(name, value) for name, value in _descriptors(report)])


def _descriptors(report: Report) -> list[tuple]:
    """(concept, value) of the descriptors: orientation as it was measured, the others as the user gave them."""
    given, found = report.attributes, [(codes.ORIENTATION, codes.ORIENTATIONS[report.lesion.orientation])]
    found += [(codes.SHAPE, codes.SHAPES[given.shape])] if given.shape else []
    found += [(codes.MARGIN, codes.MARGINS[word]) for word in margin_words(given.margin)] if given.margin else []
    return found + ([(codes.ASSESSMENT, codes.assessment(given.birads))] if given.birads else [])


def _parameters(report: Report) -> list[str]:
    """What a reader of the report must know of the algorithm, in sentences."""
    given = [f"{name} {value}" for name, value in report.attributes if value]
    return [report.purpose,
            f"Given by the user, not found by the model: {', '.join(given)}." if given else
            "The user described nothing of the lesion.",
            report.statement, f"Pixel size: {report.image.pixel_source}.", *report.model.caveats]


def _bytes(data: Dataset, kind: str) -> bytes:
    """The file; ultrasound images that it refers to are of the SOP class `kind`."""
    for item in data.iterall():
        if item.keyword == "ReferencedSOPClassUID" and item.value == UltrasoundImageStorage:
            item.value = kind
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()
