"""How runs depart from the paper's protocol, in plain sentences: what must stand above any number that they gave."""

from itertools import groupby

from xbuslib.data import catalogue

PIXELS, ITERATIONS = 352, 1000  # Sections 2.2 and 2.3
THRESHOLDS = {"threshold": 0.5, "first_pass_threshold": 0.3}  # Sections 2.4 and 2.7
# The plan of the `uniform` recipe: Section 2.3, and our choice where the paper is silent (training/recipes.py).
# Iterations are named apart, and the schedule's length follows them.
PLAN = {
    "batch_size": 4, "rates": {"other": 1e-4}, "schedule": "cosine(floor=1e-06)", "optimiser": "adamw",
    "weight_decay": 0.01, "amp": True, "shuffle": True, "last_batch": "continued", "loss": "soft_dice_loss",
    "own_resolution": False, "native_size": None, "augmentation": None, "drop_spatial": 0.3, "drop_attributes": 0.3,
    "mix_visual": False, "ema_decay": None, "flip_average": False,
    "zoom_average": None,
}
NAMES = {
    "batch_size": "batch size", "rates": "learning rate", "weight_decay": "weight decay", "amp": "mixed precision",
    "last_batch": "last batch of an epoch", "own_resolution": "loss at the network's own resolution",
    "native_size": "image size of the system's own (pixels)",
    "drop_spatial": "dropout probability of size and of location",
    "drop_attributes": "dropout probability of the attributes", "mix_visual": "conditions mixed with images of lesions",
    "ema_decay": "decay of averaged weights", "flip_average": "mean over the image and its mirror image",
    "zoom_average": "enlargement of a second view averaged in prediction",
    "first_pass_threshold": "threshold of the first pass",
}


def caveats(runs: list[dict], encoders: str) -> list[str]:
    """Sentences on how runs (run.json) of one study depart from the paper's protocol; none for that protocol itself.

    `encoders`: label of all that took part (registry.encoder_label).
    """
    last = [f"{text[0].upper()}{text[1:]}." for text in adoptions(runs)]
    last += [f"Also among the training images of their fold, by patient or by picture: {images}. Their scores are too "
             "good." for images in divided(runs)]
    if not (runs := trained(runs)):
        return last
    config, sentences, lengths = runs[0]["config"], [], iterations(runs)
    if config["profile"] != "paper":
        sentences.append(f"The profile is {config['profile']}, not paper: "
                         + ("small encoders, " if config["size"] == "quick" else "")
                         + f"{config['image_size']} pixels, {lengths}.")
    elif (config["image_size"], lengths) != (PIXELS, f"{ITERATIONS} iterations"):
        sentences.append(f"The paper's protocol was changed: {config['image_size']} pixels ({PIXELS} in the paper), "
                         f"{lengths} ({ITERATIONS} in the paper).")
    if small_networks(config):
        sentences.append("Networks and encoders are the small ones (size quick), not the paper's.")
    if config.get("fold_by") == "dataset":
        sentences.append("Each fold is one dataset, scored by systems that were trained on the others.")
    if limit := config.get("train_images"):
        sentences.append(f"Each fold was trained on {limit} of its training images, not on all.")
    sentences += _training(runs)
    sentences += [f"Training started from weights that had been trained on other images: {text}."
                  for text in starts(runs)]
    if "random" in encoders or "partial" in encoders:
        sentences.append("Encoders with random weights, or with a part of their pretrained weights, were used "
                         f"({encoders}).")
    return sentences + last


def small_networks(config: dict) -> bool:
    """Whether networks are narrowed though the profile is the paper's; of the other profiles its name says it."""
    return config["profile"] == "paper" and config["size"] == "quick"


def trained(runs: list[dict]) -> list[dict]:
    """The runs that were trained here."""
    return [run for run in runs if not run.get("adopted")]


def adoptions(runs: list[dict]) -> list[str]:
    """One text on all adopted systems, "adopted, not trained here: nnU-Net (masks)"; none where there is none."""
    found = {run["system"]: run["adopted"] for run in runs if run.get("adopted")}
    named = ", ".join(f"{one['label']} ({one['kind']})" for one in found.values())
    return [f"adopted, not trained here: {named}"] if found else []


def divided(runs: list[dict]) -> list[str]:
    """["3 of 60 validation images"] that share a patient or a picture with their training images; none for 0."""
    folds = {run["fold"]: run for run in runs}.values()
    shared = sum(run.get("val_divided", 0) for run in folds)  # runs of earlier versions do not say it
    return [f"{shared} of {sum(run['val_cases'] for run in folds)} validation images"] if shared else []


