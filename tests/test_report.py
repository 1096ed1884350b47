"""The report: complete, names what is absent, and can be read from disk without a network."""

import html
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from xbuslib.errors import StudyError
from xbuslib.report import notebooks
from xbuslib.report.page import TEMPLATES, Item, build
from xbuslib.runs import record

TABLE = """Systems compared, *{label}*

| system | Dice | FPR ↓ |
|:--|--:|--:|
| a<b>"c" & d \\| e † | **0.812 ± 0.010** | 0.1 |

† The policy knows the reference mask.
"""


class Tags(HTMLParser):
    """Every tag with its attributes, and ids."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.tags, self.open = path, [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "hr", "input", "col"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{self.path}: </{tag}> closes something else"

    def all(self, wanted):
        return [attributes for tag, attributes in self.tags if tag == wanted]


def check_page(path: Path) -> Tags:
    """What holds for any page of a report: nothing is loaded from elsewhere, links lead somewhere, it can be heard."""
    page = Tags(path)
    assert page.open == [] and not page.all("script") and not page.all("iframe")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    for tag, attributes in page.tags:
        loaded = attributes.get("src") or (attributes.get("href") if tag == "link" else None)
        assert loaded is None or not re.match(r"\w+:|//", loaded) or loaded.startswith("data:image/"), loaded
        target = loaded if tag != "a" else attributes.get("href")
        if target is None or target.startswith("data:"):
            continue
        if target.startswith("#"):
            assert target[1:] in ids, f"{path}: nothing is at {target}"
        elif not re.match(r"https?://(doi\.org|arxiv\.org)/", target):
            assert not target.startswith("/") and (path.parent / unquote(target)).is_file(), f"{path}: {target} is dead"
    assert len(page.all("h1")) == 1 and page.all("html")[0]["lang"] == "en"
    assert all(image["alt"].strip() for image in page.all("img"))
    assert "url(" not in path.read_text().split("</head>")[0] and "@import" not in path.read_text()
    return page


def executed(folder, name, question, *, failed=False, started=None, markdown=""):
    outputs = [new_output("stream", text="training: 88/150\n"),
               new_output("display_data", {"text/plain": "<b>0.5</b>"})]
    if failed:
        outputs.append(new_output("error", ename="StudyError", evalue="no", traceback=["no"]))
    picture = new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"})
    cells = [new_markdown_cell(f"# {question}\n\n{markdown}"), new_code_cell('score = "<i>"  # note', outputs=outputs),
             new_markdown_cell("## Scores"), new_code_cell("picture", outputs=[picture])]
    notebook = new_notebook(cells=cells, metadata={"papermill": {"start_time": started}} if started else {})
    path = folder / "notebooks" / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def drawn(folder, kind, number, name):
    place = folder / kind / number
    place.mkdir(parents=True, exist_ok=True)
    if kind == "tables":
        (place / f"{name}.md").write_text(TABLE.format(label="simulated phantom"))
        (place / f"{name}.tex").write_text("")
    else:
        Image.fromarray(np.zeros((90, 180, 3), np.uint8)).save(place / f"{name}.png")
        (place / f"{name}.pdf").write_text("")
    (place / f"{name}.csv").write_text("a\n1\n")


@pytest.fixture
def study(smoke_study, tmp_path, monkeypatch):
    """Runs of the smoke study, a few executed notebooks, the paper's tables and figures but Table 4 and Figure 3."""
    shutil.copytree(smoke_study.folder, tmp_path / "out put" / smoke_study.name,
                    ignore=shutil.ignore_patterns("*.safetensors", "*.npz"))
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path / "out put"))
    folder = tmp_path / "out put" / smoke_study.name
    executed(folder, "03_model_anatomy", "What is each branch made of?")
    executed(folder, "04_train_fold/unet_fold_0_seed_0", "How good is one system on one fold?")
    executed(folder, "05_overall_performance", "Which <system> is best?")
    for kind, number, name in (("tables", "05", "table_1"), ("tables", "05", "table_3"), ("tables", "06", "table_2"),
                               ("tables", "05", "by_policy"), ("figures", "03", "figure_1"),
                               ("figures", "05", "dice #1 of_100%"), ("figures", "08", "figure_2")):
        drawn(folder, kind, number, name)
    (folder / "tables" / "05" / "raw.csv").write_text("a\n1\n")
    return folder


def text_of(path):
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", path.read_text())))


