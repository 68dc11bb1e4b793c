"""Every ranking against a plain computation of its definition with transformers and PyTorch."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.models.pretrained import load_model
from greedy_prune_jax.rankings.gradient import gate_gradient
from greedy_prune_jax.rankings.interface import RankingInput, RankingSettings, UnrankedError
from greedy_prune_jax.rankings.model_free import is_numeric
from greedy_prune_jax.rankings.registry import RANKINGS
from tests.helpers.full_passes import random_segments
from tests.helpers.reference import reference_outputs, tiny_config, tiny_model

PROMPT, REASONING, ANSWER = 9, 14, 4
TOKENS = tuple(" Tom has 1 2 and $ 3 0 , so + = ) x".replace(" ", "\n ").split("\n")[1:])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """The same tiny model in transformers, in float64, and in ours."""
  reference = tiny_model(tiny_config("llama"))
  folder = tmp_path_factory.mktemp("llama")
  reference.save_pretrained(folder)
  return reference.double(), load_model(str(folder), jnp.float32)


@pytest.fixture(scope="module")
def chain():
  return RankingInput("c/0", random_segments(0, 61, (PROMPT, REASONING, ANSWER)), TOKENS)


def text_of(chain):
  return np.concatenate([chain.segments.prompt, chain.segments.reasoning, chain.segments.answer])


def order_of(name, model, chain, **settings):
  return RANKINGS[name].make(model, RankingSettings(**settings))(chain).order


def assert_order(order, importance):
  """The order is by importance, which nowhere hangs on rounding."""
  expected = np.argsort(importance, kind="stable")
  assert np.diff(np.sort(importance)).min() > 1e-6
  assert order == expected.tolist()


def nlls(log_probs, ids):
  """Joint and answer NLL from a text's log-probabilities [T, V]."""
  picked = -log_probs[np.arange(len(ids) - 1), ids[1:]]
  return picked[PROMPT - 1 :].mean(), picked[PROMPT + REASONING - 1 :].mean()


def test_truncations_keep_the_first_and_the_last(models, chain):
  assert order_of("keep_first", models[1], chain) == list(range(REASONING))[::-1]
  assert order_of("keep_last", models[1], chain) == list(range(REASONING))


def test_random_orders_follow_from_seed_and_chain_alone(models, chain):
  other = chain._replace(chain_id="c/1")
  drawn = [order_of("random", models[1], c, seed=seed) for c in (chain, other) for seed in (0, 1)]
  assert all(sorted(order) == list(range(REASONING)) for order in drawn)
  assert len({tuple(order) for order in drawn}) == 4
  assert order_of("random", models[1], chain, seed=1) == drawn[1]


@pytest.mark.slow
def test_random_is_uniform(models, chain):
  firsts = [
    order_of("random", models[1], chain._replace(chain_id=str(i)))[0] for i in range(140 * 14)
  ]
  counts = np.bincount(firsts, minlength=REASONING)
  assert abs(counts - 140).max() < 5 * 140**0.5


def test_numbers_and_operators_leave_last(models, chain):
  order = order_of("numbers_first", models[1], chain)
  numeric = {2, 3, 5, 6, 7, 10, 11}
  assert set(order[-len(numeric) :]) == numeric
  assert order != order_of("numbers_first", models[1], chain, seed=1)


@pytest.mark.parametrize(
  "token", ["4", " 42", "x2", "+", " =", "\N{MULTIPLICATION SIGN}", "$", " -"]
)
def test_numeric(token):
  assert is_numeric(token)


@pytest.mark.parametrize("token", ["", " ", "\n", "two", ")=", ".", "-x"])
def test_not_numeric(token):
  assert not is_numeric(token)


def test_surprisal_is_that_of_transformers(models, chain):
  reference, model = models
  ids = text_of(chain)
  logits, _ = reference_outputs(reference.float(), ids[None])
  log_probs = torch.tensor(logits[0]).log_softmax(-1).numpy()
  places = np.arange(PROMPT, PROMPT + REASONING)
  assert_order(order_of("surprisal", model, chain), -log_probs[places - 1, ids[places]])
  reference.double()


@pytest.mark.parametrize(("layers", "heads"), [((), ()), ((0, -1), ()), ((1,), (-2, 0))])
def test_attention_is_that_of_transformers(models, chain, layers, heads):
  reference, model = models
  _, probs = reference_outputs(reference.float(), text_of(chain)[None])
  reference.double()
  probs = probs[list(layers) or slice(None), 0][:, list(heads) or slice(None)].mean((0, 1))
  received = [probs[t + 1 :, t].mean() for t in range(PROMPT, PROMPT + REASONING)]
  order = order_of("attention", model, chain, attention_layers=layers, attention_heads=heads)
  assert_order(order, np.array(received))


