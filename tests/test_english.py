"""Words: standard English and the field's terms, in what people read and in the names of the code.

A phrase or name in these lists stopped readers, most of whom have English as their second language. The part after
the arrow is what to write.
"""

import ast
import json
import re

import pytest

from tests.conftest import REPOSITORY

PHRASES = {  # regular expressions on prose, small letters; code in docs and notebooks included
    r"honest probabilit|\bhonesty\b": "well calibrated",
    r"\btold apart\b": "significantly different",
    r"\bfalse alarms?\b": "false positive",
    r"\bat hand\b": "available",
    r"\bcame out (on|so far)|\bso far\b": "results on …",
    r"takes? (no )?part in the contest|\bcontest\b": "is (not) compared",
    r"\bnot run yet\b": "not yet tested",
    r"\bby (least|most) \w+ of\b|\bleast score\b": "minimum …",
    r"\bstands? in the next cell\b|can be asked for": "set … here",
    r"\b(not|is|was|be|are) said\b|\bnothing said\b|\bwhat is said\b": "stated, given, reported",
    r"\bsizes?(,| and| or| nor) places?\b|\bwithout (a )?place\b|\bno place is\b|\bwrong place\b": "location",
    r"\bto the letter\b|\bby eye alone\b|\bin one breath\b|\bplainly put\b": "plain words",
}
NAMES = {"said", "told", "held", "ask", "asks", "look", "looked", "again", "honest", "honesty"}
PROSE = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md"),
                *(REPOSITORY / "notebooks").glob("*.ipynb"),
                *(REPOSITORY / "xbuslib").rglob("*.py"), *(REPOSITORY / "xbuslib").rglob("*.jinja"),
                *(REPOSITORY / "xbuslib").rglob("*.yaml"), *(REPOSITORY / "workflow").rglob("*.y*ml"),
                REPOSITORY / "run_all.sh"])


def words_of(path) -> str:
    """A file as small letters on one line: a phrase that a line break divides is found too."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return re.sub(r"[\s#|>\"]+", " ", text).lower()


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_private_idiom(phrase):
    found = [f"{path.relative_to(REPOSITORY)}: … {text[max(0, hit.start() - 40):hit.end() + 40]} …"
             for path in PROSE for text in [words_of(path)] for hit in re.finditer(phrase, text)]
    assert not found, f"write {PHRASES[phrase]!r} instead:\n" + "\n".join(found)


def test_the_names_in_the_code_are_standard():
    found = []
    for path in sorted((REPOSITORY / "xbuslib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = (node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg) else
                    node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else "")
            if name.lower().strip("_") in NAMES:
                found.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}: {name}")
    assert not found, "\n".join(found)


def test_the_lists_find_what_they_are_for():
    """Sentences that were once in this repository."""
    for sentence in ("everything that can be asked for stands in the next cell.", "the two are not told apart.",
                     "honest probabilities", "what came out on blu so far", "it takes no part in the contest",
                     "not run yet: a gpu", "components by least score of a component", "size and place of the lesion"):
        assert any(re.search(phrase, sentence) for phrase in PHRASES), sentence