def test_every_page_is_sound_and_loads_nothing(study):
    page = build(study.name)
    assert page == study / "report" / "index.html"
    pages = [page, *(study / "report" / "notebooks").rglob("*.html")]
    assert len(pages) == 4
    for path in pages:
        check_page(path)
    assert not re.search(r"url\(|@import", (study / "report" / "style.css").read_text())


def test_label_and_every_caveat_come_before_anything_else(study, smoke_study):
    text = text_of(build(study.name))
    first = text.index("Contents")
    assert all(0 < text.index(sentence) < first for sentence in [smoke_study.label, *smoke_study.caveats])
    assert len(smoke_study.caveats) == 4  # phantom, profile, learning rate, random encoders
    notebook = text_of(study / "report" / "notebooks" / "05_overall_performance.html")
    assert all(sentence in notebook for sentence in [smoke_study.label, *smoke_study.caveats])


def test_the_papers_seven_come_first_and_absent_ones_are_named(study):
    page = check_page(build(study.name))
    contents = page.path.read_text().split("What the paper shows")[1].split("</ul>")[0]
    items = [re.sub("<[^>]+>", "", item) for item in re.findall(r"<li.*?</li>", contents)]
    assert [words[:8].rstrip(":, ") for words in items] == ["Table 1", "Table 2", "Table 3", "Table 4", "Figure 1",
                                                          "Figure 2", "Figure 3"]
    assert [words for words in items if "absent" in words] == [items[3], items[6]]
    assert "tables/07/table_4.md" in items[3] and "figures/09/figure_3.png" in items[6]


def test_tables_are_tables_with_caption_notes_and_files(study):
    text = build(study.name).read_text()
    table = text.split('id="tables-05-table_1"')[1].split("</div>\n</div>")[0].split('<p class="links">')
    assert "<caption>Systems compared, <em>simulated phantom</em></caption>" in table[0]
    assert re.search(r'<th scope="col"[^>]*>FPR ↓</th>', table[0])
    assert re.search(r"<td[^>]*>a&lt;b&gt;&quot;c&quot; &amp; d \| e †</td>", table[0])
    assert "<strong>0.812 ± 0.010</strong>" in table[0] and "<p>† The policy knows" in table[0]
    assert re.findall(r'href="../tables/05/table_1\.(\w+)"', table[1]) == ["csv", "tex", "md"]


@pytest.mark.parametrize("stem, name", [("table_1", "Table 1"), ("class_by_birads", "Class by BI-RADS"),
                                        ("froc", "FROC")])
def test_items_are_named_after_their_files(stem, name):
    assert Item(f"figures/01/{stem}", "", "", {}, []).name == name


def test_sections_are_questions_in_order_with_the_papers_items_first(study):
    text = build(study.name).read_text()
    headings = [re.sub("<[^>]+>", "", heading) for heading in re.findall(r"<h2.*?</h2>", text)]
    assert headings == ["Contents", "The paper's tables and figures",
                        "03 What is each branch made of?", "04 How good is one system on one fold?",
                        "05 Which &lt;system&gt; is best?", "06 Notebook 06", "08 Notebook 08", "How was it run?"]
    places = re.findall(r'id="((?:tables|figures)-05-[^"]*)"', text)
    assert places == ["tables-05-table_1", "tables-05-table_3", "tables-05-by_policy", "figures-05-dice--1-of_100-"]
    assert "../tables/05/raw.csv" in text and "../figures/05/dice%20%231%20of_100%25.pdf" in text


def test_dice_of_every_run_links_to_its_notebook(study, smoke_study):
    text = build(study.name).read_text()
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', text.split('id="notebook-04"')[1], re.DOTALL)
    shown = {name: [float(re.sub("<[^>]+>", "", cell)) for cell in re.findall("<td.*?</td>", cells, re.DOTALL)]
             for name, cells in rows[:len(smoke_study.systems)]}
    for system in smoke_study.systems:
        rows_of = smoke_study.default[smoke_study.default["system"] == system]
        means = [rows_of[rows_of["fold"] == fold]["dice"].mean() for fold in (0, 1)]
        assert shown[rows_of["paper_name"].iloc[0]] == pytest.approx(means, abs=5.1e-4)
    assert re.findall(r'href="notebooks/04_train_fold/(\w+)\.html"', text) == ["unet_fold_0_seed_0"]


