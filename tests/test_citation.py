"""CITATION.cff, .zenodo.json, LICENSE and pyproject.toml say the same of the project."""

import json
import tomllib

import yaml

from tests.conftest import REPOSITORY


def test_the_four_files_agree():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    deposit = json.loads((REPOSITORY / ".zenodo.json").read_text())
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert deposit["title"] == citation["title"]
    assert deposit["version"] == str(citation["version"]) == project["version"]
    assert deposit["license"] == citation["license"] == project["license"]
    assert (REPOSITORY / "LICENSE").read_text().startswith("MIT License")
    names = [author["name"] for author in citation["authors"]]
    assert [creator["name"] for creator in deposit["creators"]] == names == [one["name"] for one in project["authors"]]
    works = {reference.get("doi") or reference["identifiers"][0]["value"] for reference in citation["references"]}
    assert {related["identifier"] for related in deposit["related_identifiers"]} == works
    assert deposit["upload_type"] == citation["type"] == "software"
