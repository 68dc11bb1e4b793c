"""Whole runs on a tiny student: learning, stopping, going on, exporting."""

import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from greedy_prune_jax.distill import run as run_module
from greedy_prune_jax.distill.checkpoints import Checkpoints
from greedy_prune_jax.distill.export import load_student
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.jobs.distill import describe
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.runs.jsonl import read_records
from tests.helpers.tiny_runs import CHAINS, make_longrope_model, write_chains
from tests.helpers.tiny_student import LORA, json_config, settings


def losses(workdir):
  records = list(read_records(workdir / "metrics.jsonl"))
  steps = [record["step"] for record in records if "loss" in record]
  assert steps == sorted(set(steps)), "each step once"
  return {r["step"]: r["loss"] for r in records if "loss" in r}


SPLIT = {"mesh": {"data": 4, "model": 2}, "fully_sharded": True}
PARTS = {"keep_ratios": (1.0, 0.0), "num_parts": 2, "mu_dtype": "bfloat16"}
RUNS = ("one", "many")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, LORA | PARTS])
def test_a_stopped_run_goes_on_with_the_same_losses_to_the_last_digit(run, tmp_path, changes):
  whole = run("whole", num_validation=2, **changes)
  assert (whole.step, whole.stopped) == (6, False)
  assert run("parts", num_validation=2, stop_after=3, **changes).stopped  # between two checkpoints
  assert run("parts", num_validation=2, stop_after=1, **changes).step == 4
  again = run("parts", num_validation=2, **changes)
  assert (again.step, again.stopped) == (6, False)
  assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
  assert len(losses(tmp_path / "whole")) == 6
  assert again.progress.best_loss == whole.progress.best_loss
  made = settings(**json_config(tmp_path / "whole"))
  for one, other in zip(*(weights(tmp_path / w, made) for w in ("whole", "parts")), strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, LORA])
def test_a_run_goes_on_on_another_mesh_and_in_parts(run, tmp_path, changes):
  run("one", num_validation=2, export="last", **changes)
  assert run("many", num_validation=2, stop_after=3, **SPLIT, **changes).stopped
  other = {"mesh": {"data": 0, "model": 1}, "num_parts": 2}
  assert run("many", num_validation=2, stop_after=2, **other, **changes).step == 5
  run("many", num_validation=2, export="last", **SPLIT, **changes)
  found, expected = losses(tmp_path / "many"), losses(tmp_path / "one")
  assert found.keys() == expected.keys()
  np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=2e-3)
  made = [transformers.AutoModelForCausalLM.from_pretrained(tmp_path / w / "export") for w in RUNS]
  ids = torch.arange(20)[None] + 5
  with torch.no_grad():
    one, many = (model(ids).logits for model in made)
  np.testing.assert_allclose(many, one, atol=0.02)


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_examples(run, base, tmp_path):
  path = tmp_path / "chains.jsonl"
  path.write_bytes((base / "chains.jsonl").read_bytes())
  assert run("run", chains=str(path), stop_after=3).stopped
  lines = path.read_text().splitlines(keepends=True)
  more = json.dumps(CHAINS[0] | {"id": "9"}) + "\n"
  path.write_text("".join([*lines, more]))
  notes = tmp_path / "run" / "examples.json", tmp_path / "run" / "skipped.jsonl"
  for note in notes:
    note.write_text("of the begun run")
  with pytest.raises(UserError, match=r"chains.jsonl has not the examples that .*run was begun wi"):
    run("run", chains=str(path))
  assert [note.read_text() for note in notes] == ["of the begun run"] * 2
  path.write_text("".join(reversed(lines)))
  assert run("run", chains=str(path)).step == 6, "the order in files does not matter"
  assert (notes[0].read_text(), notes[1].exists()) == ('{\n  "thinking_form": null\n}\n', False)


@pytest.mark.slow
def test_matrices_are_trained_on_with_the_weights_that_they_were_begun_on_alone(
  run, base, tmp_path
):
  shutil.copytree(base / "model", tmp_path / "model")
  student = str(tmp_path / "model")
  assert run("run", student=student, stop_after=2, **LORA).step == 2
  assert run("run", student=student, stop_after=1, **LORA).step == 3
  file = tmp_path / "model" / "model.safetensors"
  weights = safetensors.numpy.load_file(file)
  safetensors.numpy.save_file({name: x * 1.01 for name, x in weights.items()}, file)
  with pytest.raises(UserError, match=r"/model has other weights than when .*/run was begun"):
    run("run", student=student, **LORA)


@pytest.mark.slow
def test_a_checkpoint_from_before_examples_were_noted_is_gone_on_with(run, tmp_path):
  assert run("run", stop_after=3).stopped
  path = tmp_path / "run" / "checkpoints" / "3" / "progress" / "metadata"
  stored = json.loads(path.read_text())
  del stored["examples"]
  path.write_text(json.dumps(stored))
  result = run("run")
  assert (result.step, len(result.progress.examples)) == (6, 64)


