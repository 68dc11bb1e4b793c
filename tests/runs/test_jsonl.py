import errno
import json
import os

import pytest

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.runs import jsonl
from greedy_prune_jax.runs.jsonl import (
  JsonlWriter,
  encode_line,
  parse_line,
  process_writer,
  read_lines,
  read_output,
  read_records,
)


def test_written_lines_read_back(tmp_path):
  path = tmp_path / "records.jsonl"
  records = [{"text": "π \u2028 \n", "n": 1}, {"text": "", "nested": {"a": [None, 0.1]}}]
  with JsonlWriter(path) as writer:
    for record in records:
      writer.write(record)
  with JsonlWriter(path) as writer:
    writer.write({"text": "later"})
  assert [parse_line(line) for _, line in read_lines(path)] == [*records, {"text": "later"}]
  assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("torn", [b'{"b', b'{"b": "' + b"x" * 200_000, b'{"b": 2}'])
@pytest.mark.parametrize("whole", [b"", b'{"a": 1}\n', b'{"a": 1}\n{"a": 2}\n'])
def test_a_torn_last_line_is_cut_off_on_opening(tmp_path, whole, torn):
  path = tmp_path / "records.jsonl"
  path.write_bytes(whole + torn)
  assert b"".join(line for _, line in read_lines(path, drop_torn=True)) == whole
  JsonlWriter(path).close()
  assert path.read_bytes() == whole


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
  path = tmp_path / "records.jsonl"
  real_write = os.write

  def write_a_part_then_fail(fd, data):
    if len(data) > 10:
      return real_write(fd, data[:10])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with JsonlWriter(path) as writer:
    writer.write({"a": 1})
    monkeypatch.setattr(os, "write", write_a_part_then_fail)
    with pytest.raises(UserError, match=r"cannot write .*records.jsonl: No space left on device"):
      writer.write({"a": "a longer record"})
    monkeypatch.setattr(os, "write", real_write)
    assert path.read_bytes() == b'{"a": 1}\n'
    writer.write({"a": 2})
  assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n'


def test_short_writes_are_continued(tmp_path, monkeypatch):
  real_write = os.write
  monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, data[:3]))
  with JsonlWriter(tmp_path / "records.jsonl") as writer:
    writer.write({"a": "a longer record"})
  assert (tmp_path / "records.jsonl").read_bytes() == b'{"a": "a longer record"}\n'


def test_nan_is_refused_and_nothing_is_written(tmp_path):
  with (
    JsonlWriter(tmp_path / "records.jsonl") as writer,
    pytest.raises(ValueError, match="JSON compliant"),
  ):
    writer.write({"nll": float("nan")})
  assert (tmp_path / "records.jsonl").read_bytes() == b""


def test_a_place_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"cannot write .*file.*: .*Choose a workdir"):
    JsonlWriter(tmp_path / "file" / "records.jsonl")


def test_reading_names_a_missing_file(tmp_path):
  with pytest.raises(UserError, match=r"cannot read .*none.jsonl: No such file"):
    list(read_lines(tmp_path / "none.jsonl"))


def test_lines_are_numbered_as_an_editor_does(tmp_path):
  path = tmp_path / "records.jsonl"
  path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": 2}')
  numbers, lines = zip(*read_lines(path), strict=True)
  assert numbers == (1, 4)
  assert [parse_line(line) for line in lines] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
  ("line", "reason"),
  [
    (b'{"a": 1', "is not JSON"),
    (b'{"a": NaN}', "NaN is no JSON number"),
    (b"[1, 2]", "is a JSON list; expected an object"),
    (b'{"a": "\xff"}', "is not UTF-8 text .byte 7"),
    (b'{"a": "\\uD83D"}', "half of a surrogate pair"),
    (b"[" * 100_000, "nested more than 100 deep"),
  ],
)
def test_lines_that_are_no_object_are_explained(line, reason):
  with pytest.raises(UserError, match=reason):
    parse_line(line)


def test_a_whole_surrogate_pair_is_one_character():
  record = parse_line(b'{"a": "\\ud83d\\ude00"}')
  assert record == {"a": "\N{GRINNING FACE}"}
  assert json.loads(encode_line(record)) == record


@pytest.mark.parametrize("gone", ["file", "folder", "moved"])
def test_a_file_that_is_gone_is_noticed_when_it_is_next_written(tmp_path, gone):
  folder = tmp_path / "run"
  folder.mkdir()
  with JsonlWriter(folder / "records.jsonl") as writer:
    writer.write({"a": 1})
    if gone == "moved":
      folder.rename(tmp_path / "elsewhere")
    else:
      (folder / "records.jsonl").unlink()
    if gone == "folder":
      folder.rmdir()
    with pytest.raises(UserError, match=r"records.jsonl is gone: it was deleted or moved"):
      writer.write({"a": 2})
  assert folder.exists() == (gone == "file")


def test_a_folder_that_is_gone_is_not_made_anew(tmp_path):
  for make in (
    lambda: JsonlWriter(tmp_path / "run" / "a.jsonl"),
    lambda: process_writer(tmp_path / "run" / "chains", 0),
  ):
    with pytest.raises(UserError, match=r"cannot write .*Its folder is gone: .*Put it back"):
      make()
  assert not list(tmp_path.iterdir())


def test_an_id_that_an_output_has_twice_is_named_with_both_places(tmp_path):
  for index, ids in enumerate(("ab", "cb")):
    with process_writer(tmp_path / "pruned", index) as writer:
      for item_id in ids:
        writer.write({"id": item_id})
  with pytest.raises(UserError, match=r'00001.jsonl, line 2: repeats the id "b" of .*, line 2'):
    list(read_output(tmp_path, "pruned"))


def test_an_output_without_an_id_is_named(tmp_path):
  (tmp_path / "pruned").mkdir()
  (tmp_path / "pruned" / "process-00000.jsonl").write_bytes(b'{"id": "a"}\n{"key": 1}\n')
  with pytest.raises(UserError, match=r'00000.jsonl, line 2: lacks the key "id"'):
    list(read_output(tmp_path, "pruned"))


def test_a_run_reads_whatever_line_it_wrote(tmp_path, monkeypatch):
  monkeypatch.setattr(jsonl, "MOST_BYTES", 40)
  path = tmp_path / "process-00000.jsonl"
  record = {"id": "a", "text": "x" * 100}
  with JsonlWriter(path) as writer:
    writer.write(record)
  assert list(read_records(path, drop_torn=True)) == [record]
  with pytest.raises(UserError, match="line 1: has more than 40 bytes"):
    list(read_records(path))
