"""The report: one page of a study's tables and figures and of how they came about, readable without a network."""

import re
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from xbuslib.display import style
from xbuslib.files import write_whole
from xbuslib.report import facts, notebooks
from xbuslib.report.notebooks import Page, href
from xbuslib.runs import record
from xbuslib.runs.export import left_over
from xbuslib.runs.study import Study, open_study

PAPER = (  # what the paper shows, and our file for it; without table_1.md, table_1_by_policy.md takes its place
    ("Table 1", "systems compared", "tables/05/table_1.md"),
    ("Table 2", "Dice and IoU by lesion size", "tables/06/table_2.md"),
    ("Table 3", "XBusNet by fold", "tables/05/table_3.md"),
    ("Table 4", "ablations", "tables/07/table_4.md"),
    ("Figure 1", "architecture", "figures/03/figure_1.png"),
    ("Figure 2", "segmentations side by side", "figures/08/figure_2.png"),
    ("Figure 3", "Grad-CAM", "figures/09/figure_3.png"),
)
PRINTED = tuple(file.rsplit(".", 1)[0] for _, _, file in PAPER)
FOLDS = "04"  # the notebook that runs once per fold; those after it read finished runs
CLOCKS = 60  # seconds by which two machines' clocks may differ
HERE = Path(__file__).parent
TEMPLATES = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
                        undefined=StrictUndefined)
SPELT = {"birads": "BI-RADS", "froc": "FROC"}  # words of file names as they are written in text
Link = tuple[str, str]  # what, relative address


class Item(NamedTuple):
    """A table (HTML) or a figure on the page."""

    place: str  # tables/05/table_1
    caption: str  # of a figure: its title
    table: str  # "" for a figure
    figure: dict  # href, width, height, alt; empty for a table
    links: list[Link]

    @property
    def name(self) -> str:
        """ "Table 1" """
        return _readable(self.place.rsplit("/", 1)[-1])

    @property
    def anchor(self) -> str:
        """Its id on the page."""
        return re.sub(r"[^\w.-]", "-", self.place)


class Section(NamedTuple):
    """What one notebook wrote."""

    number: str
    question: str
    about: str  # where its numbers come from, for captions
    links: list[Link]
    answer: str  # the notebook's short answer, as HTML
    exhibit: str  # its table or figure, as HTML
    sentence: str  # its first sentence
    items: list[Item]
    data: list[Link]  # tables that are there as CSV alone
    notes: list[str]  # what a reader must know of it


