"""Codes of what a DICOM report says: SNOMED CT (SCT) and DICOM's own (DCM), else a code of this project (99XBUS).

From the context groups of the DICOM standard, part 16: shape CID 6005, margin CID 6007, orientation CID 6152, lengths
CID 6165. It has no code for the words *not circumscribed*, nor a public one for the BI-RADS categories.
"""

from pydicom.sr.coding import Code

OWN = "99XBUS"  # private schemes begin with 99 (part 3, 8.2)

LESION = Code("52988006", "SCT", "Lesion")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
BREAST = Code("76752008", "SCT", "Breast")
PROCEDURE = Code("47079000", "SCT", "Ultrasonography of breast")
ARTIFICIAL_INTELLIGENCE = Code("123109", "DCM", "Artificial Intelligence")

LONGEST = Code("103339001", "SCT", "Long axis")
ORTHOGONAL = Code("103340004", "SCT", "Short axis")
AREA = Code("42798000", "SCT", "Area")
MILLIMETRE, SQUARE_MILLIMETRE = Code("mm", "UCUM", "mm"), Code("mm2", "UCUM", "mm2")

SHAPE, MARGIN = Code("300842002", "SCT", "Shape"), Code("111037", "DCM", "Margins")
ORIENTATION, ASSESSMENT = Code("111354", "DCM", "Orientation"), Code("111005", "DCM", "Assessment Category")

SHAPES = {
    "oval": Code("84360004", "SCT", "Ovoid shape (Oval)"), "round": Code("42700002", "SCT", "Round shape"),
    "irregular": Code("49608001", "SCT", "Irregular"),
}
MARGINS = {
    "circumscribed": Code("129738007", "SCT", "Circumscribed lesion"),
    "indistinct": Code("129741003", "SCT", "Indistinct lesion"),
    "angular": Code("111343", "DCM", "Angular margins"),
    "microlobulated": Code("129739004", "SCT", "Microlobulated lesion"),
    "spiculated": Code("129742005", "SCT", "Spiculated lesion"),
    "not circumscribed": Code("not-circumscr", OWN, "Not circumscribed"),
}
ORIENTATIONS = {"parallel": Code("111355", "DCM", "Parallel"), "not parallel": Code("111356", "DCM", "Not parallel")}


def assessment(category: str) -> Code:
    """The code of a BI-RADS category, such as 4a."""
    return Code(f"birads-{category}", OWN, f"BI-RADS {category}")
