"""Settings of every job, of other kinds and sizes than they should have."""

import pytest

from greedy_prune_jax.analysis.settings import AnalyzeSettings
from greedy_prune_jax.distill.settings import DistillSettings
from greedy_prune_jax.drp.settings import DrpSettings
from greedy_prune_jax.evaluation.candidates import parse_entries
from greedy_prune_jax.evaluation.pruned.settings import EvaluatePrunedSettings
from greedy_prune_jax.evaluation.settings import EvaluateSettings
from greedy_prune_jax.pruning.budget import parse_budgets
from greedy_prune_jax.pruning.settings import PruneSettings
from greedy_prune_jax.publish.settings import PublishSettings
from greedy_prune_jax.sample.settings import SampleSettings
from greedy_prune_jax.study.settings import StudySettings
from tests.helpers.attacks import cases_of, is_taken, mutated, mutated_text, to_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings_classes():
  from configs import (
    analyze,
    distill,
    drp,
    evaluate,
    evaluate_pruned,
    prune,
    publish,
    sample,
    study_cpu,
    study_drp,
  )

  return [
    (AnalyzeSettings, analyze.get_config()),
    (DistillSettings, distill.get_config()),
    (DrpSettings, drp.get_config()),
    (EvaluateSettings, evaluate.get_config()),
    (EvaluatePrunedSettings, evaluate_pruned.get_config()),
    (PruneSettings, prune.get_config()),
    (PublishSettings, publish.get_config()),
    (SampleSettings, sample.get_config()),
    (StudySettings, study_cpu.get_config()),
    (StudySettings, study_drp.get_config()),
  ]


NO_JSON = (
  float("nan"),
  float("inf"),
  -float("inf"),
  (),
  (1,),
  ("a", 1),
  ((),),
  (float("nan"),),
  b"x",
)


def with_another(config, rng):
  """The config with a value of any kind at one of its keys."""
  key = rng.choice(list(config))
  value = config[key]
  if isinstance(value, dict) and value and rng.random() < 0.8:
    return config | {key: with_another(value, rng)}
  if isinstance(value, tuple) and value and rng.random() < 0.5:
    return config | {key: (*value[1:], mutated(value[0], rng))}
  return config | {key: rng.choice((mutated(value, rng), rng.choice(NO_JSON)))}


@pytest.mark.parametrize("number", range(10))
def test_settings(number, settings_classes):
  cls, config = settings_classes[number]
  config = config.to_dict()
  assert is_taken(lambda: cls.from_config(config))
  refused = 0
  for case, rng in cases_of(f"{number}", 200):
    changed = with_another(config, rng)
    try:
      refused += not is_taken(lambda changed=changed: cls.from_config(changed))
    except Exception as error:
      differs = {k: v for k, v in changed.items() if v != config[k]}
      raise AssertionError(f"{cls.__name__} {case}: {differs!r}"[:400]) from error
  assert refused > to_run(200) / 3


def test_budgets_and_entries_of_models():
  for _, rng in cases_of("budgets", 300):
    is_taken(lambda rng=rng: parse_budgets(mutated_text("nll:+0.1,answer:0.9,right", rng)))
    is_taken(lambda rng=rng: parse_entries((mutated_text("a=b/c@last", rng), "d")))
