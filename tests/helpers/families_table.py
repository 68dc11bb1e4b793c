"""The table of docs/models.md: each family, and the tests that hold it against what.

`python -m tests.helpers.families_table` writes it anew.
"""

from collections import Counter
from pathlib import Path

from greedy_prune_jax.models.families import FAMILIES
from tests.distill import test_families as training
from tests.models import test_families as logits
from tests.models import test_gguf, test_hf_export, test_sampler
from tests.search import test_exact

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
_HEAD = """\
| models | `model_type` | logits | deletions | sampling | training | export | GGUF |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def table() -> str:
  """A row for each family: numbers of configs, and yes where a test has the family."""
  configs = Counter(_record(family) for family, _ in logits.SWITCHES.values())
  files = Counter(_record(family) for family, _, _ in test_gguf.MODELS.values())
  deletions = {family for family, _ in test_exact.CASES}
  rows = []
  for name, family in FAMILIES.items():
    proofs = [deletions, test_sampler.FAMILIES, training.FAMILIES, test_hf_export.FAMILIES]
    cells = ["yes" if name in proof else "no" for proof in proofs]
    cells = [family.title, f"`{name}`", str(configs[name]), *cells, str(files[name] or "no")]
    rows.append(f"| {' | '.join(cells)} |\n")
  return _HEAD + "".join(rows)


def _record(family: str) -> str:
  """The record of a family of the tests, of which there may be several, told apart by a comma."""
  return family.partition(",")[0]


def with_table(page: str) -> str:
  """The page with the table of now between its headings."""
  before, _, after = page.partition(_HEAD)
  rest = after.partition("\n\n")[2]
  return before + table() + "\n" + rest


if __name__ == "__main__":
  PAGE.write_text(with_table(PAGE.read_text()))
