"""Files of chains and of questions, of every format, on what none of them should hold."""

import gzip
import json

import pytest

from greedy_prune_jax.chains.formats import FORMATS, ColumnSettings
from greedy_prune_jax.chains.question_sets import load_questions
from greedy_prune_jax.chains.reading import describe_first, read_chains
from tests.helpers.attacks import attack
from tests.helpers.format_examples import EXAMPLES
from tests.helpers.made_records import write_lines
from tests.helpers.tiny_runs import CHAINS

pytestmark = pytest.mark.slow


def read_all_chains(path):
  describe_first(str(path), ColumnSettings())
  chains = list(read_chains(str(path)))
  bad = []
  list(read_chains(str(path), on_bad=bad.append))
  assert not bad, "else the line before refuses it"
  return chains


@pytest.mark.parametrize("name", FORMATS)
def test_formats_of_chains(name, tmp_path):
  write_lines(tmp_path / "good" / "chains.jsonl", EXAMPLES[name])
  refused = attack(
    tmp_path / "good", lambda f: read_all_chains(f / "chains.jsonl"), tmp_path, cases=40, name=name
  )
  assert refused > 0.1


@pytest.mark.parametrize("suffix", [".json", ".parquet", ".jsonl.gz", ".jsonl.zst", ".parquet.gz"])
def test_files_of_chains(suffix, tmp_path):
  import pyarrow
  import pyarrow.parquet

  path = tmp_path / "good" / f"chains{suffix}"
  path.parent.mkdir()
  lines = "".join(json.dumps(chain) + "\n" for chain in CHAINS).encode()
  if suffix == ".json":
    path.write_text(json.dumps(CHAINS))
  elif suffix.startswith(".parquet"):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(CHAINS), sink)
    data = sink.getvalue().to_pybytes()
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
  elif suffix.endswith(".gz"):
    path.write_bytes(gzip.compress(lines))
  else:
    with pyarrow.output_stream(str(path), compression="zstd") as file:
      file.write(lines)
  attack(
    tmp_path / "good", lambda f: read_all_chains(f / path.name), tmp_path, cases=80, name=suffix
  )


def test_folders_of_thought_anchors(tmp_path):
  folder = tmp_path / "good" / "problem_1"
  folder.mkdir(parents=True)
  for name, value in EXAMPLES["thought_anchors"].items():
    (folder / name).write_text(json.dumps(value))
  attack(tmp_path / "good", read_all_chains, tmp_path, cases=60, name="anchors")


@pytest.mark.parametrize(
  ("name", "row"),
  [
    ("gsm8k", {"question": "2 + 2?", "answer": "It is <<2+2=4>>4.\n#### 4"}),
    ("math", {"problem": "p", "solution": r"so $\boxed{\frac{1}{2}}$", "level": 5}),
    ("aime", {"problem": "p", "answer": "033", "id": 7}),
    ("amc", {"problem": "p", "answer": 142.0}),
    ("mmlu_pro", {"question": "q", "options": ["a", "b"], "answer": "B", "answer_index": 1}),
  ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_question_sets(name, row, suffix, tmp_path):
  path = tmp_path / "good" / f"rows{suffix}"
  write_lines(path, row | {"id": "a"}, row | {"id": "b"})
  if suffix == ".json":
    path.write_text(json.dumps([row]))

  def read(folder):
    for question in load_questions(f"{name}:{folder / path.name}"):
      assert question.id
      json.dumps(dict(question.extra), allow_nan=False)

  attack(tmp_path / "good", read, tmp_path, cases=40 if suffix == ".jsonl" else 12, name=name)
