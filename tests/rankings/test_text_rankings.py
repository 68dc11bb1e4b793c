"""Rankings by models of text: LLMLingua-2's classifier, and a model that is asked to compress."""

import json

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from greedy_prune_jax.errors import UserError
from greedy_prune_jax.rankings.interface import RankingInput, RankingSettings
from greedy_prune_jax.rankings.llmlingua import character_probs, load_compressor, token_means
from greedy_prune_jax.rankings.registry import RANKINGS
from greedy_prune_jax.rankings.text_model import write_request
from greedy_prune_jax.teachers.settings import EndpointSettings
from tests.helpers.chat_server import completion, refusal, reply, serving
from tests.helpers.planted import random_segments, tiny_model

TEXT = "Tom has 12 eggs. 1 + 1 = 12 and eggs\n"
TOKENS = ("Tom", " has", " 1", "2", " egg", "s", ". ", "1 +", " 1 =", " 12 and eg", "gs", "\n")


@pytest.fixture(scope="module")
def model():
  return tiny_model()


@pytest.fixture(scope="module")
def chain():
  return RankingInput("c/0", random_segments(1)[0], TOKENS)


# LLMLingua-2


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
  """A tiny random BERT; the package wants its kind in its name."""
  folder = tmp_path_factory.mktemp("models") / "tiny-bert-base-multilingual-cased"
  special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
  pieces = [*special.values(), *["Tom", "has", "1", "##2", "and", "egg", "##s", ".", "=", "+"]]
  tokenizer = Tokenizer(
    models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
  )
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in special.items()}
  ).save_pretrained(folder)
  config = transformers.BertConfig(
    vocab_size=len(pieces),
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    num_labels=2,
  )
  bert = transformers.BertForTokenClassification(config)
  generator = torch.Generator().manual_seed(0)
  for parameter in bert.parameters():
    torch.nn.init.normal_(parameter, std=0.5, generator=generator)
  bert.save_pretrained(folder)
  return str(folder)


@pytest.fixture(scope="module")
def compressor(classifier):
  pytest.importorskip("llmlingua")
  return load_compressor(classifier)


def words_of(text):
  """Each word with its bounds, as the classifier's tokenizer splits."""
  bounds, start = [], 0
  for word in text.replace(".", " .").split():
    start = text.index(word, start)
    bounds.append((word, start, start + len(word)))
    start += len(word)
  return bounds


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_the_words_most_likely_to_stay_are_those_that_the_package_keeps(compressor, rate):
  class OneTokenAWord:
    """Stands for GPT-3.5's tokenizer, which would have to be fetched."""

    def encode(self, text):
      return [0]

  compressor.oai_tokenizer = OneTokenAWord()
  found = compressor.compress_prompt_llmlingua2(TEXT, rate=rate, return_word_label=True)
  lines = (line.rsplit(" ", 1) for line in found["fn_labeled_original_prompt"].split("\t\t|\t\t"))
  labels = [(word, label == "1") for word, label in lines]

  probs = character_probs(compressor, TEXT)
  words = words_of(TEXT)
  assert [word for word, _ in labels] == [word for word, _, _ in words]
  of_words = np.array([probs[start] for _, start, _ in words])
  for _, start, end in words:
    assert (probs[start:end] == probs[start]).all()
  num_kept = sum(kept for _, kept in labels)
  assert 0 < num_kept < len(words)
  best = set(np.argsort(-of_words)[:num_kept].tolist())
  assert best == {i for i, (_, kept) in enumerate(labels) if kept}


def test_characters_outside_words_have_no_say(compressor):
  probs = character_probs(compressor, TEXT)
  assert np.isnan(
    [p for p, character in zip(probs, TEXT, strict=True) if character.isspace()]
  ).all()
  assert not np.isnan(
    [p for p, character in zip(probs, TEXT, strict=True) if not character.isspace()]
  ).any()


def test_long_texts_are_cut_behind_sentences(compressor):
  sentence = "Tom has 12 eggs . "
  per_chunk = (compressor.max_seq_len - 2) // 7  # pieces of a sentence
  probs = character_probs(compressor, sentence * 2 * per_chunk)
  chunk = probs[: per_chunk * len(sentence)]
  np.testing.assert_allclose(probs[len(chunk) : 2 * len(chunk)], chunk, atol=1e-6)
  alone = character_probs(compressor, sentence * per_chunk)
  np.testing.assert_allclose(chunk, alone, atol=1e-6)


