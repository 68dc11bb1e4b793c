"""Rankings of steps against plain forward passes, and skill steps as units."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from greedy_prune_jax.chains.chain import Chain
from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.rankings import steps
from greedy_prune_jax.rankings.interface import RankingInput, RankingSettings
from greedy_prune_jax.rankings.registry import RANKINGS
from greedy_prune_jax.search.skill_steps import skill_step_sizes, step_starts
from tests.helpers.full_passes import full_pass_nlls, random_segments
from tests.helpers.jsonl_files import new_writer
from tests.helpers.reference import reference_outputs, tiny_config, tiny_model

SIZES = (3, 1, 4, 2, 5)
STARTS = [0, 3, 4, 8, 10]
PROMPT, REASONING, ANSWER = 9, 15, 4


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """The same tiny model in transformers and in ours."""
  reference = tiny_model(tiny_config("llama"))
  folder = tmp_path_factory.mktemp("llama")
  reference.save_pretrained(folder)
  return reference.float(), load_model(str(folder), jnp.float32)


@pytest.fixture(scope="module")
def chain():
  segments = random_segments(0, 61, (PROMPT, REASONING, ANSWER))
  return RankingInput("c/0", segments, ("x",) * REASONING, SIZES)


def by_units(importance):
  """Positions of whole units, the least important unit first."""
  assert np.diff(np.sort(importance)).min() > 1e-5  # nowhere hangs on rounding
  return [STARTS[u] + i for u in np.argsort(importance) for i in range(SIZES[u])]


@pytest.mark.slow
def test_the_step_whose_first_token_is_most_predictable_leaves_first(models, chain):
  reference, model = models
  segments = chain.segments
  ids = np.concatenate([segments.prompt, segments.reasoning, segments.answer])
  logits, _ = reference_outputs(reference, ids[None])
  log_probs = torch.tensor(logits[0]).log_softmax(-1).numpy()
  places = PROMPT + np.array(STARTS)
  expected = by_units(-log_probs[places - 1, ids[places]])
  ranked = RANKINGS["step_surprisal"].make(model, RankingSettings())(chain)
  assert ranked.order == expected


def test_the_step_with_the_least_entropy_leaves_first(models, chain):
  reference, model = models
  segments = chain.segments
  ids = np.concatenate([segments.prompt, segments.reasoning, segments.answer])
  logits, _ = reference_outputs(reference, ids[None])
  entropies = torch.distributions.Categorical(logits=torch.tensor(logits[0])).entropy().numpy()
  expected = by_units(np.add.reduceat(entropies[PROMPT - 1 :][:REASONING], STARTS))
  ranked = RANKINGS["step_entropy"].make(model, RankingSettings())(chain)
  assert ranked.order == expected


@pytest.mark.slow
@pytest.mark.parametrize("block", [1, 64, 4096])  # one text at once, two, and all
def test_the_step_that_the_answer_misses_least_leaves_first(models, chain, monkeypatch, block):
  reference, model = models
  monkeypatch.setattr(steps, "_BLOCK_POSITIONS", block)
  nlls = []
  for start, size in zip(STARTS, SIZES, strict=True):
    kept = np.delete(chain.segments.reasoning, range(start, start + size))
    _, answer = full_pass_nlls(reference, chain.segments, kept[None])
    nlls.append(answer[0])
  ranked = RANKINGS["answer_perplexity"].make(model, RankingSettings())(chain)
  assert ranked.order == by_units(np.array(nlls))
  # The prompt once, and each text but for its last token.
  assert ranked.positions_scored == PROMPT + sum(REASONING - size + ANSWER - 1 for size in SIZES)


@pytest.mark.slow
def test_of_single_tokens_every_one_is_a_unit(models, chain):
  model, alone = models[1], chain._replace(unit_sizes=None)
  surprisal = RANKINGS["surprisal"].make(model, RankingSettings())(alone)
  assert RANKINGS["step_surprisal"].make(model, RankingSettings())(alone).order == surprisal.order
  order = RANKINGS["answer_perplexity"].make(model, RankingSettings())(alone).order
  assert sorted(order) == list(range(REASONING))


# Skill steps as units.

TOKENS = ("<think>", "\n", "3 +", " 4 =", " 7", ".", " So", " 7.", "\n", "</think>", " Yes", ".\n")


def make_chain(reasoning=None):
  reasoning = "".join(TOKENS) if reasoning is None else reasoning
  return Chain(id="c", question="?", reasoning=reasoning, answer='{"answer": "7"}')


def store(folder, texts, failed=None):
  record = {
    "id": "c",
    "chain": make_chain("".join(texts) or None).to_record(),
    "steps": [{"text": text, "skill": "addition"} for text in texts],
    "refused": [],
    "num_tokens": 0,
    "made_by": {"decompose": {"teacher": "m"}},
  }
  with new_writer(folder / "decomposed" / "process-00000.jsonl") as writer:
    writer.write(record | {"failed": failed})
  return str(folder)


def test_steps_by_rules_and_the_tags_around_them():
  assert skill_step_sizes("")(make_chain(), TOKENS) == (2, 4, 2, 4)


def test_stored_steps(tmp_path):
  sizes = skill_step_sizes(store(tmp_path, ["3 +", " 4 = 7. So 7."]))
  assert sizes(make_chain(), TOKENS) == (2, 1, 5, 4)


def test_white_space_around_goes_with_the_steps():
  assert step_starts(make_chain(" \n3 + 4 = 7. So 7.\n\n"), None) == [0, 12]
  assert step_starts(make_chain("3 + 4 = 7. \n So 7."), None) == [0, 12]


def test_steps_that_are_not_there_are_named(tmp_path):
  with pytest.raises(UserError, match="holds no chain that a stage of the job drp has finished"):
    skill_step_sizes(str(tmp_path))
  sizes = skill_step_sizes(store(tmp_path / "a", ["3 + 4 = 8."]))
  with pytest.raises(UserError, match="chain c: the steps that are stored for it are not those"):
    sizes(make_chain(), TOKENS)
  failed = {"stage": "decompose", "reason": "cut_off"}
  sizes = skill_step_sizes(store(tmp_path / "b", [], failed))
  with pytest.raises(UserError, match=r"chain c: .*b has no steps of it; run the stage decompose"):
    sizes(make_chain(), TOKENS)