def weights(workdir, made):
  return jax.tree.leaves(load_student(workdir, 6, made)[0].params)


@pytest.mark.slow
def test_a_run_killed_after_a_checkpoint_drops_what_it_logged_since(run, tmp_path):
  run("whole")
  run("killed", steps=6, stop_after=3)
  # As if steps 4 and 5 had been run and the process killed before their checkpoint.
  with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
    file.write('{"time": 0, "step": 4, "loss": 1.0}\n{"time": 0, "step": 5, "lo')
  run("killed")
  assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [None, 3])
def test_which_checkpoints_are_kept(run, tmp_path, stop_after):
  # At such a rate the loss gets worse: the first validation is the best.
  changes = {"num_validation": 2, "learning_rate": 3.0, "max_grad_norm": 0.0, "save_every": 1}
  changes |= {"keep_checkpoints": 2}
  result = run("run", stop_after, **changes)
  if result.stopped:
    result = run("run", **changes)
  assert result.progress.best_step < 5, "else it would be kept as one of the last"
  with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
    assert checkpoints.steps == sorted({result.progress.best_step, 5, 6})
    assert checkpoints.progress(6) == result.progress


@pytest.mark.slow
def test_early_stop(run):
  changes = {"num_validation": 2, "learning_rate": 3.0, "max_grad_norm": 0.0, "save_every": 1}
  result = run("run", steps=50, patience=3, **changes)
  assert result.step == result.progress.best_step + 3 < 50
  assert not result.stopped
  assert run("run", steps=50, patience=3, **changes).step == result.step, "it stays stopped"


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "saved"), [(1e14, [1]), (1e39, [])])  # of the second: no update
def test_what_is_not_finite_stops_the_run(run, tmp_path, rate, saved):
  changes = {"max_grad_norm": 0.0, "warmup_steps": 0, "save_every": 1}
  with pytest.raises(UserError, match=r"step \d: the loss is .*(nan|inf), on the examples \d@1.0"):
    run("run", learning_rate=rate, keep_checkpoints=6, **changes)
  with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
    steps = checkpoints.steps
  assert steps == saved
  for step in steps:  # what was saved before is usable
    student, _ = load_student(tmp_path / "run", step, settings(**json_config(tmp_path / "run")))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(student.params))


@pytest.mark.slow
def test_validation_and_saving_are_not_in_a_steps_time(run, tmp_path, monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(run_module.time, "perf_counter", lambda: clock[0])

  def take(seconds, what):
    def taking(*args, **kwargs):
      clock[0] += seconds
      return what(*args, **kwargs)

    return taking

  monkeypatch.setattr(run_module, "place_rows", take(1, run_module.place_rows))  # once a step
  monkeypatch.setattr(Checkpoints, "save", take(1000, Checkpoints.save))
  run("run", save_every=1, steps=3)
  records = list(read_records(tmp_path / "run" / "metrics.jsonl"))
  assert [r["tokens_per_second"] > 1 for r in records] == [True, True, True]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"b2": 1.0}, "b2=1.0; expected a number from 0 to below 1"),
    ({"b1": 1.0}, "b1=1.0; expected a number from 0 to below 1"),
    ({"final_fraction": 1.5}, "final_fraction=1.5; expected a number from 0 to 1"),
    ({"seed": -1}, "seed=-1; expected 0 or more"),
    ({"mu_dtype": "float8"}, "mu_dtype='float8'; expected one of float32, bfloat16"),
    ({"mu_dtype": "bfloat16", "optimizer": "adafactor"}, "adafactor keeps no mean"),
    ({"dtype": "bfloat16"}, "dtype=bfloat16 with lora_rank=0: most updates are too small"),
  ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
  with pytest.raises(UserError, match=message):
    settings(**changes)


def test_epochs_of_more_steps_than_any_run_takes_are_refused():
  assert settings(epochs=3.0, steps=0, batch_size=2).num_steps(8) == 12
  with pytest.raises(UserError, match="steps; expected at most 16777216"):
    settings(epochs=1e300, steps=0).num_steps(8)


def test_frozen_weights_are_computed_with_in_any_dtype():
  assert settings(dtype="bfloat16", lora_rank=2).compute_dtype == "float32"


