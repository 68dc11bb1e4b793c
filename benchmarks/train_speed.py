"""Our training step beside the same step in PyTorch, on the same batch in one sitting.

    python -m benchmarks.train_speed [--examples=8] [--steps=3] [--sides=float32:0,float32:16]
    python -m benchmarks.train_speed --shape=1.5b [--examples=64] [--length=400] [--remat=dots]

Without --shape both sides train SmolLM2-135M on worked solutions of `gsm_symbolic`: all weights, or
LoRA on all seven matrices of a layer; products in float32, or in bfloat16 beside float32 masters
(on their side by autocast). Both begin with the same weights and the same adapter, and take turns,
each in a process of its own. The first step of a turn is not timed: it compiles, or finds its
memory gone. On a virtual machine a step of ours right after one of theirs took 15 seconds, and 10
after one of its own: system time, probably for memory that the host had taken back. Theirs is
`transformers` and PEFT as a careful user writes it (`train_torch`): one batch padded on the right,
logits only where they are scored, a fused AdamW. Ours is the step of the `distill` job. The fastest
timed step of a side counts; the log has all. Tokens are those of the examples, not of the padding.
The last column is the largest difference of the losses of a step, in nats per token: both do the
same work.

The share of the peak is that of the products with weights that no step can do without, against a
large product of the same dtype in XLA. Times are of this machine on this day; quote the ratios.

With --shape only ours is run, on random weights of that shape and random examples, in bfloat16
beside float32 masters: for accelerators, whose bfloat16 peak is the makers' where it is known.
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from benchmarks.peak import matmul_peak
from benchmarks.shapes import SHAPES, random_model
from benchmarks.train_ours import LORA_SEED, OurStep, lora_config, packed
from benchmarks.train_sides import Side, Step, Task
from greedy_prune_jax.chains.chat_template import load_chat_template
from greedy_prune_jax.chains.reading import read_chains
from greedy_prune_jax.distill.batches import Batch
from greedy_prune_jax.distill.examples import make_example
from greedy_prune_jax.distill.export import save_adapter
from greedy_prune_jax.distill.lora import init_lora
from greedy_prune_jax.distill.loss import REMAT
from greedy_prune_jax.distill.metrics import peak_flops, train_step_flops
from greedy_prune_jax.distill.parameters import flat_params
from greedy_prune_jax.jobs.entry import keep_compilations
from greedy_prune_jax.models.config import ModelConfig
from greedy_prune_jax.models.decoder import Model
from greedy_prune_jax.models.hf_export import save_huggingface
from greedy_prune_jax.models.pretrained import load_model, load_tokenizer

_MODEL = flags.DEFINE_string("model", "smollm2-135m-instruct", "The student.")
_EXAMPLES = flags.DEFINE_integer("examples", 8, "Examples of a batch.")
_STEPS = flags.DEFINE_integer("steps", 3, "Timed steps, of each side: as many turns.")
_SIDES = flags.DEFINE_list(
  "sides", ["float32:0", "float32:16", "bfloat16:0", "bfloat16:16"], "DTYPE:LORA_RANK of each row."
)
_SHAPE = flags.DEFINE_enum("shape", None, list(SHAPES), "Random weights of a shape, ours alone.")
_LENGTH = flags.DEFINE_integer("length", 400, "With --shape: most tokens of an example.")
_REMAT = flags.DEFINE_enum("remat", "dots", list(REMAT), "With --shape: as in configs/distill.py.")
_RANK = flags.DEFINE_integer("lora_rank", 0, "With --shape: 0 for all weights.")

Examples = list[tuple[list[int], int]]


def real_examples(model: str, count: int) -> Examples:
  """Worked solutions as the student reads them."""
  tokenizer = load_tokenizer(model)
  template = load_chat_template("tokenizer", tokenizer)
  made = [
    make_example(chain, chain.reasoning, 1.0, tokenizer, template)
    for chain in read_chains("gsm_symbolic", num_chains=count)
  ]
  return [(e.token_ids.tolist(), e.num_prompt) for e in made]


def random_examples(config: ModelConfig, count: int, longest: int) -> Examples:
  """Random tokens: half to all of `longest`, a third of them prompt."""
  rng = np.random.default_rng(0)
  lengths = rng.integers(longest // 2, longest + 1, count)
  return [(rng.integers(0, config.vocab_size, n).tolist(), int(n) // 3) for n in lengths]


def share_of_peak(config: ModelConfig, batch: Batch, seconds: float, rank: int, peak: float):
  """Of the peak in FLOP/s, which share the necessary products are."""
  return train_step_flops(config, batch, all_weights=not rank) / seconds / peak


def compare(folder: Path, model: Model, tokenizer) -> None:
  """Runs both sides on every row of the table."""
  save_huggingface(model, tokenizer, folder)
  config, weights = model.config, flat_params(model.params)
  examples = real_examples(_MODEL.value, _EXAMPLES.value)
  batch = packed(examples)
  print(
    f"{_MODEL.value}; {jax.devices()[0].device_kind}; {len(examples)} examples, "
    f"{batch.num_tokens} tokens, {batch.num_scored} of them scored"
  )
  print("                    tokens/s         padding        share of GFLOP/s  memory, GB     loss")
  print("products  trained  theirs  ours  ratio theirs ours  peak     peak  theirs  ours  differs")
  for row in _SIDES.value:
    dtype, _, text = row.partition(":")
    lora = lora_config(int(text), 2.0 * int(text))
    adapter = folder / f"adapter{text}"
    if lora is not None:
      save_adapter(config, init_lora(weights, lora, LORA_SEED), lora, str(folder), adapter)
    task = Task(
      model=str(folder),
      adapter="" if lora is None else str(adapter),
      lora_rank=int(text),
      lora_alpha=2.0 * int(text),
      dtype=dtype,
      examples=examples,
    )
    peak = matmul_peak(jnp.dtype(dtype))
    with Side("benchmarks.train_torch", task) as theirs, Side("benchmarks.train_ours", task) as us:
      turns = [(_turn(theirs), _turn(us)) for _ in range(_STEPS.value)]
    peak = max(peak, matmul_peak(jnp.dtype(dtype)))
    print(_row(dtype, int(text), config, batch, (theirs, us), turns, peak), flush=True)


def _turn(side: Side) -> tuple[Step, Step]:
  """A step to be ready again, and one to be timed."""
  return side.step(), side.step()


def _row(
  dtype: str,
  rank: int,
  config: ModelConfig,
  batch: Batch,
  sides: tuple[Side, Side],
  turns: list[tuple[tuple[Step, Step], tuple[Step, Step]]],
  peak: float,
) -> str:
  slow, fast = (min(turn[side][1].seconds for turn in turns) for side in (0, 1))
  padding = [1 - batch.num_tokens / side.positions for side in sides]
  memory = [turns[-1][side][1].memory for side in (0, 1)]
  steps = [[step for turn in turns for step in turn[side]] for side in (0, 1)]
  logging.info("losses and seconds, theirs and ours: %s", steps)
  losses = [[step.loss for step in of_side] for of_side in steps]
  differs = max(abs(one - other) for one, other in zip(*losses, strict=True))
  share = share_of_peak(config, batch, fast, rank, peak)
  return (
    f"{dtype:10}{f'LoRA {rank}' if rank else 'all':7}{batch.num_tokens / slow:8.0f}"
    f"{batch.num_tokens / fast:6.0f}{slow / fast:7.2f}{padding[0]:7.0%}{padding[1]:5.0%}"
    f"{share:6.0%}{peak / 1e9:9.0f}{memory[0]:8.2f}{memory[1]:6.2f}{differs:9.5f}"
  )


def measure_shape(name: str) -> None:
  """Times our step on random weights of a shape."""
  config = SHAPES[name]
  lora = lora_config(_RANK.value, 2.0 * _RANK.value)
  dtype = jnp.float32 if lora is None else jnp.bfloat16
  model = random_model(config, dtype)
  batch = packed(random_examples(config, _EXAMPLES.value, _LENGTH.value))
  step = OurStep(model, batch, lora, "bfloat16", _REMAT.value)
  del model  # the step donates what it trains
  times = [step() for _ in range(1 + _STEPS.value)][1:]
  seconds = min(seconds for _, seconds in times)
  known = peak_flops(1)
  peak = known or matmul_peak(jnp.bfloat16)
  whose = "the maker's figure" if known else "measured by a large product"
  trained = "all weights" if lora is None else f"LoRA of rank {lora.rank}"
  rows, width = batch.rows.token_ids.shape[1:]
  print(f"{name}, {trained}, remat={_REMAT.value}; {jax.devices()[0].device_kind}")
  print(f"{batch.num_tokens} tokens, {batch.num_scored} scored, in {rows} rows of {width}")
  print(f"{batch.num_tokens / seconds:.0f} tokens/s, {seconds * 1000:.1f} ms a step")
  share = share_of_peak(config, batch, seconds, _RANK.value, peak)
  print(f"{share:.1%} of the bfloat16 peak, {peak / 1e12:.3g} TFLOP/s ({whose})")


def main(_) -> None:
  """Prints the table, or the line of a shape."""
  keep_compilations()
  if _SHAPE.value:
    measure_shape(_SHAPE.value)
    return
  with tempfile.TemporaryDirectory() as folder:
    compare(Path(folder), load_model(_MODEL.value, jnp.float32), load_tokenizer(_MODEL.value))


if __name__ == "__main__":
  app.run(main)