def short(runs: list[dict]) -> str:
    """What a caption says of the training: iterations, the recipe, and each setting that was changed."""
    last = adoptions(runs) + [f"on both sides of a fold, by patient or picture: {images}" for images in divided(runs)]
    if not (runs := trained(runs)):
        return ", ".join(last)
    recipe = runs[0]["plan"]["recipe"]
    parts = [iterations(runs)] + ([f"recipe {recipe}"] if recipe != "uniform" else [])
    if recipe == "uniform":  # another recipe's name stands for its settings
        parts += [f"{name} {value}" for name, value, _ in changes(runs[0])]
    else:
        config = runs[0]["config"]
        parts += [f"{NAMES.get(key, key.replace('_', ' '))} {_word(config[key])}" for key in _given(runs[0])]
    config = runs[0]["config"]
    if limit := config.get("train_images"):
        parts.append(f"{limit} training images")
    parts += ["small networks"] * small_networks(config)
    parts += ["a fold per dataset"] * (config.get("fold_by") == "dataset")
    return ", ".join(parts + [f"started from {text}" for text in starts(runs)] + last)


def starts(runs: list[dict]) -> list[str]:
    """What the weights of the runs had seen before, each once: "BUS-BRA, 1244 images"; none for ordinary runs.

    The number is the largest, where runs started from ancestors of different sizes.
    """
    found: dict[tuple, list[int]] = {}
    for run in runs:
        if ancestors := run.get("ancestors"):
            found.setdefault(tuple(a["dataset"] for a in ancestors), []).append([a["images"] for a in ancestors])
    return ["; ".join(f"{catalogue.label(name)}, {max(each)} images" for name, each in
                      zip(names, zip(*images, strict=True), strict=True)) for names, images in found.items()]


def training(run: dict) -> dict:
    """How one run was trained: recipe, iterations, train_images of its own dataset, images_before of others,
    seen_before in words, "none" for nothing, and the number of views averaged in prediction.

    Of predictions that were made elsewhere the recipe is "adopted" and the rest is empty.
    """
    if run.get("adopted"):
        return {"recipe": "adopted", "iterations": None, "train_images": None, "images_before": None,
                "seen_before": None, "views": None}
    plan = run["plan"]
    return {"recipe": plan["recipe"], "iterations": plan["iterations"],
            "views": (1 + plan["flip_average"]) * (2 if plan["zoom_average"] else 1),
            "train_images": run["train_cases"] if run["plan"]["iterations"] else 0,
            "images_before": sum(ancestor["images"] for ancestor in run.get("ancestors", [])),
            "seen_before": "; ".join(starts([run])) or "none"}


def iterations(runs: list[dict]) -> str:
    """ "1000 iterations", or "1250 to 20000 iterations" where the recipe differs by system."""
    lengths = sorted({run["plan"]["iterations"] for run in runs})
    return " to ".join(map(str, lengths[:1] + lengths[1:][-1:])) + f" iteration{'s' * (lengths != [1])}"


def changes(run: dict) -> list[tuple[str, str, str]]:
    """(name, value, value in the paper's protocol) of each setting of one run that differs."""
    plan = run["plan"] | {"schedule": run["plan"]["schedule"].replace(f", length={run['plan']['iterations']}", "")}
    changed = [(NAMES.get(key, key), _word(plan[key]), _word(value)) for key, value in PLAN.items()
               if plan[key] != value]
    return changed + [(NAMES.get(key, key), _word(run["config"][key]), _word(value))
                      for key, value in THRESHOLDS.items() if run["config"][key] != value]


def _training(runs: list[dict]) -> list[str]:
    """One sentence where every system was trained alike; else the differences of each."""
    by_system = {run["paper_name"]: run for run in runs}  # the runs of one system are alike (identity.mixture)
    recipe = runs[0]["plan"]["recipe"]
    named = f" (recipe {recipe})" if recipe != "uniform" else ""
    ordered = sorted(by_system, key=lambda name: _listed(by_system[name]))
    groups = [(text, list(names)) for text, names in groupby(ordered, key=lambda name: _listed(by_system[name]))]
    if len(groups) == 1:
        text = groups[0][0]
        return [f"The training differs from the paper's{named}: {text}."] if text else []
    return [f"Each system was trained by a recipe of its own{named}, not by one protocol. "
            + " ".join(f"{', '.join(names)}: {iterations([by_system[name] for name in names])}"
                       + (f", {text}." if text else ", otherwise as in the paper.") for text, names in groups)]


def _listed(run: dict) -> str:
    return ", ".join(f"{name} {value} instead of {paper}" for name, value, paper in changes(run))


def _given(run: dict) -> list[str]:
    """The settings of the training that were set by hand, over what the recipe says."""
    keys = ("batch_size", "learning_rate", "final_learning_rate", "weight_decay", "drop_spatial", "drop_attributes",
            "amp")
    changed = [key for key in keys if run["config"].get(key) is not None]
    return changed + [key for key, value in THRESHOLDS.items() if run["config"][key] != value]


def _word(value: object) -> str:
    if isinstance(value, dict):  # learning rates by group of parameters
        return ", ".join(f"{rate:g}" + ("" if group == "other" else f" ({group})") for group, rate in value.items())
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")