@pytest.mark.slow
def test_metrics(run, tmp_path):
  run("run", num_validation=2)
  records = list(read_records(tmp_path / "run" / "metrics.jsonl"))
  first = records[0]
  assert first["learning_rate"] == pytest.approx(1e-2 / 3)
  assert all(first[name] > 0 for name in ("loss", "grad_norm", "tokens_per_second"))
  assert first["utilisation"] is None, "the peak of a CPU is not known"
  assert [r["step"] for r in records if "validation_loss" in r] == [2, 4, 6]
  assert list((tmp_path / "run" / "tensorboard").glob("events.out.tfevents*"))


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 70])
def test_ropes_turn_as_those_of_the_longest_example(run, tmp_path, repeats):
  theirs, _ = make_longrope_model(tmp_path / "model")
  lines = [
    c | {"id": f"{i}", "question": f"{i}: {c['question'][:9]}" * repeats}
    for i, c in enumerate(CHAINS)
  ]
  write_chains(tmp_path / "chains.jsonl", lines)
  paths = {"student": str(tmp_path / "model"), "chains": str(tmp_path / "chains.jsonl")}
  run("run", steps=1, batch_size=1, num_validation=2, save_every=1, learning_rate=1e-30, **paths)
  [found] = [
    record["validation_loss"]
    for record in read_records(tmp_path / "run" / "metrics.jsonl")
    if "validation_loss" in record
  ]
  made = settings(**json_config(tmp_path / "run"))
  examples = run_module.read_examples(made, load_model(paths["student"], "float32"))
  assert (examples.longest > 128) == (repeats > 1)
  nlls = []
  for example in examples.validation:
    ids = torch.tensor(example.token_ids[None]).long()
    with torch.no_grad():
      log_probs = torch.log_softmax(theirs(ids).logits[0].float(), -1)
    targets = torch.arange(example.num_prompt, ids.shape[1])
    nlls.append(-log_probs[targets - 1, ids[0, targets]])
  np.testing.assert_allclose(found, torch.cat(nlls).mean(), rtol=1e-5)


@pytest.mark.slow
def test_a_run_that_ends_before_its_rate_has_risen_says_so(run, tmp_path, caplog):
  short = {"steps": 0, "epochs": 1.3, "batch_size": 5, "num_validation": 2}
  result = run("run", warmup_steps=2, **short)
  assert "rises for warmup_steps=2 and the run has 2 steps" in caplog.text
  assert "set warmup_steps below 2" in caplog.text
  num_chains = 8 - 2
  assert result.passes == pytest.approx(2 * 5 / num_chains)
  assert f"step 2 of 2, {10 / num_chains:.3g} passes over the chains" in describe(result)
  lines = [x for x in read_records(tmp_path / "run" / "metrics.jsonl") if "loss" in x]
  assert [line["passes"] for line in lines] == pytest.approx([5 / num_chains, 10 / num_chains])
  caplog.clear()
  run("enough", warmup_steps=1, **short)
  assert "warmup_steps" not in caplog.text


@pytest.mark.slow
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(run, tmp_path, caplog):
  run("whole", keep_checkpoints=3)
  run("damaged", stop_after=5, keep_checkpoints=3)
  for path in (tmp_path / "damaged" / "checkpoints" / "5").rglob("*"):
    if path.is_file() and "trained" in path.parts:
      path.write_bytes(b"x" * 7)
  run("damaged", keep_checkpoints=3)
  assert "cannot read" in caplog.text
  assert "going on from the checkpoint before it" in caplog.text
  assert losses(tmp_path / "damaged") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_whose_workdir_is_deleted_ends_and_makes_no_new_one(run, tmp_path, monkeypatch):
  save = Checkpoints.save

  def save_and_delete(self, state, progress):
    save(self, state, progress)
    self._manager.wait_until_finished()
    shutil.rmtree(tmp_path / "gone")

  monkeypatch.setattr(Checkpoints, "save", save_and_delete)
  with pytest.raises(UserError, match=r"metrics.jsonl is gone"):
    run("gone")
  assert not (tmp_path / "gone" / "ended.json").exists()


@pytest.mark.slow
def test_from_random_weights(run, tmp_path):
  """A student from nothing learns, is read back as it was, and starts as the seed says."""
  changes = {
    "student": "planted-characters",
    "chains": "planted@length=20,steps=2",
    "num_chains": 40,
    "init": "random:layers=1,width=32",
    "learning_rate": 5e-3,
    "steps": 30,
    "epochs": 0.0,
    "save_every": 30,
  }
  result = run("scratch", export="last", **changes)
  losses = [line["loss"] for line in read_records(tmp_path / "scratch" / "metrics.jsonl")]
  assert losses[-1] < 0.8 * losses[0]
  exported = load_model(str(result.exported), "float32")
  made = settings(**json_config(tmp_path / "scratch"))
  student, _ = load_student(tmp_path / "scratch", 30, made)
  for a, b in zip(*(jax.tree.leaves(m.params) for m in (exported, student)), strict=True):
    np.testing.assert_array_equal(a, b)
  run("again", **changes, seed=1)
  other = next(read_records(tmp_path / "again" / "metrics.jsonl"))["loss"]
  assert other != losses[0]
  with pytest.raises(UserError, match="lora_rank=4: LoRA's matrices are added to weights"):
    settings(**changes, lora_rank=4)
