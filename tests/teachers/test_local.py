"""Devices on which a model of ours writes, and the number of replies at once."""

import jax
import jax.numpy as jnp
import pytest
import torch

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.chains.segments import segment
from greedy_prune_jax.models.decoding import empty_rows
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.parallel import (
  MeshSettings,
  device_bytes,
  make_mesh,
  mesh_of,
  weight_shardings,
)
from greedy_prune_jax.teachers import local
from greedy_prune_jax.teachers.load import load_teacher
from greedy_prune_jax.teachers.settings import EndpointSettings, WritingSettings
from greedy_prune_jax.teachers.teacher import ChatPrompt
from tests.helpers.planted import on_mesh, tiny_model
from tests.helpers.tiny_runs import TEMPLATE, make_longrope_model, make_model
from tests.helpers.tokenizers_for_tests import byte_level, sentence_piece

LENGTH = 100


@pytest.mark.parametrize(
  ("mesh", "rows"), [(None, 16), ((8, 1), 8 * 16), ((4, 2), 4 * 32), ((1, 8), 128)]
)
def test_rows_are_counted_by_what_a_device_has_left(monkeypatch, mesh, rows):
  # The cache twice, keys and values, 2 layers, 8 heads of 8, float32.
  row = 2 * 2 * 2 * LENGTH * 8 * 8 * 4
  free = 20 * row / local._MEMORY_SHARE
  model = tiny_model(num_heads=8, num_kv_heads=8)
  if mesh is not None:
    data, split = mesh
    model = on_mesh(model, weight_shardings(make_mesh(MeshSettings(data=data, model=split))))
  monkeypatch.setattr(local, "device_memory", lambda: device_bytes(model.params) + free)
  assert local._rows_that_fit(model, LENGTH) == rows


def test_rows_on_a_cpu_fit_its_memory_too(monkeypatch):
  monkeypatch.setattr(local, "device_memory", lambda: None)
  model = tiny_model(num_heads=8, num_kv_heads=8)
  row = 2 * 2 * 2 * LENGTH * 8 * 8 * 4
  for free, rows in ((1e12, 32), (20 * row, 16), (0, 1)):
    memory = jax.local_device_count() * (device_bytes(model.params) + free / local._MEMORY_SHARE)
    monkeypatch.setattr(local, "machine_memory", lambda memory=memory: int(memory))
    assert local._rows_that_fit(model, LENGTH) == rows


@pytest.mark.slow
@pytest.mark.parametrize(
  ("family", "recurrent"), [("lfm2", "conv"), ("qwen3_5_text", "linear_attention")]
)
def test_bytes_of_a_row_are_those_that_a_device_holds(tmp_path, family, recurrent):
  """Channels of short convolutions are split over `model`, states of Gated DeltaNet are not."""
  kinds = {"num_hidden_layers": 2, "layer_types": [recurrent, "full_attention"]}
  make_model(tmp_path, family=family, **kinds)
  config = load_model(str(tmp_path), jnp.float32).config
  mesh = make_mesh(MeshSettings(data=4, model=2))
  rows = empty_rows(config, 4, LENGTH, jnp.float32, mesh)
  arrays = jax.tree.leaves((rows.caches, rows.states))
  held = sum(x.addressable_shards[0].data.nbytes for x in arrays)
  assert local._cache_bytes(config, LENGTH, 4, split=2) == held


def test_a_teacher_lies_on_the_mesh_that_it_is_given(tmp_path):
  make_model(tmp_path)
  mesh = make_mesh(MeshSettings(data=8, model=1))
  writing = WritingSettings(max_new_tokens=4)
  teacher = load_teacher(str(tmp_path), writing, EndpointSettings(), mesh=mesh)
  assert isinstance(teacher, local.LocalTeacher)
  assert mesh_of(teacher._model.params) == mesh


def test_replies_end_at_all_that_the_model_says_ends_a_text(tmp_path):
  make_model(tmp_path)
  (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 7]}')
  teacher = load_teacher(str(tmp_path), WritingSettings(max_new_tokens=4), EndpointSettings())
  assert isinstance(teacher, local.LocalTeacher)
  assert teacher._stop_ids == [1, 3, 7]  # 3: with which the template ends a turn


def test_a_stop_string_that_is_a_special_token_stops(tmp_path):
  make_model(tmp_path)
  plain = load_teacher(str(tmp_path), WritingSettings(max_new_tokens=4), EndpointSettings())
  assert isinstance(plain, local.LocalTeacher)
  special = {token.content: i for i, token in plain._tokenizer.added_tokens_decoder.items()}
  (name,) = [name for name, i in special.items() if i not in plain._stop_ids][:1]
  writing = WritingSettings(max_new_tokens=4, stop_strings=(name, "\n\n"))
  teacher = load_teacher(str(tmp_path), writing, EndpointSettings())
  assert isinstance(teacher, local.LocalTeacher)
  assert set(teacher._stop_ids) - set(plain._stop_ids) == {special[name]}


@pytest.mark.parametrize("make_tokenizer", [byte_level, sentence_piece])
def test_a_reply_is_begun_in_the_tokens_that_pruning_scored(tmp_path, make_tokenizer):
  make_model(tmp_path, vocab_size=600)
  make_tokenizer(TEMPLATE).save_pretrained(tmp_path)
  teacher = load_teacher(str(tmp_path), WritingSettings(max_new_tokens=4), EndpointSettings())
  assert isinstance(teacher, local.LocalTeacher)
  # Without the newline that stood between them, tokens of the whole text could span the border.
  chain = Chain(id="c", question="Why?", reasoning="She had in th", answer="in the end")
  parts = segment(chain, teacher._tokenizer, teacher._template)
  begun = ChatPrompt(id="c", question="Why?", reply_start=(chain.reasoning, chain.answer))
  ids = list(teacher._prompt_ids(begun))
  expected = [*parts.prompt, *parts.reasoning, *parts.answer]
  assert ids == expected[: len(ids)]
  assert len(parts.prompt) + len(parts.reasoning) < len(ids) <= len(expected)


@pytest.mark.slow
def test_angles_are_those_of_each_text_whatever_runs_beside_it(tmp_path):
  model, tokenizer = make_longrope_model(tmp_path)
  teacher = load_teacher(str(tmp_path), WritingSettings(max_new_tokens=24), EndpointSettings())
  assert isinstance(teacher, local.LocalTeacher)
  questions = {
    "short": "How many clips did she sell?",
    "long": "How many clips did she sell? " * 20,
  }
  prompts = [ChatPrompt(id=id, question=question) for id, question in questions.items()]
  found = {reply.id: reply.text for reply in teacher.write(prompts)}
  for prompt in prompts:
    ids = list(teacher._prompt_ids(prompt))
    assert (len(ids) > 128) == (prompt.id == "long")
    assert prompt.id == "long" or len(ids) + 24 <= 128
    given = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": teacher._stop_ids}
    written = model.generate(torch.tensor([ids]), **given)[0, len(ids) :]
    assert found[prompt.id] == tokenizer.decode(written, skip_special_tokens=True)