def build(name: str, partial: bool = False) -> Path:
    """Write outputs/<study>/report/: index.html, style.css and every executed notebook as HTML; returns the page.

    Raises StudyError as open_study does: without runs, with mixed ones, and, unless `partial`, with some
    missing. The page names whatever else is missing.
    """
    study = open_study(name, partial=partial)
    records = study.records
    folder = study.folder / "report"
    pages = notebooks.convert(study, folder / "notebooks", TEMPLATES)
    newest, old = max(record.seconds(run["created"]) for run in records), left_over(study)
    left = {path.name for kind in ("tables", "figures") for path in (study.folder / kind).glob("[0-9][0-9]")}
    numbers = sorted(left | {notebook[:2] for notebook in pages} | {FOLDS})
    sections = [_section(study, folder, number, pages, newest, old) for number in numbers]
    paper = [(*wanted, _find(place, sections)) for wanted, place in zip(PAPER, PRINTED, strict=True)]
    content = TEMPLATES.get_template("page.html.jinja").render(
        study=study, sections=sections, folds=FOLDS, warnings=[note for section in sections for note in section.notes],
        paper=paper, shown={item.place for *_, item in paper if item},
        not_run=facts.not_run(study, pages), facts=facts.facts(study, records),
        systems=facts.systems(study, records), fold_scores=_fold_scores(study, folder, pages))
    for path, text in ((folder / "style.css", (HERE / "style.css").read_text(encoding="utf-8")),
                       (folder / "index.html", content)):
        with write_whole(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return folder / "index.html"


def _section(study: Study, folder: Path, number: str, pages: dict[str, Page], newest: float,
             old: set[Path]) -> Section:
    name, page = next(((n, p) for n, p in sorted(pages.items()) if n.startswith(f"{number}_")), (number, None))
    question = page.question if page else f"Notebook {number}"
    if number == FOLDS:  # each run's figures are in its own notebook
        return Section(number, question, study.label, [], "", "", "", [], [], [])
    files, notes = _current(study, number, old)
    about = notebooks.ABOUT.get(number, study.label)
    tables = [_table(study, folder, path, about) for path in files if path.suffix == ".md"]
    drawn = [_figure(study, folder, path, about) for path in files if path.suffix == ".png"]
    shown = {item.place for item in [*tables, *drawn]}
    data = [(path.name, href(path, folder)) for path in files
            if path.suffix == ".csv" and _place(study, path) not in shown]
    if page and page.failed:
        notes.append(f"Notebook {name} stopped with an error; only what it wrote before that is shown.")
    if number > FOLDS and page and page.started and page.started + CLOCKS < newest:
        notes.append(f"Notebook {name} was executed before the newest run had finished, so its tables and figures "
                     "lack that run. Run the study again.")
    links = [("executed notebook", href(page.html, folder)), (".ipynb", href(page.source, folder))] if page else []
    answer = (page.answer, page.exhibit, page.sentence) if page else ("", "", "")
    return Section(number, question, about, links, *answer, [*tables, *drawn], data, notes)


def _current(study: Study, number: str, old: set[Path]) -> tuple[list[Path], list[str]]:
    """Files that a notebook wrote, tables first, in the order of writing; those of an earlier execution are only named.
    """
    files = [path for kind in ("tables", "figures")
             for path in sorted((study.folder / kind / number).glob("[!.]*.*"), key=lambda p: p.stat().st_mtime_ns)]
    named = ", ".join(path.relative_to(study.folder).as_posix() for path in files if path in old)
    if not named:
        return files, []
    return ([path for path in files if path not in old],
            [f"Left over from an earlier execution of notebook {number}, and therefore not shown: {named}."])


def _table(study: Study, folder: Path, path: Path, about: str) -> Item:
    """A Markdown file: what precedes the table is its caption, what follows are notes."""
    blocks = re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip())
    first = next((i for i, block in enumerate(blocks) if block.startswith("|")), len(blocks))
    caption = " ".join(blocks[:first]) or f"{_readable(path.stem)}. {about}"
    caption = caption.removesuffix(f" Study: {study.label}.")  # stated once, at the top of the page
    caption = notebooks.prose(caption).strip().removeprefix("<p>").removesuffix("</p>")
    body = "".join(notebooks.prose(block) for block in blocks[first:])
    if "<table>" in body:
        body = body.replace("<table>", f"<table>\n<caption>{caption}</caption>", 1)
    else:  # a table without rows
        body = f"<p>{caption}</p>\n{body}"
    body = re.sub(r"<td([^>]*)>(?=[^<]{25})", r'<td\1 class="long">', re.sub(r"<th\b", '<th scope="col"', body))
    return Item(_place(study, path), "", body, {},
                _links(folder, path, CSV="csv", LaTeX="tex", Markdown="md"))


def _figure(study: Study, folder: Path, path: Path, about: str) -> Item:
    with Image.open(path) as picture:  # shown at the size it was drawn for, in CSS pixels of 1/96 inch
        width, height = (round(side * 96 / style.RESOLUTION) for side in picture.size)
        title = picture.info.get("Title") or _readable(path.stem)
    numbers = f"; its numbers are in {path.stem}.csv" if path.with_suffix(".csv").is_file() else ""
    return Item(_place(study, path), f"{title}.", "",
                {"href": href(path, folder), "width": width, "height": height,
                 "alt": f"{_readable(path.stem)}, {about}{numbers}"},
                _links(folder, path, PNG="png", PDF="pdf", CSV="csv"))


def _find(place: str, sections: list[Section]) -> Item | None:
    items = [item for section in sections for item in section.items]
    return next((item for item in items if item.place == place),
                next((item for item in items if item.place.startswith(f"{place}_")), None))


def _fold_scores(study: Study, folder: Path, pages: dict[str, Page]) -> dict:
    """Dice of every run in its default scoring, each with its executed notebook."""
    dice = study.default.groupby(["system", "seed", "fold"])["dice"].mean()
    names = study.per_image.drop_duplicates("system").set_index("system")["paper_name"]
    columns, rows = sorted(study.runs["fold"].unique()), []
    for system in study.systems:
        for seed in sorted(study.runs["seed"].unique()):
            cells = []
            for fold in columns:
                page = pages.get(f"{FOLDS}_train_fold/{system}_fold_{fold}_seed_{seed}")
                cells.append((dice.get((system, seed, fold)), href(page.html, folder) if page else None))
            rows.append((names[system], system, seed, cells))
    return {"folds": columns, "rows": rows, "several_seeds": study.runs["seed"].nunique() > 1}


def _links(folder: Path, path: Path, **suffixes: str) -> list[Link]:
    files = [(what, path.with_suffix(f".{suffix}")) for what, suffix in suffixes.items()]
    return [(what, href(file, folder)) for what, file in files if file.is_file()]


def _place(study: Study, path: Path) -> str:
    return path.relative_to(study.folder).with_suffix("").as_posix()


def _readable(stem: str) -> str:
    words = " ".join(SPELT.get(word, word) for word in stem.split("_"))
    return words[0].upper() + words[1:]