def test_facts_of_the_runs(study, smoke_study):
    edit = next((study / "runs" / "unet" / "fold_1").glob("*/run.json"))
    edit.write_text(edit.read_text().replace('"dirty": true', '"dirty": false').replace(
        f'"commit": "{smoke_study.facts["commit"]}"', '"commit": "0123456789abcdef"'))
    text = text_of(build(study.name))
    assert "commit 01234567: 1 run" in text and ": 11 runs" in text
    minutes = sum(record.read(Path(folder))["seconds"]["total"] for folder in smoke_study.runs["folder"]) / 60
    assert f"{minutes:.1f} minutes in 12 runs" in text
    assert "Changed settingsfolds=2, iterations=2 Prompt" in text  # as against the profile
    for words in (smoke_study.facts["precision"], smoke_study.facts["device"], "profile smoke",
                  "0, 1", "ResNet-18 random", "first_pass",
                  smoke_study.facts["dataset_fingerprint"][:12], smoke_study.facts["versions"]["torch"]):
        assert words in text


def test_notebooks_are_pages_with_their_code(study):
    executed(study, "05_overall_performance", "Which?", markdown="See [the protocol](../docs/protocol.md), [paper]"
             "(https://arxiv.org/abs/2509.07213) and $C_x$.")
    build(study.name)
    path = study / "report" / "notebooks" / "05_overall_performance.html"
    page, text = check_page(path), path.read_text()
    assert "&lt;i&gt;" in text and "&lt;b&gt;0.5&lt;/b&gt;" in text  # code and output as written, not as HTML
    assert "training: 88/150" not in text  # progress
    assert "See the protocol, " in text and "<msub><mi>C</mi><mi>x</mi></msub>" in text
    assert "https://arxiv.org/abs/2509.07213" in [link.get("href") for link in page.all("a")]
    assert "Scores" in page.all("img")[0]["alt"]


def test_the_short_answer_leads_its_section_and_the_page(study, smoke_study):
    """Its text without the facts, which stand at the top once, its equations as MathML; its first sentence in short."""
    some = f"**{smoke_study.label}, of two systems**\n\n- {smoke_study.caveats[0]}\n"  # of a notebook that reads those
    told = f"{some}\n**XBusNet leads, 0.81** by $\\alpha_1$. A second sentence.\n\n[next](06_a.ipynb)"
    cells = [new_markdown_cell("# Which?"), new_markdown_cell("## Short answer"),
             new_code_cell("hidden_source()", metadata={"tags": ["hide-input"]}, outputs=[
                 new_output("display_data", {"text/markdown": told}),
                 new_output("display_data", {"image/png": "iVBORw0KGgo="}),
                 new_output("display_data", {"text/markdown": "Table 9.\n\n| a |\n|--:|\n| 7.25 |"})]),
             new_markdown_cell("How the cases were chosen.\n\n## 1 More"),
             new_code_cell("other()", outputs=[new_output("display_data", {"text/markdown": "Not part of it."})])]
    for name in ("05_overall_performance", "12_calibration"):
        nbformat.write(new_notebook(cells=cells), study / "notebooks" / f"{name}.ipynb")
    page = build(study.name)
    check_page(page)
    text = page.read_text()
    answer = text.split('<div class="answer">')[1].split("</div>")[0]
    assert "<strong>XBusNet leads, 0.81</strong>" in answer and "<math" in answer and "7.25" not in answer
    before, exhibit = text.split('<div class="exhibit">')  # one: Table 1, of notebook 05, is among the paper's
    assert 'id="notebook-12"' in before and 'href="#tables-05-table_1"' in before
    assert "data:image/png;base64" in exhibit.split("</div>")[0] and "7.25" not in text  # the first exhibit alone
    assert not any(words in answer for words in (smoke_study.label, smoke_study.caveats[0], "Not part of it", "06_a"))
    short = text.split('id="heading-short"')[1].split("</section>")[0]
    assert "XBusNet leads, 0.81 by" in short and "A second sentence" not in short
    copy = (study / "report" / "notebooks" / "05_overall_performance.html").read_text()
    assert "hidden_source" not in copy and "other()" in re.sub("<[^>]+>", "", copy)


