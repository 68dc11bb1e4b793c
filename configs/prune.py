"""Prunes chains of thought with SmolLM2-135M-Instruct by exact greedy search.

    python -m greedy_prune_jax.jobs.prune --config=configs/prune.py --workdir=runs/prune

As it stands: 4 `gsm_symbolic` chains to keep ratios 0.9, 0.7 and 0.5. Exact search runs N^2 / 2
positions a deletion for N reasoning tokens, so time grows with the cube of a chain's length: with
--config.max_reasoning_tokens=48 the four (30 to 36 tokens) took 3 minutes on 2 shared CPU cores,
compiling included; one of 113 tokens takes a quarter to half an hour there. Run the same command
again after a kill and it goes on from where it was.
"""

import dataclasses

from ml_collections import config_dict

from greedy_prune_jax.chains.formats import ColumnSettings
from greedy_prune_jax.search.screen import ScreenSettings
from greedy_prune_jax.teachers.settings import EndpointSettings


def get_config() -> config_dict.ConfigDict:
  """The settings; override them as `--config.NAME=VALUE`."""
  config = config_dict.ConfigDict()

  # The chains.
  # A file, a folder, a workdir, a split on the hub (hf:ORG/NAME:SPLIT), or a question set's name;
  # docs/formats.md has the forms.
  config.chains = "gsm_symbolic"
  # A file's own names of question, response, ...: see ColumnSettings for each.
  config.columns = config_dict.ConfigDict(ColumnSettings.defaults())
  config.chains_ratio = 1.0  # of a prune workdir: go on from what it left at this keep ratio
  config.num_chains = 0  # 0: all; of gsm_symbolic, which has no end, 4
  config.seed = 0  # order of a question set; files are read in their own order
  # Longer reasonings are left out, uncounted: exact search takes time with the cube of the length,
  # screened search with its square. 0: no limit.
  config.max_reasoning_tokens = 0

  # The model that scores deletions.
  # A Hugging Face folder, a GGUF file, a hub id, or an offline name: smollm2-135m-instruct, or
  # gemma3-270m, a base model that needs chat_template=plain.
  config.pruner = "smollm2-135m-instruct"
  config.chat_template = "tokenizer"  # the model's own; `plain` for base models; or a Jinja file
  config.thinking = "auto"  # as each chain is; on: all reasoning is thinking; off: none is
  config.dtype = "float32"  # of the weights: float32 or bfloat16; sums and softmax are float32

  # The search.
  config.objective = "joint"  # keep `joint`: reasoning and answer likely; `answer`: the answer
  # exact: every candidate is scored at every step; screened: those that may win, for long chains;
  # runs: passages of any length at once, coarse to fine, which keeps texts likely far down.
  config.search = "exact"
  # Windows and margin of the estimates of a screened search or one by runs.
  config.screen = config_dict.ConfigDict(dataclasses.asdict(ScreenSettings()))
  # Deletions from one scoring, of every ranking; more where time matters: NLLs between them are not
  # known then.
  config.deletions_per_step = 1
  # Of search by runs: most runs that leave between two keep ratios (fewer take less time); 0: as
  # many as make what is left more likely.
  config.max_runs = 0
  config.audit = 0  # of screened and runs: chains whose candidates are all scored beside it
  # One deletion removes a token, a word (with the white space before it; 1,234.5 is one, signs are
  # words of their own), a sentence (by rules; lines end them), or a skill_step: one operation of
  # the reasoning, by rules or from `steps`.
  config.unit = "token"
  config.steps = ""  # of skill_step: a drp workdir that has them; empty: steps by rules
  config.ranking = "greedy"  # or an order to compare with: random, ...; see docs/rankings.md
  config.ranking_seed = 0  # of `random`, `random_places` and `numbers_first`
  config.attention_layers = ()  # that `attention`, `answer_attention` read: (0, 5, -1); (): all
  config.attention_heads = ()  # of these layers; (): all
  config.attention_regression = ""  # the file that the ranking of this name was fitted to
  config.llmlingua_model = ""  # the classifier of `llmlingua`: a folder or a hub id
  config.text_model = ""  # of the ranking of this name; as `teacher` in configs/sample.py
  # Where text_model=openai asks; see EndpointSettings.
  config.endpoint = config_dict.ConfigDict(EndpointSettings.defaults())
  # int(N * r) of N reasoning tokens stay; longer units leave until no more than that are left,
  # which may be none. One run to the lowest ratio gives all of them.
  config.keep_ratios = (0.9, 0.7, 0.5)
  # As few tokens as hold a bound, no fewer than the lowest keep ratio, into budgets.jsonl: nll:+0.1
  # (so much may the objective's NLL rise), answer:0.9 (the answer's probability), right (the pruner
  # still writes the right answer). Several behind commas; a finished run answers new ones.
  config.budget = ""
  config.budget_new_tokens = 64  # most that the pruner writes for `right`; more behind thinking

  # The run. Attention, batch size and mesh decide how sums are rounded, and nothing else: NLLs
  # differ by rounding, and two deletions that are closer than that can change places. That is rare
  # in float32; in bfloat16 (errors: docs/measured.md) orders do differ.
  config.attention = "xla"  # or pallas: a fused kernel for one device a process, not timed yet
  # Chains searched at once; 0: chosen from the device's memory, and 1 on a CPU, where short chains
  # are faster several at a time.
  config.batch_size = 0
  config.mesh = config_dict.ConfigDict()  # of the devices of each process; 0: all that are left
  config.mesh.data = 0  # chains of a batch side by side
  config.mesh.model = 1  # devices that share the weights; must divide heads, widths, vocabulary
  config.on_bad_chain = "error"  # error: stop; skip: record it in skipped.jsonl and go on
  config.show_chains = 4  # print so many pruned chains at the end, and a table of mean NLLs
  config.compilation_cache = True  # keep compiled programs in the user's cache folder

  # The estimate.
  # Prints the cost of a run with the settings above, loads no weights, writes nothing.
  config.dry_run = False
  config.plan = config_dict.ConfigDict()  # the devices of the estimate
  config.plan.device = ""  # h100, tpu-v5e, ...: see accelerators.py; empty: this machine's
  config.plan.num_devices = 0  # over all processes; 0: those of `mesh`, or all of this machine's
  config.plan.peak_flops = 0.0  # FLOP/s of one device; 0: the maker's, or measured if it is unknown
  config.plan.utilisation = 0.4  # share of that peak, to be had from a short run on such devices

  return config
