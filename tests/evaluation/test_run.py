"""Evaluation of students out of their checkpoints: tiny ones, trained here."""

import dataclasses
import json
import math
import shutil
import statistics

import jax
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from configs import evaluate as config_file
from greedy_prune_jax.distill.run import run_distill
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.evaluation import run as questions
from greedy_prune_jax.evaluation.candidates import parse_entries
from greedy_prune_jax.evaluation.run import OUTPUT, by_run, read_evaluation, run_evaluate
from greedy_prune_jax.evaluation.scores import score
from greedy_prune_jax.evaluation.settings import MAY_CHANGE, EvaluateSettings
from greedy_prune_jax.parallel import (
  DATA,
  MODEL,
  MeshSettings,
  axis_size,
  make_mesh,
  weight_shardings,
)
from greedy_prune_jax.runs.config import write_or_check_config
from greedy_prune_jax.runs.workdir import Workdir
from tests.helpers import tiny_student
from tests.helpers.answer_records import answer_record
from tests.helpers.tiny_runs import CHAINS, make_model, write_chains

NUM_CHAINS = 8
MAY = {"may_change": MAY_CHANGE, "may_grow": {"num_questions": math.inf}}
TOLD = {"ratio_form": "{question} keep {ratio}", "keep_ratios": (1.0, 0.0)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
  """A folder with a student, 8 chains, and the questions of these as rows of GSM8K."""
  folder = tmp_path_factory.mktemp("base")
  make_model(folder / "model", num_hidden_layers=2)
  shared = [{"id": f"{i}", "question": f"{i} clips?", "system": "Add."} for i in range(NUM_CHAINS)]
  chains = [
    CHAINS[i % 3] | row | {"answer": json.dumps({"answer": str(i)})} for i, row in enumerate(shared)
  ]
  write_chains(folder / "chains.jsonl", chains)
  write_chains(folder / "rows.jsonl", [row | {"answer": f"#### {row['id']}"} for row in shared])
  return folder


def train(base, workdir, stop_after=None, **changes):
  """Trains a student, or goes on."""
  workdir.mkdir(exist_ok=True)
  defaults = {
    "chains": str(base / "chains.jsonl"),
    "student": str(base / "model"),
    "keep_ratios": (1.0,),
    "batch_size": 8,
    "steps": 4,
    "epochs": 0.0,
    "learning_rate": 5e-3,
    "warmup_steps": 2,
    "schedule": "constant",
    "save_every": 2,
    "keep_checkpoints": 9,
  }
  config = defaults | changes
  made = tiny_student.settings(**config)
  write_or_check_config(workdir / "config.json", dataclasses.asdict(made))
  calls = iter(range(10_000))  # asked once before the first step
  return run_distill(made, workdir, lambda _: next(calls) == stop_after)


@pytest.fixture
def evaluate(base, tmp_path):
  """Evaluates models on the rows; returns the records of each run by question."""

  def evaluate(*models, workdir="evaluation", **changes):
    defaults = {"models": models, "questions": f"gsm8k:{base / 'rows.jsonl'}"}
    config = config_file.get_config().to_dict() | defaults | {"max_new_tokens": 60} | changes
    with Workdir(tmp_path / workdir, config, output=OUTPUT, **MAY) as opened:
      assert run_evaluate(EvaluateSettings.from_config(config), opened) == 0
    runs = by_run(read_evaluation(tmp_path / workdir))
    return {run: {r["question_id"]: r for r in found} for run, found in runs.items()}

  return evaluate


def texts(run):
  return {question: record["samples"][0]["text"] for question, record in run.items()}


@pytest.mark.slow
def test_a_student_of_8_chains_writes_them_when_asked_as_it_was_trained(base, tmp_path, evaluate):
  changes = {"steps": 180, "save_every": 180, **TOLD}
  outcome = train(base, tmp_path / "student", **changes)
  assert outcome.loss < 0.05
  runs = evaluate(str(tmp_path / "student"))
  assert list(runs) == ["student@180, keep 1", "student@180, keep 0"]
  whole, answer_only = runs.values()
  lines = (base / "chains.jsonl").read_text().splitlines()
  for chain in map(json.loads, lines):
    assert texts(whole)[chain["id"]] == chain["reasoning"] + chain["answer"]
    assert texts(answer_only)[chain["id"]] == chain["answer"]
  figures = score(list(whole.values()))
  assert figures.accuracy.share == 1
  tokenizer = transformers.AutoTokenizer.from_pretrained(base / "model")
  lengths = [len(tokenizer(json.loads(line)["reasoning"])["input_ids"]) for line in lines]
  assert (figures.mean_tokens, figures.median_tokens) == (12, 11)
  assert (statistics.fmean(lengths), statistics.median(lengths)) == (12, 11)
  assert score(list(answer_only.values())).mean_tokens == 0
  # The same, from the exported folder, which has to be told in what form.
  exported = evaluate(f"x={outcome.exported}", workdir="exported", **TOLD)
  assert [texts(run) for run in exported.values()] == [texts(whole), texts(answer_only)]


@pytest.mark.slow
def test_a_lora_checkpoint_is_merged(base, tmp_path, evaluate):
  outcome = train(base, tmp_path / "student", lora_rank=2, lora_alpha=8.0, learning_rate=5e-2)
  runs = evaluate(
    f"before={tmp_path / 'student'}@2",
    f"after={tmp_path / 'student'}",
    f"exported={outcome.exported}",
    f"base={base / 'model'}",
  )
  assert list(runs) == ["before@2", "after@4", "exported", "base"]
  assert texts(runs["after@4"]) == texts(runs["exported"])
  assert texts(runs["after@4"]) != texts(runs["before@2"]) != texts(runs["base"])
  records = next(iter(runs["before@2"].values()))
  assert (records["model"], records["step"], records["keep_ratio"]) == ("before", 2, None)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{}, {"lora_rank": 2, "lora_alpha": 8.0, "learning_rate": 5e-2}])
