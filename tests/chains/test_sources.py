"""Rows from files of every kind, from folders, and from the hub."""

import datetime
import gzip
import json
import subprocess
import sys
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest

from greedy_prune_jax.chains import sources
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.chains.sources import as_json, file_rows, open_rows, split_hub
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import jsonl
from tests.chains.test_reading import OWN, write_jsonl

ROWS = [OWN | {"id": letter, "level": number} for number, letter in enumerate("abc")]


def compress(data, codec):
  sink = pyarrow.BufferOutputStream()
  with pyarrow.CompressedOutputStream(sink, codec) as file:
    file.write(data)
  return sink.getvalue().to_pybytes()


def write(path, rows=ROWS):
  """Writes rows as the path's suffixes say."""
  path.parent.mkdir(parents=True, exist_ok=True)
  names = path.name.split(".")[1:]
  lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
  if names[0] == "parquet":
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    data = sink.getvalue().to_pybytes()
  else:
    data = json.dumps(rows).encode() if names[0] == "json" else lines
  for name in names[1:]:
    data = compress(data, {"gz": "gzip", "zst": "zstd"}[name.lower()])
  path.write_bytes(data)
  return str(path)


KINDS = [
  "x.jsonl", "x.ndjson", "x.json", "x.parquet",
  "x.jsonl.gz", "x.jsonl.zst", "x.json.gz", "x.json.zst", "x.parquet.gz", "x.JSONL.Gz",
]  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_has_the_same_chains(tmp_path, name):
  source = write(tmp_path / name)
  chains = list(read_chains(source))
  assert [chain.to_record() for chain in chains] == ROWS
  nameless = write(tmp_path / "n" / name, [{k: r[k] for k in r if k != "id"} for r in ROWS])
  assert [row.id for row in open_rows(nameless)] == ["x/0", "x/1", "x/2"]


