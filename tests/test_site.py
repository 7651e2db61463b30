import re
import shutil
from pathlib import Path

import pytest

from labkit.course import names
from labkit.errors import LabError
from labkit.profiles import COURSE
from labkit.site import write_site


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return write_site(tmp_path_factory.mktemp("site")).parent


def test_every_solved_lab_has_a_page_with_its_outputs(site):
    for name in names():
        page = (site / "labs" / f"{name}.html").read_text(encoding="utf-8")
        assert 'class="output' in page or "cell_output" in page, name


def test_no_page_fetches_anything_from_elsewhere(site):
    for page in site.rglob("*.html"):
        found = re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text("utf-8"))
        assert found == [], page.name


def test_the_site_has_a_search_and_a_glossary(site):
    assert (site / "searchindex.js").stat().st_size > 10_000
    assert "loss mask" in (site / "glossary.html").read_text(encoding="utf-8")


def test_every_link_within_the_site_leads_to_a_page(site):
    for page in site.rglob("*.html"):
        for target in re.findall(r'href="([^"#:?]+\.html)[^"]*"', page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


def test_a_dead_link_is_a_fault(tmp_path):
    root = tmp_path / "course"
    (root / "solutions").mkdir(parents=True)
    name = names()[0]
    for suffix in (".py", ".ipynb"):
        shutil.copy(COURSE / "solutions" / f"{name}{suffix}", root / "solutions")
    shutil.copytree(COURSE / "docs", root / "docs")
    (root / "data" / "measured").mkdir(parents=True)
    (root / "README.md").write_text("# A course\n\n![a picture](data/measured/nowhere.png)\n", encoding="utf-8")
    with pytest.raises(LabError, match="faults, the first"):
        write_site(tmp_path / "html", root)