def test_a_student_answers_on_any_mesh_whatever_it_was_trained_on(
  base, tmp_path, evaluate, monkeypatch, lora
):
  make_model(tmp_path / "even", num_hidden_layers=2, vocab_size=348)  # can be split in two
  sharded = {"fully_sharded": True, "mesh": {"data": 2, "model": 2}}
  train(base, tmp_path / "student", student=str(tmp_path / "even"), **sharded, **lora)
  loaded, load = [], questions.load_candidate

  def watched(*args):
    loaded.append(load(*args))
    return loaded[-1]

  monkeypatch.setattr(questions, "load_candidate", watched)
  found = []
  for data, split in ((1, 1), (2, 2), (3, 1)):  # nothing of it can be split in three
    mesh = {"data": data, "model": split}
    found.append(evaluate(str(tmp_path / "student"), workdir=f"{data} {split}", mesh=mesh))
    params = loaded[-1]._model.params
    lies = [axis_size(params, axis) for axis in (DATA, MODEL)]
    assert lies == [data, split]
    places = weight_shardings(make_mesh(MeshSettings(**mesh)))
    if data * split > 1:
      assert jax.tree.map(lambda x: x.sharding, params) == places(params)
  assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_following_a_training_to_its_end(base, tmp_path, evaluate, monkeypatch):
  student = tmp_path / "student"
  train(base, student, stop_after=3)  # saves at 2 and at 3
  slept = []

  def sleep(seconds):
    slept.append(seconds)
    train(base, student)  # goes on, to the end at 4

  monkeypatch.setattr(questions.time, "sleep", sleep)
  runs = evaluate(f"{student}@all", follow=True, idle_minutes=1.0)
  assert list(runs) == ["student@2", "student@3", "student@4"]
  assert slept == [6.0]


@pytest.mark.slow
def test_following_ends_when_nothing_comes(base, tmp_path, evaluate, monkeypatch):
  student = tmp_path / "student"
  train(base, student, stop_after=1)
  monkeypatch.setattr(questions.time, "monotonic", iter(range(0, 10**6, 50)).__next__)
  monkeypatch.setattr(questions.time, "sleep", lambda _: None)
  assert list(evaluate(str(student), follow=True, idle_minutes=2.0)) == ["student@1"]