def test_an_unreadable_notebook_leaves_the_pages_of_an_earlier_report(tmp_path):
    target, study = tmp_path / "report" / "notebooks", SimpleNamespace(folder=tmp_path, label="L", caveats=[], name="s")
    for name in ("03_model_anatomy", "05_overall_performance", "06_size_stratified"):
        executed(tmp_path, name, "Which?")
    notebooks.convert(study, target, TEMPLATES)
    before = {path.name: path.read_text() for path in target.iterdir()}
    executed(tmp_path, "05_overall_performance", "Another question?")
    (tmp_path / "notebooks" / "06_size_stratified.ipynb").write_text('{"cells": [')  # half copied
    with pytest.raises(StudyError, match="cannot read the executed notebook .*06_size_stratified"):
        notebooks.convert(study, target, TEMPLATES)
    assert len(before) == 3 and {path.name: path.read_text() for path in target.iterdir()} == before
    (tmp_path / "notebooks" / "06_size_stratified.ipynb").unlink()
    notebooks.convert(study, target, TEMPLATES)
    assert {path.name for path in target.iterdir()} == {"03_model_anatomy.html", "05_overall_performance.html"}


def test_a_notebook_that_failed_and_one_that_never_ran_are_named(study):
    executed(study, "05_overall_performance", "Which?", failed=True)
    (study / "study.json").write_text('{"systems": [], "folds": [], "seeds": [], "overrides": ["iterations=2"], '
                                      '"notebooks": [], "analyses": ["05_overall_performance", "07_ablations"]}')
    text = text_of(build(study.name))
    top = text[:text.index("Contents")]
    assert "Notebook 05_overall_performance stopped with an error" in top
    assert "training: 88/150" in (study / "report" / "notebooks" / "05_overall_performance.html").read_text()
    assert "Not executed in this study: 07_ablations." in top and "iterations=2" in text


def test_files_of_an_earlier_execution_are_named_but_not_shown(study):
    executed(study, "05_overall_performance", "Which?", started="2100-01-01T00:00:00+00:00")
    for path in (study / "tables" / "05").glob("table_1.*"):
        os.utime(path, (5e9, 5e9))  # as if written after the notebook had started
    text = build(study.name).read_text()
    assert "tables-05-table_1" in text and "tables-05-table_3" not in text
    left_out = text.split("not shown: ")[1].split("<")[0]
    assert {"tables/05/by_policy.csv", "tables/05/table_3.md"} <= set(left_out.rstrip(". ").split(", "))
    assert "Table 3, XBusNet by fold, is absent" in text


def test_a_notebook_older_than_a_run_is_named(study):
    executed(study, "05_overall_performance", "Which?", started="2001-01-01T00:00:00")
    executed(study, "03_model_anatomy", "What?", started="2001-01-01T00:00:00")  # reads no runs
    text = text_of(build(study.name))
    top = text[:text.index("Contents")]
    assert "05_overall_performance was executed before the newest run" in top and "03_model_anatomy was" not in top


def test_a_partial_study_is_refused_or_says_so(study):
    shutil.rmtree(study / "runs" / "uresnet" / "fold_1")
    with pytest.raises(StudyError, match="uresnet, fold 1, seed 0"):
        build(study.name)
    assert not (study / "report").exists()
    text = text_of(build(study.name, partial=True))
    assert "This study is partial" in text[:text.index("Contents")] and "missing" in text.split("U-ResNet")[1][:40]


def test_a_notebook_that_reads_no_run_is_not_labelled_as_one_that_does(study, smoke_study):
    executed(study, "10_paper_audit", "Do the paper's numbers follow?")
    drawn(study, "figures", "10", "two_scales")
    text = build(study.name).read_text()
    figure = re.search(r'id="figures-10-two_scales".*?</figure>', text, re.DOTALL)[0]
    assert "no run of this study is read" in figure and "phantom" not in figure
    page = text_of(study / "report" / "notebooks" / "10_paper_audit.html")
    assert "no run of this study is read" in page and not any(caveat in page for caveat in smoke_study.caveats)


def test_a_study_without_notebooks_and_with_an_odd_name(study):
    odd = study.rename(study.with_name("a&b <i>#1 %41"))
    for folder in ("tables", "figures", "notebooks"):
        shutil.rmtree(odd / folder)
    page = check_page(build(odd.name))
    assert "<h1>Report of study a&amp;b &lt;i&gt;#1 %41</h1>" in page.path.read_text()
    assert page.path.read_text().count("is absent") == 7


def test_the_command(study):
    from typer.testing import CliRunner

    from xbuslib.cli import app

    done = CliRunner().invoke(app, ["report", study.name])
    assert done.exit_code == 0 and done.output.replace("\n", "") == str(study / "report" / "index.html")