def test_the_tokens_of_one_word_tie_whatever_their_lengths():
  word = np.full(80, 0.1)
  assert set(token_means(word, ["x" * n for n in range(1, 13)] + ["yy"])) == {0.1}


def test_token_means_are_of_the_characters_that_have_a_value():
  values = np.array([1.0, np.nan, 3.0, 5.0, np.nan, np.nan])
  assert token_means(values, ["a ", "bc", "", " \n"]).tolist() == [1.0, 4.0, -np.inf, -np.inf]


@pytest.mark.slow
def test_llmlingua_orders_tokens_by_their_words(compressor, classifier, model, chain):
  order = (
    RANKINGS["llmlingua"].make(model, RankingSettings(llmlingua_model=classifier))(chain).order
  )
  assert sorted(order) == list(range(len(TOKENS)))
  assert order[0] == len(TOKENS) - 1  # the newline
  means = token_means(character_probs(compressor, TEXT), TOKENS)
  assert (np.diff(means[order]) >= 0).all()
  assert order.index(4) + 1 == order.index(5)  # the pieces of one word, one behind the other


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("bert-large", "expected a name with bert-base-multilingual-cased or xlm-roberta-large in it"),
    ("/nowhere/xlm-roberta-large", "llmlingua_model=/nowhere/xlm-roberta-large cannot be loaded"),
  ],
)
def test_classifiers_that_cannot_be_used(name, message):
  pytest.importorskip("llmlingua")
  with pytest.raises(UserError, match=message):
    load_compressor(name)


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "llmlingua", None)
  with pytest.raises(UserError, match=r"pip install 'greedy_prune_jax\[llmlingua\]'"):
    load_compressor("xlm-roberta-large")


# A text model


def settings_of(server, folder):
  return RankingSettings(
    text_model="openai",
    endpoint=EndpointSettings(base_url=server.url, model="m", max_attempts=1, concurrency=1),
    keep_ratios=(0.8, 0.4),
    folder=folder,
  )


def compressed(request):
  """Compressions of TEXT, the second with words of the model's own."""
  asked = request["messages"][-1]["content"]
  assert asked.endswith(TEXT.strip())
  return "Tom has 12 eggs. 1 + 1 =" if "to 80%" in asked else "Well, Tom: 12 eggs!"


def respond(request, count):
  return completion(compressed(request))


def test_what_few_compressions_keep_leaves_first(model, chain, tmp_path):
  pytest.importorskip("openai")
  with serving(respond) as server:
    ranked = RANKINGS["text_model"].make(model, settings_of(server, tmp_path))(chain)
  both, one = {0, 2, 3, 4, 5}, {1, 6, 7, 8}
  none = set(range(len(TOKENS))) - both - one
  assert ranked.order == sorted(none) + sorted(one) + sorted(both)
  assert "about 9 of its 11 words" in server.requests[0]["messages"][-1]["content"]

  (path,) = (tmp_path / "compressions").iterdir()
  stored = {x["asked"]: x for x in map(json.loads, path.read_text().splitlines())}
  assert stored[0.8]["achieved"] == pytest.approx(9 / 12)
  assert stored[0.4]["achieved"] == pytest.approx(5 / 12)
  assert stored[0.4]["text"] == "Well, Tom: 12 eggs!"


@pytest.mark.parametrize("opening", ["<think>\n", "<Thinking>", ""])
def test_thinking_in_a_reply_is_no_part_of_the_compression(model, chain, tmp_path, opening):
  pytest.importorskip("openai")
  closing = opening.replace("<", "</") or "</think>"

  def think(request, count):
    return completion(f"{opening}All of it: {TEXT}{closing}\n\n{compressed(request)}")

  orders, achieved = [], []
  for name, answer in (("plain", respond), ("thinks", think)):
    (tmp_path / name).mkdir()
    with serving(answer) as server:
      settings = settings_of(server, tmp_path / name)
      ranks = [RANKINGS["text_model"].make(model, settings)(chain) for _ in range(2)]
    assert ranks[0] == ranks[1]  # asked, and read again
    (path,) = (tmp_path / name / "compressions").iterdir()
    orders.append(ranks[0].order)
    stored = map(json.loads, path.read_text().splitlines())
    achieved.append({record["asked"]: record["achieved"] for record in stored})
  assert orders[0] == orders[1]
  assert achieved[0] == achieved[1]