@pytest.mark.slow
def test_which_checkpoint(base, tmp_path):
  student = tmp_path / "student"
  train(base, student)
  model = tmp_path / "mo=del@7"
  model.mkdir()
  entries = parse_entries([f"{student}@best", f"b={student}@12", f"c={student}", f"d={model}"])
  assert [(e.name, e.which) for e in entries] == [
    ("student", "best"), ("b", "12"), ("c", "last"), ("d", "")
  ]  # fmt: skip
  assert entries[3].place == str(model)
  assert [entry.is_student for entry in entries] == [True, True, True, False]


def test_a_place_that_is_there_has_no_name_in_it(tmp_path):
  place = tmp_path / "lr=3e-5"
  place.mkdir()
  for text, name in ((f"{place}", "lr=3e-5"), (f"a={place}", "a")):
    [entry] = parse_entries([text])
    assert (entry.name, entry.place, entry.which) == (name, str(place), "")
  (place / "config.json").write_text('{"student": "m", "chains": "c"}')
  for text, which in ((f"{place}", "last"), (f"{place}@best", "best")):
    [entry] = parse_entries([text])
    assert (entry.name, entry.place, entry.which) == ("lr=3e-5", str(place), which)


@pytest.mark.slow
def test_a_student_in_the_users_folder(base, tmp_path, monkeypatch, evaluate):
  train(base, tmp_path / "student")
  monkeypatch.setenv("HOME", str(tmp_path))
  [entry] = parse_entries(["~/student@2"])
  assert (entry.is_student, entry.name, entry.which) == (True, "student", "2")
  assert list(evaluate("~/student@2", num_questions=1)) == ["student@2"]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("models", "message"),
  [
    (["{}@5"], "has no checkpoint of step 5; it has those of 2, 4"),
    (["{}@best"], "has no best checkpoint: its run has had no validation"),
    (["{}@first"], "expected last, best, all or a step's number behind the @"),
    (["{}", "{}@2"], "models has several of the name student; name them apart, as NAME=PLACE"),
  ],
)
def test_checkpoints_that_are_not_there(base, tmp_path, evaluate, models, message):
  train(base, tmp_path / "student")
  with pytest.raises(UserError, match=message):
    evaluate(*(model.format(tmp_path / "student") for model in models))


@pytest.mark.slow
def test_keep_ratios_that_nobody_is_told_are_refused(base, tmp_path, evaluate):
  train(base, tmp_path / "student")
  for model in (tmp_path / "student", base / "model"):
    with pytest.raises(UserError, match=r"keep_ratios=\(0.5,\), but none of models=.* is told a"):
      evaluate(str(model), keep_ratios=(0.5,))


@pytest.mark.slow
def test_one_name_for_two_models_is_refused(base, tmp_path, evaluate):
  evaluate(f"x={base / 'model'}", num_questions=1)
  make_model(tmp_path / "other")
  with pytest.raises(UserError, match=r"has answers of .*/model under the name x, which now is "):
    evaluate(f"x={tmp_path / 'other'}", num_questions=1)


@pytest.mark.slow
def test_a_name_that_another_models_checkpoint_has_is_refused(base, tmp_path, evaluate):
  """Else the second would be taken for answered, and its rows be those of the first."""
  train(base, tmp_path / "student")
  student, model = f"x={tmp_path / 'student'}@2", f"x@2={base / 'model'}"
  message = r"answers of {} and of {} would both go by the name x@2; name one of the two apart"
  with pytest.raises(UserError, match=message.format("x", "x@2")):
    evaluate(student, model, num_questions=1)
  assert list(evaluate(model, num_questions=1)) == ["x@2"]
  with pytest.raises(UserError, match=message.format("x@2", "x")):
    evaluate(student, num_questions=1)