def test_json_of_one_object_and_json_lines_under_its_name(tmp_path):
  (tmp_path / "one.json").write_text(json.dumps(ROWS[0], indent=1))
  assert [chain.id for chain in read_chains(str(tmp_path / "one.json"))] == ["a"]
  (tmp_path / "lines.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
  assert [chain.id for chain in read_chains(str(tmp_path / "lines.json"))] == ["a", "b", "c"]


def test_json_lines_of_any_length_may_be_called_json(tmp_path, monkeypatch):
  monkeypatch.setattr(sources, "MOST_BYTES", 200)
  rows = [OWN | {"id": f"{number}"} for number in range(20)]
  path = tmp_path / "rows.json"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  assert path.stat().st_size > 200
  assert len(list(read_chains(str(path)))) == 20
  path.write_text(json.dumps(rows))  # a list, which is read whole
  with pytest.raises(UserError, match="has more than 200 bytes; write it as JSONL"):
    list(read_chains(str(path)))


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_compressed_files_of_several_frames_are_read_whole_and_cut_ones_refused(tmp_path, codec):
  path = tmp_path / f"x.jsonl.{ {'gzip': 'gz', 'zstd': 'zst'}[codec] }"
  line = [json.dumps(row).encode() + b"\n" for row in ROWS]
  frames = compress(line[0], codec) + compress(line[1] + line[2], codec)
  path.write_bytes(frames)
  assert [chain.id for chain in read_chains(str(path))] == ["a", "b", "c"]
  for broken in (frames[:-3], frames + b"junk", b"no frame"):
    path.write_bytes(broken)
    with pytest.raises(UserError, match=rf"cannot decompress .*{path.name}"):
      list(read_chains(str(path)))


def test_a_folder_is_its_files_else_those_of_its_folders(tmp_path, caplog):
  write(tmp_path / "data" / "b.parquet", ROWS[1:])
  write(tmp_path / "data" / "a.jsonl.gz", ROWS[:1])
  (tmp_path / "data" / "dataset_info.json").write_text("{}")
  (tmp_path / "README.md").write_text("# Chains")
  assert [chain.id for chain in read_chains(str(tmp_path))] == ["a", "b", "c"]
  assert [row.id for row in open_rows(str(tmp_path))] == ["data/a/0", "data/b/0", "data/b/1"]
  assert "not read" not in caplog.text
  write(tmp_path / "own.JSONL.GZ", [ROWS[2]])
  (tmp_path / "c.csv").write_text("id\na\n")
  write(tmp_path / ".hidden" / "d.jsonl")
  assert [chain.id for chain in read_chains(str(tmp_path))] == ["c"]
  assert "3 files in it are not read: c.csv, data/a.jsonl.gz, data/b.parquet" in caplog.text
  (tmp_path / "own.JSONL.GZ").rename(tmp_path / "data" / "own.JSONL.GZ")
  with pytest.raises(UserError, match='repeats the id "c"'):
    list(read_chains(str(tmp_path)))


def test_a_folder_without_rows_is_told_of_with_what_it_holds(tmp_path):
  for name in "abcdef":
    (tmp_path / f"{name}.csv").write_text("id\na\n")
  with pytest.raises(UserError, match=r"no chains, but a.csv, b.*, e.csv, \.\.\.; looked for"):
    open_rows(str(tmp_path))


@pytest.mark.parametrize("where", ["data/{}-00000-of-00001.jsonl", "{}.jsonl", "{}/rows.jsonl"])
def test_splits_in_one_folder_are_not_mixed(tmp_path, where):
  write(tmp_path / where.format("train"), ROWS[:2])
  write(tmp_path / where.format("test"), ROWS[2:])
  with pytest.raises(UserError, match=f"several splits.*test, train.*hf:{tmp_path}:train"):
    list(read_chains(str(tmp_path)))
  assert [chain.id for chain in read_chains(f"hf:{tmp_path}:train")] == ["a", "b"]
  assert [chain.id for chain in read_chains(f"hf:{tmp_path}:test")] == ["c"]


def test_files_of_one_split_or_of_none_are_one_set(tmp_path):
  names = ["train-0.jsonl", "train-1.jsonl", "more.jsonl"]
  for name, row in zip(names, ROWS, strict=True):
    write(tmp_path / name, [row])
  assert {chain.id for chain in read_chains(str(tmp_path))} == {"a", "b", "c"}
  only = tmp_path / "only"
  write(only / "test-train-mix.jsonl")  # one file says nothing of two splits
  assert len(list(read_chains(str(only)))) == len(ROWS)


def test_configurations_in_one_folder_are_not_mixed(tmp_path):
  for name, rows in (("chains", ROWS[:1]), ("messages", ROWS[1:])):
    write(tmp_path / "data" / f"{name}.jsonl", rows)
  card = "".join(
    f"- config_name: {name}\n  data_files: data/{name}.jsonl\n" for name in ("chains", "messages")
  )
  (tmp_path / "README.md").write_text(f"---\nconfigs:\n{card}---\n# Chains\n")
  with pytest.raises(UserError, match=f"configurations: chains, messages.*hf:{tmp_path}:chains:"):
    list(read_chains(str(tmp_path)))
  assert [chain.id for chain in read_chains(f"hf:{tmp_path}:chains:train")] == ["a"]
  (tmp_path / "README.md").write_text("---\nconfigs: [\n---\nNo card.")
  assert len(list(read_chains(str(tmp_path)))) == len(ROWS)


def test_problems_of_thought_anchors_are_a_row_each(tmp_path):
  for name in ("p/problem_1", "p/problem_2"):
    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / "problem.json").write_text(json.dumps({"problem": "6 * 7?", "gt_answer": "42"}))
    solution = {"prompt": "6 * 7?\n<think>\n", "solution": "Six.\n</think>\n\n\\boxed{42}"}
    (folder / "base_solution.json").write_text(json.dumps(solution))
  (tmp_path / "p/problem_1/chunks_labeled.json").write_text('[{"chunk": "Six."}]')
  first, second = read_chains(str(tmp_path))
  assert (first.id, second.id) == ("p/problem_1", "p/problem_2")
  assert (first.extra, second.extra) == ({"chunks": [{"chunk": "Six."}]}, {})
  write(tmp_path / "p/problem_1/chunk_0/solutions.json", [{"solution": "7"}])  # as published
  assert len(list(read_chains(str(tmp_path)))) == 2
  (tmp_path / "p/problem_2/problem.json").write_text("{")
  bad = []
  assert [chain.id for chain in read_chains(str(tmp_path), on_bad=bad.append)] == ["p/problem_1"]
  assert "problem.json is not JSON" in bad[0].reason
  assert bad[0].place.endswith("p/problem_2")
  write(tmp_path / "more" / "ROWS.JSONL", ROWS)
  with pytest.raises(UserError, match=r"Thought Anchors .*problem_1\) and other rows .*ROWS.JSONL"):
    read_chains(str(tmp_path))


