"""Whole jobs, in this process with tiny models, on configs, inputs and workdirs of any kind.

Each is first run on what is not mutated; a case is then one value of the config, or one file of the
inputs or of the workdir to go on in, changed. It ends well or in a UserError. Other cases:
FUZZ_SEED=7 pytest tests/jobs/test_fuzz.py
"""

import json
import random
import shutil

import pytest

from greedy_prune_jax.jobs import analyze as analyze_job
from greedy_prune_jax.jobs import distill as distill_job
from greedy_prune_jax.jobs import drp as drp_job
from greedy_prune_jax.jobs import evaluate as evaluate_job
from greedy_prune_jax.jobs import evaluate_pruned as evaluate_pruned_job
from greedy_prune_jax.jobs import prune as prune_job
from greedy_prune_jax.jobs import publish as publish_job
from greedy_prune_jax.jobs import sample as sample_job
from greedy_prune_jax.jobs import study as study_job
from tests.helpers import teacher_forms as forms
from tests.helpers.attacks import BASE_SEED, HangError, attack, mutated, refusal, words_of
from tests.helpers.chat_server import serving
from tests.helpers.tiny_runs import CHAINS, make_model, write_chains

pytestmark = pytest.mark.slow

ONE_DEVICE = {"data": 1, "model": 1}
ROWS = [
  {"question": f"{i} + {i}?", "answer": f"So.\n#### {2 * i}", "system": "Add."} for i in (1, 2)
]
# Values that a run would take minutes for, rightly.
_KEPT = (
  "num_questions",
  "num_samples",
  "max_new_tokens",
  "steps",
  "epochs",
  "idle_minutes",
  "follow",
)


