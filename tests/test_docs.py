"""The documentation: its examples run, its links lead somewhere, what it names is there."""

import functools
import re
from importlib import import_module
from pathlib import Path

import pytest

import sparse_ops as so
from sparse_ops.data import Dataset, Split

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
# Own links, of pages and of the files beside the README.
LINK = re.compile(r"\]\(((?!https?:)[^)#\s]+)(?:#[^)]*)?\)")
# What stands in a file, and not in the page that shows it.
# What the README shows, too, and trains longer for.
LONG = {"index.md"}
SHOWN = [page for page in PAGES if BLOCK.search((DOCS / page).read_text(encoding="utf-8"))]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A few images for every data set, plans of a second, and a folder of its own."""
    whole = so.data.load("fashion-mnist-subset")
    parts = (Split(s.images[:n], s.labels[:n]) for s, n in ((whole.train, 256), (whole.test, 64)))
    few = Dataset(whole.name, *parts, whole.classes)
    monkeypatch.setattr(so.data, "load", lambda *_, **__: few)
    quick = {"budget_s": 0.3, "compile": False, "progress": False}
    for name in ("plan", "sparsify"):
        real = getattr(so, name)
        monkeypatch.setattr(so, name, functools.partial(_quickly, real, quick))
    monkeypatch.setattr(so.training, "fit", functools.partial(so.training.fit, progress=False))
    monkeypatch.chdir(tmp_path)


def _quickly(real, quick, *given, **options):
    return real(*given, **(options | quick))


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.slow] if p in LONG else []) for p in SHOWN]
)
def test_the_examples_of_a_page_run_one_after_the_other(page, small):
    names: dict = {}
    for code in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        exec(compile(code, page, "exec"), names)


def test_there_are_examples_for_every_method_and_for_the_way_there():
    pages = {"index.md", "concepts.md", "layers.md", "convert.md"}
    methods = {p for p in PAGES if p.startswith("methods/")}
    assert pages | methods <= set(SHOWN)
    text = "".join((DOCS / page).read_text(encoding="utf-8") for page in methods)
    for method in so.training.METHODS.values():
        assert f"so.training.{method.__name__}(" in text


@pytest.mark.parametrize("file", [*(f"docs/{page}" for page in PAGES), "README.md"])
def test_links_lead_somewhere(file):
    for link in LINK.findall((ROOT / file).read_text(encoding="utf-8")):
        assert (ROOT / file).parent.joinpath(link).exists(), f"{file}: {link}"


def test_the_site_has_every_page_and_no_other():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    assert sorted(re.findall(r"[\w/-]+\.md", nav)) == PAGES


def test_what_the_reference_names_is_there():
    for page in PAGES:
        for name in re.findall(r"^::: (\S+)", (DOCS / page).read_text(encoding="utf-8"), re.M):
            module, _, attribute = name.rpartition(".")
            found = getattr(import_module(module), attribute)
            assert found.__doc__, name


def test_settings_in_the_pages_are_those_of_the_methods():
    for method in so.training.METHODS.values():
        page = {"GSM": "gsm", "SABR": "sabr"}.get(method.__name__, method.__name__.lower())
        text = (DOCS / "methods" / f"{page}.md").read_text(encoding="utf-8")
        for name in re.findall(r"^\| (`.*?`(?:, `.*?`)*) \|", text, re.M):
            for option in re.findall(r"`(\w+)`", name):
                known = method.__dataclass_fields__
                assert option in known or page == "predefined", f"{page}: {option}"


def test_commands_in_the_pages_are_commands():
    from sparse_ops.cli.app import COMMANDS

    known = {command.__name__ for command in COMMANDS}
    for page in [DOCS / "cli.md", DOCS / "index.md", ROOT / "README.md"]:
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"sparse-ops (\w+)", text))
        assert named <= known, page
    assert known <= set(re.findall(r"sparse-ops (\w+)", (DOCS / "cli.md").read_text("utf-8")))


def test_the_readme_is_a_screen_and_a_half():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 100 and max(len(line) for line in lines) <= 260
    assert sum("×** (" in line for line in lines) >= 8