@pytest.mark.parametrize(
  ("name", "content", "reason"),
  [
    ("x.jsonl", b"", "is empty; expected chains"),
    ("x.json", b" \n", "is empty; expected chains"),
    ("x.json", b"[1]", "x.json, item 1: is a JSON int"),
    ("x.json", b'"a"', "is a JSON str; expected an object"),
    ("x.json", b"{", "x.json: is not JSON"),
    ("x.jsonl", b"\xff\xfe\n", "line 1: is not UTF-8"),
    ("x.jsonl", b'{"id": "a", "id": "b"}\n', 'line 1: has the key "id" twice'),
    ("x.json", b'[{"a": {"b": 1, "b": 2}}]', 'has the key "b" twice'),
    ("x.jsonl", b"[" * 200 + b"]" * 200, "line 1: is JSON nested"),
    ("x.parquet", b"PAR1", "cannot read .*x.parquet"),
    ("x.parquet", b"", "cannot read .*x.parquet"),
  ],
)
def test_hostile_files_are_errors_that_name_the_place(tmp_path, name, content, reason):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(UserError, match=reason):
    list(read_chains(str(tmp_path / name)))


def test_a_line_that_never_ends_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
  for module in (sources, jsonl):
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
  for name in ("x.jsonl", "x.jsonl.gz"):
    line = b'{"a": "' + b"x" * 10**6
    (tmp_path / name).write_bytes(gzip.compress(line) if name.endswith("gz") else line)
    with pytest.raises(UserError, match=r"line 1: has more than 1000 bytes"):
      list(read_chains(str(tmp_path / name)))
  (tmp_path / "x.json").write_bytes(b"[" + b" " * 2000)
  with pytest.raises(UserError, match=r"x.json: has more than 1000 bytes; write it as JSONL"):
    list(read_chains(str(tmp_path / "x.json")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.zst", "x.parquet"])
def test_rows_are_streamed(tmp_path, name):
  rows = [OWN | {"id": str(i), "padding": f"{i}" * 20_000} for i in range(400)]
  source = write(tmp_path / name, rows)
  next(open_rows(source))  # imports
  tracemalloc.start()
  assert sum(1 for _ in read_chains(source)) == 400
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 12e6  # of 20 MB of text


def test_values_that_json_lacks_become_what_it_has():
  value = {"at": datetime.datetime(2025, 1, 2), "nan": float("nan"), "raw": b"x", "list": (1, None)}
  assert as_json(value) == {"at": "2025-01-02T00:00:00", "nan": None, "list": [1, None]}


def test_a_split_on_the_hub_is_streamed(monkeypatch):
  datasets = pytest.importorskip("datasets")
  asked = []

  def load_dataset(*args, **kwargs):
    asked.append((args, kwargs))
    return iter(ROWS)

  monkeypatch.setattr(datasets, "load_dataset", load_dataset)
  assert [c.id for c in read_chains("hf:org/set:main:train", num_chains=2)] == ["a", "b"]
  assert asked == [(("org/set", "main"), {"split": "train", "streaming": True})]
  (row, *_) = open_rows("hf:org/set:test")
  assert (row.id, row.place) == ("set/test/0", "org/set, test, row 0")


def test_a_hub_that_fails_midway_is_an_error_of_the_user(monkeypatch):
  datasets = pytest.importorskip("datasets")

  def rows():
    yield ROWS[0]
    raise ConnectionError("gone")

  monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows())
  with pytest.raises(UserError, match=r"cannot read org/set .train.: .*got: gone"):
    list(read_chains("hf:org/set:train"))


def test_without_a_network_the_error_says_what_to_pass_instead():
  # conftest.py sets HF_HUB_OFFLINE
  with pytest.raises(UserError, match=r"cannot read org/set .train.: looked .*pass a copy"):
    list(read_chains("hf:org/set:train"))


@pytest.mark.parametrize("source", ["hf:org/set", "hf:org/set:a:b:c", "hf:org/set:", "hf:a/b/c:d"])
def test_what_names_no_split_is_refused(source):
  with pytest.raises(UserError, match="hf:ORG/NAME:SPLIT"):
    split_hub(source)


def test_a_workdirs_lines_are_read_and_torn_ones_dropped(tmp_path):
  write_jsonl(tmp_path / "config.json", {})
  write_jsonl(tmp_path / "chains" / "process-00000.jsonl", OWN, '{"id": "t')
  assert [chain.id for chain in read_chains(str(tmp_path))] == ["a"]


@pytest.mark.parametrize(("kind", "separator"), [("csv", ","), ("tsv", "\t")])
def test_csv_is_refused_with_a_command_that_converts_it(tmp_path, kind, separator):
  path = tmp_path / f"c.{kind}"
  path.write_text(f"id{separator}question\na{separator}What?\n")
  with pytest.raises(UserError, match="CSV is not read; write it as JSONL") as error:
    file_rows(path)
  command = str(error.value).splitlines()[-1].strip().replace("python", sys.executable, 1)
  subprocess.run(["bash", "-c", command], check=True)
  (row,) = file_rows(tmp_path / "c.jsonl")
  assert row.record() == {"id": "a", "question": "What?"}