def test_answer_attention_is_that_of_transformers(models, chain):
  reference, model = models
  _, probs = reference_outputs(reference.float(), text_of(chain)[None])
  reference.double()
  received = probs[:, 0].mean((0, 1))[PROMPT + REASONING :, PROMPT : PROMPT + REASONING]
  assert_order(order_of("answer_attention", model, chain), np.array(received.mean(axis=0)))


def test_surprisal_and_attention_are_put_together_by_their_ranks(models, chain):
  orders = [order_of(name, models[1], chain) for name in ("surprisal", "answer_attention")]
  ranks = np.empty((2, REASONING))
  for row, order in zip(ranks, orders, strict=True):
    row[order] = np.arange(REASONING)
  expected = np.argsort(ranks.sum(axis=0), kind="stable")
  assert order_of("surprisal_attention", models[1], chain) == expected.tolist()
  assert expected.tolist() not in orders


def test_random_places_are_alike_in_chains_of_a_length(models, chain):
  other = chain._replace(chain_id="c/1")
  orders = [order_of("random_places", models[1], c, seed=s) for s in (0, 1) for c in (chain, other)]
  assert orders[0] == orders[1] != orders[2] == orders[3]
  shorter = other._replace(tokens=other.tokens[:-1])
  assert order_of("random_places", models[1], shorter) != [
    place for place in orders[0] if place < REASONING - 1
  ]
  assert sorted(orders[0]) == list(range(REASONING))


def test_the_oracle_keeps_what_is_needed(models, chain):
  kinds = ["needed result", "label", "unpredictable filler", *["copied operand"] * (REASONING - 3)]
  pieces = [[len(token), kind] for token, kind in zip(TOKENS, kinds, strict=True)]
  order = order_of("oracle", models[1], chain._replace(extra={"pieces": pieces}))
  assert order == [2, 1, *range(3, REASONING), 0]
  with pytest.raises(UnrankedError, match='the chain has no "pieces"'):
    order_of("oracle", models[1], chain)


def test_attention_names_the_layer_that_there_is_not(models):
  with pytest.raises(UserError, match=r"attention_layers=\(0, 3\) has 3; the pruner has 3"):
    RANKINGS["attention"].make(models[1], RankingSettings(attention_layers=(0, 3)))
  with pytest.raises(UserError, match=r"attention_heads=\(-5,\) has -5; the pruner has 4"):
    RANKINGS["attention"].make(models[1], RankingSettings(attention_heads=(-5,)))


def gated_nlls(reference, ids, place, gate):
  """NLLs where all attention to the token at `place` is multiplied by `gate`, in float64."""
  mask = torch.full((len(ids), len(ids)), -torch.inf, dtype=torch.float64).triu(1)
  mask[:, place] += np.log(gate)
  with torch.no_grad():
    out = reference(torch.tensor(ids)[None], attention_mask=mask[None, None], use_cache=False)
  return nlls(out.logits[0].log_softmax(-1).numpy(), ids)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["joint", "answer"])
def test_gate_gradients_are_finite_differences(models, chain, objective):
  reference, model = models
  ids = text_of(chain)
  which = ("joint", "answer").index(objective)
  # Fourth order, with steps that the softmax, which transformers takes in float32, allows.
  steps, weights = 0.03 * np.array([-2, -1, 1, 2]), np.array([1, -8, 8, -1]) / (12 * 0.03)
  slopes = np.array(
    [
      sum(
        w * gated_nlls(reference, ids, place, 1 + s)[which]
        for s, w in zip(steps, weights, strict=True)
      )
      for place in range(PROMPT, PROMPT + REASONING)
    ]
  )
  padded = jnp.asarray(np.pad(ids, (0, 5)))
  sizes = (jnp.int32(n) for n in (PROMPT, REASONING, ANSWER))
  found = gate_gradient(model.graph, model.params, padded, *sizes, objective=objective)
  np.testing.assert_allclose(found[PROMPT : PROMPT + REASONING], slopes, atol=2e-5)
  assert np.abs(slopes).max() > 0.01
  assert_order(order_of("gradient", model, chain, objective=objective), -slopes)