def config_of(job, **changes):
  """The config of a job, of tiny size."""
  import importlib

  config = importlib.import_module(f"configs.{job}").get_config().to_dict()
  return config | {"mesh": ONE_DEVICE, "compilation_cache": False} | changes


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  """A model, chains, questions, and workdirs of prune and of a training."""
  folder = tmp_path_factory.mktemp("inputs")
  make_model(folder / "model")
  chains = [chain | {"question": f"{i}, how many?"} for i, chain in enumerate(CHAINS)]
  write_chains(folder / "chains.jsonl", chains)
  (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
  prune_job.prune(prune_config(folder), str(folder / "pruned"))
  distill_job.distill(distill_config(folder), str(folder / "student"))
  return folder


def prune_config(folder):
  return config_of(
    "prune",
    chains=str(folder / "chains.jsonl"),
    pruner=str(folder / "model"),
    num_chains=0,
    keep_ratios=(0.7, 0.5),
    show_chains=1,
  )


def distill_config(folder):
  return config_of(
    "distill",
    chains=str(folder / "pruned"),
    student=str(folder / "model"),
    keep_ratios=(0.5,),
    batch_size=2,
    steps=2,
    epochs=0.0,
    save_every=1,
    warmup_steps=1,
    show_progress=False,
    export="last",
  )


def sample_config(folder):
  return config_of(
    "sample",
    questions=f"gsm8k:{folder / 'rows.jsonl'}",
    teacher=str(folder / "model"),
    num_questions=0,
    num_samples=2,
    max_new_tokens=6,
    batch_size=2,
  )


def evaluate_config(folder):
  return config_of(
    "evaluate",
    questions=f"gsm8k:{folder / 'rows.jsonl'}",
    models=(f"m={folder / 'model'}", f"s={folder / 'student'}"),
    num_questions=0,
    num_samples=1,
    max_new_tokens=4,
    batch_size=2,
  )


def evaluate_pruned_config(folder):
  return config_of(
    "evaluate_pruned",
    pruned=(str(folder / "pruned"),),
    model=str(folder / "model"),
    max_new_tokens=4,
  )


def publish_config(folder):
  config = config_of("publish", pruned=str(folder / "pruned"), license="mit", source="s")
  return {key: value for key, value in config.items() if key not in ("mesh", "compilation_cache")}


def analyze_config(_):
  return config_of("analyze", parts=("patterns", "viewer"), regressors=("ridge",))


def run_analyze(config, workdir, folder):
  analyze_job.analyze(config, workdir, [str(folder / "pruned")])


JOBS = {
  "prune": (prune_job.prune, prune_config, "pruned"),
  "distill": (distill_job.distill, distill_config, "student"),
  "sample": (sample_job.sample, sample_config, None),
  "evaluate": (evaluate_job.evaluate, evaluate_config, None),
  "evaluate_pruned": (evaluate_pruned_job.evaluate_pruned, evaluate_pruned_config, None),
  "publish": (publish_job.publish, publish_config, None),
  "analyze": (run_analyze, analyze_config, None),
}


def run(name, config, workdir, folder):
  job, *_ = JOBS[name]
  job(config, str(workdir), *([folder] if name == "analyze" else []))


def with_another(config, rng, kept=_KEPT):
  """The config with one value of another kind or size."""
  key = rng.choice([key for key in config if key not in kept])
  if isinstance(config[key], dict) and config[key]:
    return config | {key: with_another(config[key], rng, kept)}
  value = rng.choice(
    (mutated(config[key], rng), float("nan"), (), ("a", 1), "/dev/zero", "x" * 300)
  )
  return config | {key: tuple(value) if isinstance(value, list) else value}


@pytest.mark.parametrize("name", JOBS)
def test_configs(name, inputs, tmp_path):
  _, make, _ = JOBS[name]
  config = make(inputs)
  assert not refusal(lambda: run(name, config, tmp_path / "good", inputs))
  faults = []
  for case in range(BASE_SEED, BASE_SEED + 25):
    changed = with_another(config, random.Random(f"{name} {case}"))
    workdir = tmp_path / f"{case}"
    try:
      refusal(lambda changed=changed, workdir=workdir: run(name, changed, workdir, inputs))
    except (Exception, HangError) as error:
      differs = {k: v for k, v in changed.items() if v != config[k]}
      faults.append(f"{case}: {str(differs)[:200]}: {words_of(error)}")
  assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", JOBS)
def test_inputs(name, inputs, tmp_path):
  """A file of the inputs is changed; the workdir is new."""
  _, make, _ = JOBS[name]
  (tmp_path / "good").mkdir()
  needed = {
    "prune": ("model", "chains.jsonl"),
    "distill": ("model", "pruned"),
    "sample": ("model", "rows.jsonl"),
    "evaluate": ("model", "rows.jsonl", "student"),
    "evaluate_pruned": ("model", "pruned"),
    "publish": ("pruned",),
    "analyze": ("pruned",),
  }
  for part in needed[name]:
    source = inputs / part
    copy = shutil.copytree if source.is_dir() else shutil.copy
    copy(source, tmp_path / "good" / part)
  as_there = tmp_path / "copy"  # where `attack` puts it, and configs of students point to

  def work(folder):
    assert folder == as_there
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    run(name, make(folder), tmp_path / "run", folder)

  if name == "evaluate":  # a training's config names its student
    path = tmp_path / "good" / "student" / "config.json"
    path.write_text(path.read_text().replace(str(inputs), str(as_there)))
  attack(tmp_path / "good", work, tmp_path, cases=25, name=f"inputs of {name}")


@pytest.mark.parametrize("name", JOBS)
def test_workdirs(name, inputs, tmp_path):
  """A file of a workdir is changed in which the same command is run again."""
  _, make, there = JOBS[name]
  config = make(inputs)
  if there:
    shutil.copytree(inputs / there, tmp_path / "good")
  else:
    run(name, config, tmp_path / "good", inputs)
  attack(
    tmp_path / "good",
    lambda folder: run(name, config, folder, inputs),
    tmp_path,
    cases=25,
    name=f"workdirs of {name}",
  )


def test_drp(inputs, tmp_path):
  pytest.importorskip("openai")
  pytest.importorskip("json_repair")
  (tmp_path / "good").mkdir()
  chains = [forms.chain(i) for i in range(2)]
  write_chains(tmp_path / "good" / "chains.jsonl", chains)
  with serving(forms.good) as server:

    def config(folder):
      config = config_of("drp", chains=str(folder / "chains.jsonl"), num_chains=0, teacher="openai")
      return config | {
        "endpoint": config["endpoint"] | {"base_url": server.url, "model": "m", "backoff": 0.0}
      }

    good = config(tmp_path / "good")
    drp_job.drp(good, str(tmp_path / "run"))
    faults = []
    for case in range(BASE_SEED, BASE_SEED + 25):
      kept = ("max_attempts", "base_url", "backoff", "timeout", "poll", "teacher")
      changed = with_another(good, random.Random(f"drp {case}"), kept)
      try:
        refusal(lambda c=changed, case=case: drp_job.drp(c, str(tmp_path / f"{case}")))
      except (Exception, HangError) as error:
        differs = {k: v for k, v in changed.items() if v != good[k]}
        faults.append(f"{case}: {str(differs)[:200]}: {words_of(error)}")
    assert not faults, "\n".join(faults)

    def again(folder):
      drp_job.drp(good, str(folder))

    attack(tmp_path / "run", again, tmp_path, cases=40, name="workdirs of drp")


@pytest.fixture(scope="module")
def studied(inputs, tmp_path_factory):
  """A finished study, and its config."""
  folder = tmp_path_factory.mktemp("study")
  config = config_of("study_cpu")
  config.pop("mesh")
  questions = {"questions": f"gsm8k:{inputs / 'rows.jsonl'}", "num_questions": 0}
  config |= {
    "chains": str(inputs / "chains.jsonl"),
    "num_chains": 2,
    "max_reasoning_tokens": 60,
    "arms": {"greedy": {"objective": "joint"}},
    "reference": "greedy",
    "keep_ratios": (0.5,),
    "seeds": (0,),
    "students": {"tiny": {"student": str(inputs / "model")}},
    "tests": {"sums": questions},
    "poll_seconds": 0.01,
  }
  config["prune"] |= {"pruner": str(inputs / "model"), "mesh": ONE_DEVICE}
  config["distill"] |= {"steps": 1, "batch_size": 2, "save_every": 1, "mesh": ONE_DEVICE}
  config["evaluate"] |= {"max_new_tokens": 4, "mesh": ONE_DEVICE}
  study_job.study(config, str(folder / "copy"))  # where `attack` puts it: parts name their place
  shutil.copytree(folder / "copy", folder / "good")
  return folder, config


def test_studies(studied):
  folder, config = studied

  def again(copy):
    study_job.study(config, str(copy))

  attack(folder / "good", again, folder, cases=12, name="workdirs of study")


def test_configs_of_studies(studied, tmp_path):
  _, config = studied
  faults = []
  for case in range(BASE_SEED, BASE_SEED + 25):
    changed = with_another(config, random.Random(f"study {case}"), (*_KEPT, "poll_seconds"))
    changed["chains"] = str(tmp_path / "nothing.jsonl")  # all else is looked at before
    try:
      said = refusal(lambda c=changed, case=case: study_job.study(c, str(tmp_path / f"{case}")))
      assert said
    except (Exception, HangError) as error:
      differs = {k: v for k, v in changed.items() if v != config[k]}
      faults.append(f"{case}: {str(differs)[:300]}: {words_of(error)}")
  assert not faults, "\n".join(faults)