def test_models_of_the_settings_come_before_those_asked_earlier():
  asked = [("old", None), ("student", 4), ("gone", None), ("student", 2)]
  records = [answer_record("q", run=f"{name}{step}", model=name, step=step) for name, step in asked]
  assert list(by_run(records)) == ["oldNone", "student2", "student4", "goneNone"]
  runs = by_run(records, ["new", "student", "old"])
  assert list(runs) == ["student2", "student4", "oldNone", "goneNone"]


@pytest.mark.slow
def test_other_weights_at_a_place_are_refused(base, tmp_path, evaluate):
  make_model(tmp_path / "model", num_hidden_layers=2)
  train(base, tmp_path / "student")
  places = str(tmp_path / "model"), f"{tmp_path / 'student'}@4"
  before = evaluate(*places, num_questions=1)
  assert evaluate(*places, num_questions=1) == before

  file = tmp_path / "model" / "model.safetensors"
  original = file.read_bytes()
  save_file({name: weight * 1.01 for name, weight in load_file(file).items()}, file)
  with pytest.raises(UserError, match=r"models: model at .*/model has other weights than those"):
    evaluate(*places, num_questions=1)
  file.write_bytes(original)
  shutil.rmtree(tmp_path / "student")
  train(base, tmp_path / "student", learning_rate=1e-2)
  with pytest.raises(UserError, match=r"models: student@4 at .*/student has other weights than"):
    evaluate(*places, num_questions=1)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_matrices_are_added_to_the_same_weights_in_a_workdir(base, tmp_path, evaluate, rank):
  make_model(tmp_path / "model", num_hidden_layers=2)
  train(base, tmp_path / "student", student=str(tmp_path / "model"), lora_rank=rank)
  student = str(tmp_path / "student")
  evaluate(student, num_questions=1)
  file = tmp_path / "model" / "model.safetensors"
  save_file({name: weight * 1.01 for name, weight in load_file(file).items()}, file)
  if rank:
    with pytest.raises(UserError, match=r"/model has other weights than when .* was begun"):
      evaluate(student, num_questions=2)
  else:
    assert len(evaluate(student, num_questions=2)["student@4"]) == 2


@pytest.mark.slow
def test_other_questions_are_refused_and_lost_ones_named(base, tmp_path, evaluate, caplog):
  rows = [json.loads(line) for line in (base / "rows.jsonl").read_text().splitlines()]
  write_chains(tmp_path / "rows.jsonl", rows[:2])
  asked = {"questions": f"gsm8k:{tmp_path / 'rows.jsonl'}"}
  before = evaluate(str(base / "model"), **asked)
  assert evaluate(str(base / "model"), **asked) == before
  for change, differs in (
    ({"question": "9 clips?"}, r"another question \('1 clips\?' then, '9 clips\?' now\)"),
    ({"answer": "#### 9"}, r"another gold answer \('1' then, '9' now\)"),
  ):
    write_chains(tmp_path / "rows.jsonl", [rows[0], rows[1] | change])
    with pytest.raises(UserError, match=f"model/1 has {differs} than when this workd"):
      evaluate(str(base / "model"), **asked)
  assert "the input no longer has" not in caplog.text
  write_chains(tmp_path / "rows.jsonl", rows[:1])
  assert evaluate(str(base / "model"), **asked) == before
  assert "the input no longer has 1 of the finished items: model/1. They stay" in caplog.text


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"models": ()}, "models is empty; expected workdirs of distill runs or models"),
    ({"ratio_form": "{question}"}, "expected a text with {question} and {ratio}"),
    ({"ratio_form": TOLD["ratio_form"]}, "needs keep_ratios to tell, such as"),
    ({"num_samples": 2}, "num_samples=2 at temperature=0 would be that many equal samples"),
    ({"keep_ratios": (2.0,)}, "a keep ratio is a number from 0"),
  ],
)
def test_settings_that_cannot_be_are_refused(change, message):
  config = config_file.get_config().to_dict() | change
  with pytest.raises(UserError, match=message):
    EvaluateSettings.from_config(config)
