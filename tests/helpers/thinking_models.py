"""Tiny models that think: random weights, and closing tags that they write by themselves."""

from pathlib import Path

import torch
from tokenizers import AddedToken

from tests.helpers.reference import tiny_config, tiny_model
from tests.helpers.tokenizers_for_tests import byte_level

TAGS = ("<think>", "</think>")


def make_thinking_model(
  folder: Path, template: str, *, prompt: str = "", ends_after: int = 0, context: int = 192
):
  """Writes a model whose tokenizer has `<think>` and `</think>` as tokens; returns both.

  Args:
    folder: target folder.
    template: the chat template.
    prompt: a text behind which the model's likeliest token number `ends_after` is made `</think>`.
    ends_after: tokens that it thinks; 0 leaves the model as it is.
    context: the model's longest text, in tokens.
  """
  tokenizer = byte_level(template)
  tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
  sizes = {"vocab_size": len(tokenizer), "num_hidden_layers": 1, "max_position_embeddings": context}
  model = tiny_model(tiny_config("qwen3", tie_word_embeddings=False, **sizes))
  if ends_after:
    _swap(
      model,
      tokenizer.convert_tokens_to_ids(TAGS[1]),
      _written(model, tokenizer, prompt)[ends_after],
    )
  model.save_pretrained(folder)
  tokenizer.save_pretrained(folder)
  return model.eval(), tokenizer


def _written(model, tokenizer, prompt: str, most: int = 40) -> list[int]:
  ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
  with torch.no_grad():
    out = model.generate(
      ids,
      attention_mask=torch.ones_like(ids),
      do_sample=False,
      min_new_tokens=most,
      max_new_tokens=most,
      pad_token_id=0,
      eos_token_id=None,
    )
  return out[0, ids.shape[1] :].tolist()


def _swap(model, one: int, other: int) -> None:
  """Lets a model write one token in the other's place, and read it as if it were that."""
  with torch.no_grad():
    for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
      weight[[one, other]] = weight[[other, one]]