def test_thinking_without_an_end_is_no_compression(model, chain, tmp_path):
  pytest.importorskip("openai")
  with (
    serving(lambda *_: completion(f"<think>\n{TEXT}")) as server,
    pytest.raises(UserError, match="did not compress chain c/0: its thinking never ends"),
  ):
    RANKINGS["text_model"].make(model, settings_of(server, tmp_path))(chain)


def test_nothing_is_asked_twice(model, chain, tmp_path):
  pytest.importorskip("openai")
  with serving(respond) as server:
    orders = [
      RANKINGS["text_model"].make(model, settings_of(server, tmp_path))(chain) for _ in range(2)
    ]
  assert orders[0] == orders[1]
  assert len(server.requests) == 2


@pytest.mark.parametrize(
  ("ratio", "words", "asked"),
  [
    (0.5, 10, "to 50% of its length: about 5 of its 10 words"),
    (0.999, 10, "to 99.9% of its length: about 9 of its 10 words"),
    (0.9999, 10, "to 99.99% of its length: about 9 of its 10 words"),
    (0.995, 300, "to 99.5% of its length: about 298 of its 300 words"),
    (0.004, 10, "to 0.4% of its length: about 1 of its 10 words"),
    (0.7, 1, "to 70% of its length: about 1 of its 1 words"),
  ],
)
def test_neither_all_nor_nothing_is_asked_for(chain, ratio, words, asked):
  assert asked in write_request(chain._replace(tokens=("word ",) * words), ratio)


def test_what_is_stored_of_another_text_is_asked_again(model, chain, tmp_path):
  pytest.importorskip("openai")
  other = chain._replace(tokens=("Tim", *TOKENS[1:]))
  with serving(lambda request, count: completion("12 eggs.")) as server:

    def ask(chain):
      return RANKINGS["text_model"].make(model, settings_of(server, tmp_path))(chain)

    first = ask(chain)
    assert len(server.requests) == 2
    ask(other)
    assert len(server.requests) == 4
    assert "Tim has" in server.requests[-1]["messages"][-1]["content"]
    assert ask(chain) == first
    ask(other)
    assert len(server.requests) == 4
    # Replies of former versions have no digest, and are taken as they are.
    (path,) = (tmp_path / "compressions").iterdir()
    records = [json.loads(line) for line in path.read_text().splitlines()[:2]]
    assert all(record.pop("prompt") for record in records)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert ask(other) == first
    assert len(server.requests) == 4


def test_another_text_model_at_the_endpoint_is_stored_and_warned_of(model, chain, tmp_path, caplog):
  pytest.importorskip("openai")
  for chain_id, served in (("c/0", "alias"), ("c/1", "other")):
    answer = reply({"content": "12 eggs."}, model=served)
    with serving(lambda *_, answer=answer: answer) as server:
      rank = RANKINGS["text_model"].make(model, settings_of(server, tmp_path))
      rank(chain._replace(chain_id=chain_id))
  assert caplog.text.count("says that other wrote the reply to c/1@") == 1
  (path,) = (tmp_path / "compressions").iterdir()
  stored = [json.loads(line)["served"] for line in path.read_text().splitlines()]
  assert stored == ["alias"] * 2 + ["other"] * 2


def test_a_compression_that_is_cut_off_is_none(model, chain, tmp_path):
  pytest.importorskip("openai")
  with serving(lambda *_: completion("Tom has", "length")) as server:
    for _ in range(2):  # nor is it taken for one by a later run
      with pytest.raises(
        UserError, match=r"did not compress chain c/0: its reply was cut off after 2048 tokens"
      ):
        RANKINGS["text_model"].make(model, settings_of(server, tmp_path))(chain)


def test_an_empty_reply_keeps_not_nothing_but_is_none(model, chain, tmp_path):
  pytest.importorskip("openai")
  thought = reply({"content": None, "reasoning_content": "Hm."})
  with (
    serving(lambda *_: thought) as server,
    pytest.raises(UserError, match=r"did not compress chain c/0: its reply is empty"),
  ):
    RANKINGS["text_model"].make(model, settings_of(server, tmp_path))(chain)


def test_a_chain_that_is_not_compressed_is_named(model, chain, tmp_path):
  pytest.importorskip("openai")
  with (
    serving(lambda *_: refusal(400, "too long")) as server,
    pytest.raises(UserError, match=r"the text model did not compress chain c/0: 400: .*too long"),
  ):
    RANKINGS["text_model"].make(model, settings_of(server, tmp_path))(chain)
