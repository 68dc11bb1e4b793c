import errno
import os
import re

import pytest

from greedy_prune_jax.analysis.still_right import read_verdicts
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.jobs.evaluate import compared_runs
from greedy_prune_jax.rankings.attention_regression import check_file
from greedy_prune_jax.rankings.interface import RankingSettings
from greedy_prune_jax.runs.files import open_file, read_bytes, replace_file, user_path
from greedy_prune_jax.search.skill_steps import skill_step_sizes


def test_a_replaced_file_is_whole_and_nothing_else_is_left(tmp_path):
  path = tmp_path / "a.json"
  replace_file(path, "one")
  replace_file(path, b"two")
  assert path.read_bytes() == b"two"
  assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_leaves_the_old_file_and_no_half_of_a_new_one(tmp_path, monkeypatch):
  path = tmp_path / "a.json"
  replace_file(path, "old")

  def fail(fd):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, "fsync", fail)
  with pytest.raises(UserError, match=r"cannot write .*a.json: No space left .*free some space"):
    replace_file(path, "new")
  assert path.read_text() == "old"
  assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_deleted_folder_does_not_come_back(tmp_path):
  with pytest.raises(UserError, match="cannot write"):
    replace_file(tmp_path / "gone" / "a.json", "x")
  assert not (tmp_path / "gone").exists()


def test_a_name_that_no_file_system_takes_is_explained(tmp_path):
  with pytest.raises(UserError, match=r"File name too long\. Choose a shorter name"):
    replace_file(tmp_path / ("n" * 300), "x")


@pytest.mark.parametrize(
  ("make", "kind"),
  [
    (lambda path: os.mkfifo(path), "it is a named pipe"),
    (lambda path: path.mkdir(), "it is a folder"),
    (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
    (lambda path: None, "No such file"),
  ],
)
def test_what_is_no_regular_file_is_refused_by_what_it_is(tmp_path, make, kind):
  path = tmp_path / "x"
  make(path)
  with pytest.raises(UserError, match=kind), open_file(path):
    pass


def test_a_name_with_a_nul_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"null (byte|character)"), open_file(tmp_path / "a\0b"):
    pass


@pytest.mark.parametrize("name", ["a/" + "n" * 256, "\N{GRINNING FACE}" * 64, "a\0b", "a/" * 3000])
def test_a_name_that_no_file_can_have_is_refused(name):
  with pytest.raises(UserError, match="cannot be a file's name"):
    user_path(name)
  assert user_path("a/" + "n" * 255).name == "n" * 255


def test_a_home_that_the_shell_left_is_found(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert user_path("~/chains.jsonl") == tmp_path / "chains.jsonl"
  assert str(user_path("~nobody-has-this-name/x")) == "~nobody-has-this-name/x"


def test_an_empty_name_is_not_the_folder_of_the_job():
  with pytest.raises(UserError, match="the name of a file or folder is empty"):
    user_path("")


def test_no_more_is_read_than_allowed(tmp_path):
  path = tmp_path / "x"
  path.write_bytes(b"12345")
  assert read_bytes(path, 5) == b"12345"
  with pytest.raises(UserError, match="more than 4 bytes"):
    read_bytes(path, 4)


@pytest.mark.parametrize(
  ("make", "kind"),
  [
    (lambda path: os.mkfifo(path), "it is a named pipe"),
    (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
    (lambda path: os.mknod(path, 0o140600), "it is a socket"),
  ],
)
def test_a_name_of_neither_file_nor_folder_is_refused_by_what_is_there(tmp_path, make, kind):
  path = tmp_path / "x"
  make(path)
  with pytest.raises(UserError, match=rf"{kind}; expected a file or folder"):
    user_path(path)
  assert user_path(tmp_path) == tmp_path
  assert user_path(tmp_path / "missing") == tmp_path / "missing"


@pytest.mark.parametrize(
  "read",
  [
    lambda name: compared_runs([name]),
    lambda name: read_verdicts([name], {}),
    lambda name: check_file.__wrapped__(None, RankingSettings(attention_regression=name)),
    lambda name: load_chat_template.__wrapped__(name, None),
    skill_step_sizes,
  ],
)
def test_the_users_folder_in_settings_that_name_files(tmp_path, monkeypatch, read):
  monkeypatch.setenv("HOME", str(tmp_path))
  with pytest.raises(UserError, match=re.escape(str(tmp_path / "none"))):
    read("~/none")
