"""Executed notebooks as HTML pages that load nothing: nbconvert's plain body in a page of ours."""

import os
import re
import shutil
from html import unescape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import latex2mathml.converter
import nbformat
from jinja2 import Environment
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from traitlets.config import Config

from xbuslib.errors import StudyError
from xbuslib.files import write_whole
from xbuslib.runs.export import executed, without_progress
from xbuslib.runs.study import Study

ABOUT = {  # what the captions of notebooks that read no run say
    "03": "shapes and counts of the model itself; nothing is trained",
    "10": "the paper's own figures and BLU's masks; no run of this study is read",
}
WITHOUT_IMAGES = "10"  # shows no image of the study either, so that the caveats do not apply
LINK = re.compile(r'<a\b[^>]*? href="(?!https?:|mailto:|#)([^"]*)"[^>]*>(.*?)</a>', re.DOTALL)
NOTEBOOK = re.compile(r"(?:\./)?(\d\d_\w+)\.ipynb")
CODE = re.compile(r"(<(?:code|pre)\b.*?</(?:code|pre)>)", re.DOTALL)
MATHS = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
ANSWER = "## Short answer"
HEADING = re.compile(r"^#", re.MULTILINE)  # also below other text of its cell
FACTS = re.compile(r"\A\*\*[^*\n]+\*\*\n\n(?:- .*\n)*")  # of the runs read (runs/study.py); the report says them once
SENTENCE = re.compile(r"(?<=[.!?])\s")
HIDDEN = "hide-input"  # tag of cells that only print prose: their source is left out


class Page(NamedTuple):
    """One executed notebook."""

    source: Path
    html: Path
    question: str  # its H1
    failed: bool  # a cell ended with an error
    started: float | None  # seconds since 1970, where papermill executed it
    answer: str  # the sentences under "Short answer", as HTML
    exhibit: str  # the first table or figure there, as HTML
    sentence: str  # the first of the sentences


def convert(study: Study, target: Path, templates: Environment) -> dict[str, Page]:
    """Every .ipynb under outputs/<study>/notebooks as HTML under `target`, code visible, figures inside.

    Keys are names without suffix, such as 04_train_fold/unet_fold_0_seed_0; older pages are removed once all are made.
    """
    source, pages, texts = study.folder / "notebooks", {}, {}
    names = {path.stem for path in source.glob("[0-9][0-9]_*.ipynb")}
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True,
                            exclude_anchor_links=True,  # the other templates load scripts from the network
                            config=Config({"TagRemovePreprocessor": {"remove_input_tags": {HIDDEN}}}))
    exporter.register_filter("clean_html", lambda text: text)  # half the time, for code that is escaped already
    for path in sorted(source.glob("[0-9][0-9]_*.ipynb")) + sorted(source.glob("[0-9][0-9]_*/*.ipynb")):
        name = path.relative_to(source).with_suffix("").as_posix()
        up = "../" * name.count("/")  # the copy of a fold lies a folder deeper
        exporter.register_filter("markdown2html", lambda text, up=up: prose(text, html=True, notebooks=names, to=up))
        notebook = _read(path)
        html = target / f"{name}.html"
        answer = _short_answer(notebook, names, f"{target.name}/")
        page = Page(path, html, _question(notebook) or name, _failed(notebook), executed(notebook), *answer)
        _describe_images(notebook)
        if not page.failed:
            without_progress(notebook)  # the notebook beside the page keeps it
        body, _ = exporter.from_notebook_node(notebook)
        report, no_images = target.parent, name.startswith(WITHOUT_IMAGES)
        texts[html] = templates.get_template("notebook.html.jinja").render(
            study=study, page=page, name=name, body=body, about=ABOUT[WITHOUT_IMAGES] if no_images else study.label,
            caveats=[] if no_images else study.caveats, home=href(report / "index.html", html.parent),
            style=href(report / "style.css", html.parent), notebook=href(path, html.parent))
        pages[name] = page
    shutil.rmtree(target, ignore_errors=True)  # not before: where a notebook cannot be read, the earlier pages stay
    for html, text in texts.items():
        with write_whole(html) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return pages


def prose(text: str, html: bool = False, notebooks: set[str] = frozenset(), to: str = "") -> str:
    """Markdown as HTML, equations as MathML. HTML in the text is kept with `html`, otherwise shown as it is written.

    A link to one of `notebooks` leads to its copy, which lies in the folder `to` from here; other relative links lead
    nowhere from here, so only their words stay.
    """
    def relinked(link: re.Match) -> str:
        name = NOTEBOOK.fullmatch(link[1])
        return f'<a href="{to}{name[1]}.html">{link[2]}</a>' if name and name[1] in notebooks else link[2]

    rendered = MarkdownWithMath(renderer=IPythonRenderer(escape=not html, exclude_anchor_links=True)).render(text)
    parts = CODE.split(LINK.sub(relinked, rendered))  # every second part is code, where a $ is a $
    return "".join(part if i % 2 else MATHS.sub(_mathml, part) for i, part in enumerate(parts))


def _mathml(found: re.Match) -> str:
    """An equation in LaTeX as MathML, which browsers draw themselves."""
    equation = unescape(found[1] or found[2])
    return latex2mathml.converter.convert(equation, display="block" if found[1] else "inline")


def _read(path: Path) -> NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.reader.NotJSONError) as error:
        raise StudyError(f"cannot read the executed notebook {path} ({error}); delete it and run the study again") \
            from None


def _question(notebook: NotebookNode) -> str | None:
    lines = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line.removeprefix("# ").strip() for line in lines if line.startswith("# ")), None)


def _short_answer(notebook: NotebookNode, names: set[str], to: str) -> tuple[str, str, str]:
    """Under "Short answer": the sentences as HTML, the first table or figure, the first sentence; "" for what is not.

    Without the facts of the runs, and without what is folded there.
    """
    sentences, exhibits, inside = [], [], False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            inside = cell.source.startswith(ANSWER) or (inside and not HEADING.search(cell.source))
            continue
        for output in cell.get("outputs", []) if inside else []:
            data = output.get("data", {})
            text = FACTS.sub("", data.get("text/markdown", "")).strip()
            if "\n|" in text and not text.startswith("<details>"):
                exhibits.append(f'<div class="scroll">{prose(text, html=True, notebooks=names, to=to)}</div>')
            elif text and not text.startswith("<details>"):
                sentences.append(text)
            elif "image/png" in data:
                picture = f"data:image/png;base64,{data['image/png']}"
                exhibits.append(f'<img alt="Figure of the short answer" src="{picture}">')
    answer = "\n\n".join(sentences)
    first = SENTENCE.split(answer.split("\n\n")[0], maxsplit=1)[0].replace("**", "")
    return prose(answer, html=True, notebooks=names, to=to), "".join(exhibits[:1]), first


def _failed(notebook: NotebookNode) -> bool:
    return any(output.output_type == "error" for cell in notebook.cells for output in cell.get("outputs", []))


def _describe_images(notebook: NotebookNode) -> None:
    """Alternative texts: an image is what the nearest heading above it announces."""
    heading = "this notebook"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = [line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")]
            heading = headings[-1] if headings else heading
        for output in cell.get("outputs", []):
            for kind in output.get("data", {}):
                if kind.startswith("image/"):
                    output.metadata.setdefault(kind, {})["alt"] = f"Figure under “{heading}”"


def href(path: Path, folder: Path) -> str:
    """The address of a file in a page that lies in `folder`."""
    return quote(Path(os.path.relpath(path, folder)).as_posix())
