"""README and docs: links lead somewhere, commands name what exists, figures were measured."""

import re
from pathlib import Path

import pytest

from docs import tables
from docs.settings_tables import CLASSES, Comment, comments_of, settings_of, with_tables
from greedy_prune_jax.models.families import FAMILIES
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.pruning.tasks import read_tasks
from tests.helpers import families_table, thinking_templates
from tests.helpers.doc_commands import commands_of
from tests.helpers.published_cards import CARDS
from tests.helpers.tokenizers_for_tests import byte_level

ROOT = Path(__file__).parent.parent
PAGES = sorted(p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
COMMANDS = [*PAGES, *sorted(ROOT.glob("configs/*.py"))]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
JOBS = {
  path.stem
  for path in ROOT.glob("greedy_prune_jax/jobs/*.py")
  if path.stem != "entry" and "run_job(" in path.read_text()
}


def without_code(text: str) -> str:
  return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def links(text: str) -> list[str]:
  return re.findall(r"\]\(([^)\s]+)\)", without_code(text))


def anchors(text: str) -> set[str]:
  """Anchors of headings as GitHub makes them (of headings that occur once)."""
  headings = re.findall(r"^#+ (.+)$", without_code(text), flags=re.MULTILINE)
  return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(path: Path) -> list[str]:
  dead = []
  for link in links(path.read_text()):
    if link.startswith(("http://", "https://", "mailto:")):
      continue
    name, _, anchor = link.partition("#")
    target = path.parent / name if name else path
    if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
      dead.append(link)
  return dead


def section(text: str, title: str) -> str:
  return re.split(r"^## ", text.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
  assert dead_links(ROOT / name) == []


def test_dead_links_are_found(tmp_path):
  page = tmp_path / "page.md"
  (tmp_path / "other.md").write_text("# Other things, here\n")
  page.write_text(
    "# A\n[a](#a) [b](other.md#other-things-here) [c](https://example.org/x)\n"
    "[d](none.md) [e](#none) [f](other.md#none) ![g](none.png)\n```\n[h](code.md)\n```\n"
  )
  assert dead_links(page) == ["none.md", "#none", "other.md#none", "none.png"]


def test_every_page_of_docs_can_be_reached_from_readme():
  reached, todo = set(), [ROOT / "README.md"]
  while todo:
    page = todo.pop()
    reached.add(page)
    paths = [(page.parent / link.partition("#")[0]).resolve() for link in links(page.read_text())]
    todo += [path for path in paths if path.suffix == ".md" and path not in reached]
  assert set(ROOT.glob("docs/*.md")) <= reached


def test_every_job_has_a_line_in_readme():
  table = section((ROOT / "README.md").read_text(), "Jobs")
  assert set(re.findall(r"^\| \[`(\w+)`\]\(docs/", table, flags=re.MULTILINE)) == JOBS


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_commands_name_what_exists(path):
  text = path.read_text()
  for config in re.findall(r"--config=(configs/(?!FILE)\w+\.py)", text):
    assert (ROOT / config).exists(), config
  for module in re.findall(r"-m (greedy_prune_jax\.[\w.]+|benchmarks\.\w+)", text):
    if module != "greedy_prune_jax.jobs.JOB":
      assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_commands_exist_and_may_be_so(name):
  classes = {Path(kind.config_file).stem: kind for kind in CLASSES}
  for command in commands_of((ROOT / name).read_text()):
    if command.config:
      made = command.settings()
      if command.config in classes:  # the others are configs of these, such as study_cpu
        classes[command.config].from_config(made.to_dict())


def test_a_setting_that_there_is_not_is_found():
  text = "```sh\npython -m x.prune --config=configs/prune.py \\\n  --config.thinkin=on a\n```\n"
  (command,) = commands_of(text)
  assert (command.job, command.config, command.paths) == ("prune", "prune", ("a",))
  assert command.changes == {"thinkin": "on"}
  with pytest.raises(KeyError, match="thinkin"):
    command.settings()


def test_readmes_command_for_a_reasoning_models_chains_reads_them_from_the_hub(monkeypatch):
  """As the hub would give them: our own row with the fields of the set's card."""
  asked = []

  def load_dataset(*args, **kwargs):
    asked.append((*args, kwargs))
    return [CARDS["open-r1/OpenR1-Math-220k"][1]] * 2

  monkeypatch.setattr("datasets.load_dataset", load_dataset)
  (command,) = [
    command
    for command in commands_of((ROOT / "README.md").read_text())
    if "hf:" in command.changes.get("chains", "")
  ]
  assert (
    len(re.search(r"```sh\n([^`]*hf:[^`]*)```", (ROOT / "README.md").read_text())[1].splitlines())
    <= 6
  )
  settings = PruneSettings.from_config(command.settings().to_dict())
  tokenizer = byte_level(thinking_templates.R1)
  tasks = list(read_tasks(settings, tokenizer, 4096, {}, None))
  assert [task.chain.id for task in tasks] == ["u/0", "u/0/2"]
  assert asked == [("open-r1/OpenR1-Math-220k", "default", {"split": "train", "streaming": True})]
  assert {task.chain.reasoning for task in tasks} == {"Six sevens."}
  assert {task.chain.thinking_form for task in tasks} == {"think"}


@pytest.mark.parametrize("name", NAMES)
def test_paths_that_are_named_exist(name):
  folders = "greedy_prune_jax|tests|configs|benchmarks|launch|docs|examples"
  for named in re.findall(rf"`((?:{folders})/[\w./-]*)`", (ROOT / name).read_text()):
    assert "NAME" in named or (ROOT / named).exists(), named


@pytest.mark.parametrize("title", ["Results", "Why it is fast"])
def test_figures_of_readme_stand_among_the_measurements(title):
  """A figure has a decimal, a thousands separator or a percent sign."""
  figure = r"(?<![\w.,])\d+(?:,\d{3})+|(?<![\w.,])\d+\.\d+%?|(?<![\w.,])\d+%"
  figures = re.findall(figure, section((ROOT / "README.md").read_text(), title))
  measured = (ROOT / "docs" / "measured.md").read_text()
  known = {found.replace(",", "") for found in re.findall(figure + r"|\d+", measured)}
  assert len(figures) > 5
  assert [found for found in figures if found.replace(",", "") not in known] == []


def test_the_table_of_families_is_made_from_the_tests():
  """`python -m tests.helpers.families_table` writes it anew."""
  page = (ROOT / "docs" / "models.md").read_text()
  assert families_table.with_table(page) == page
  assert f"[{len(FAMILIES)} families](docs/models.md)" in (ROOT / "README.md").read_text()


def test_the_tables_of_settings_are_those_of_now():
  """`python -m docs.settings_tables` writes them anew."""
  pages = {page: page.read_text() for page in ROOT.glob("docs/*.md")}
  assert [page.name for page in pages if with_tables(pages[page]) != pages[page]] == []
  marked = re.findall(r"<!-- settings of (\w+) -->", "".join(pages.values()))
  assert sorted(marked) == sorted(Path(cls.config_file).stem for cls in CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("name", tables.PAGES)
def test_tables_are_those_of_the_kept_results(name):
  """`make tables` writes them anew."""
  page = (ROOT / name).read_text()
  assert tables.with_tables(page) == page
  assert "<!-- table " in page
  changed = page.replace("97.7% (97 to 98)", "98.7% (97 to 98)")
  assert changed != page == tables.with_tables(changed)


def test_every_other_table_is_marked_as_a_transcript():
  page = (ROOT / "docs" / "measured.md").read_text()
  before = re.findall(r"([^\n]*)\n\n\|", page)
  marks = (r"\*Transcript, commit [0-9a-f]{7}[^*]*\.\*", r"<!-- table \w+ -->")
  assert [line for line in before if not re.fullmatch("|".join(marks), line)] == []
  assert len(before) > 10


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_setting_is_explained(cls):
  rows = [row for _, found in settings_of(cls) for row in found]
  assert len(rows) >= 7
  assert [row.key for row in rows if len(row.meaning) < 5] == []


def test_meanings_of_settings_are_read_from_comments():
  source = (
    "def get_config():\n\n  # A title. A note.\n  config.a = 1  # one\n  # two\n  # lines\n"
    '  config.b = "#"\n\n  # Other title.\n  # three\n  config.c.d = (\n  3)\n  config.e = 4\n'
  )
  assert comments_of(source) == {
    "a": Comment("A title", "A note.", "one"),
    "b": Comment("", "", "two lines"),
    "c.d": Comment("Other title", "", "three"),
    "e": Comment(),
  }
