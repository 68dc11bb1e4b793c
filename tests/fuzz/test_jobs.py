"""Whole jobs, in this process with tiny models, on configs, inputs and workdirs of any kind.

Each is first run on what is not mutated; a case is then one value of the config, or one file of the
inputs or of the workdir to go on in, changed. It ends well or in a UserError. Other cases:
FUZZ_SEED=7 pytest tests/fuzz
"""

import shutil

import pytest

from tests.helpers import teacher_forms as forms
from tests.helpers import tiny_jobs
from tests.helpers.attacks import HangError, attack, cases_of, mutated, refusal, words_of
from tests.helpers.chat_server import serving
from tests.helpers.tiny_jobs import CONFIGS, run

pytestmark = pytest.mark.slow

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


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  return tiny_jobs.make_inputs(tmp_path_factory.mktemp("inputs"))


def with_another(config, rng, kept=_KEPT):
  """The config with one value of another kind or size."""
  key = rng.choice([key for key in config if key not in kept])
  if isinstance(config[key], dict) and config[key]:
    return config | {key: with_another(config[key], rng, kept)}
  value = rng.choice(
    (mutated(config[key], rng), float("nan"), (), ("a", 1), "/dev/zero", "x" * 300)
  )
  return config | {key: tuple(value) if isinstance(value, list) else value}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(name, inputs, tmp_path):
  config = CONFIGS[name](inputs)
  assert not refusal(lambda: run(name, config, tmp_path / "good", inputs))
  faults = []
  for case, rng in cases_of(name, 25):
    changed = with_another(config, rng)
    workdir = tmp_path / f"{case}"
    try:
      refusal(lambda changed=changed, workdir=workdir: run(name, changed, workdir, inputs))
    except (Exception, HangError) as error:
      differs = {k: v for k, v in changed.items() if v != config[k]}
      faults.append(f"{case}: {str(differs)[:200]}: {words_of(error)}")
  assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", CONFIGS)
def test_inputs(name, inputs, tmp_path):
  """A file of the inputs is changed; the workdir is new."""
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
    run(name, CONFIGS[name](folder), tmp_path / "run", folder)

  if name == "evaluate":  # a training's config names its student
    path = tmp_path / "good" / "student" / "config.json"
    path.write_text(path.read_text().replace(str(inputs), str(as_there)))
  attack(tmp_path / "good", work, tmp_path, cases=25, name=f"inputs of {name}")


@pytest.mark.parametrize("name", CONFIGS)
def test_workdirs(name, inputs, tmp_path):
  """A file of a workdir is changed in which the same command is run again."""
  config = CONFIGS[name](inputs)
  there = {"prune": "pruned", "distill": "student"}.get(name)
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
  with serving(forms.good) as server:
    good = tiny_jobs.drp(inputs, server.url)
    run("drp", good, tmp_path / "run", inputs)
    faults = []
    for case, rng in cases_of("drp", 25):
      kept = ("max_attempts", "base_url", "backoff", "timeout", "poll", "teacher")
      changed = with_another(good, rng, kept)
      try:
        refusal(lambda c=changed, case=case: run("drp", c, tmp_path / f"{case}", inputs))
      except (Exception, HangError) as error:
        differs = {k: v for k, v in changed.items() if v != good[k]}
        faults.append(f"{case}: {str(differs)[:200]}: {words_of(error)}")
    assert not faults, "\n".join(faults)
    attack(
      tmp_path / "run",
      lambda folder: run("drp", good, folder, inputs),
      tmp_path,
      cases=40,
      name="workdirs of drp",
    )


@pytest.fixture(scope="module")
def studied(inputs, tmp_path_factory):
  """A finished study, and its config."""
  folder = tmp_path_factory.mktemp("study")
  config = tiny_jobs.study(inputs)
  run("study", config, folder / "copy", inputs)  # where `attack` puts it: parts name their place
  shutil.copytree(folder / "copy", folder / "good")
  return folder, config


def test_studies(studied):
  folder, config = studied
  attack(
    folder / "good",
    lambda copy: run("study", config, copy, folder),
    folder,
    cases=12,
    name="workdirs of study",
  )


def test_configs_of_studies(studied, tmp_path):
  _, config = studied
  faults = []
  for case, rng in cases_of("study", 25):
    changed = with_another(config, rng, (*_KEPT, "poll_seconds"))
    changed["chains"] = str(tmp_path / "nothing.jsonl")  # all else is looked at before
    try:
      said = refusal(lambda c=changed, case=case: run("study", c, tmp_path / f"{case}", tmp_path))
      assert said
    except (Exception, HangError) as error:
      differs = {k: v for k, v in changed.items() if v != config[k]}
      faults.append(f"{case}: {str(differs)[:300]}: {words_of(error)}")
  assert not faults, "\n".join(faults)
