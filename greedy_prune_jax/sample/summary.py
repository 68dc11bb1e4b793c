"""The summary of a `sample` run: accuracy, pass@k, outcomes, lengths, and samples to read."""

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from greedy_prune_jax.reports.printing import indented, printable
from greedy_prune_jax.runs.files import write_json
from greedy_prune_jax.runs.jsonl import read_output
from greedy_prune_jax.runs.records import Record
from greedy_prune_jax.sample.run import OUTPUT, check_samples, first_correct, why_not_kept
from greedy_prune_jax.teachers.failures import shortened
from greedy_prune_jax.teachers.questions import never_stopped, outcome
from greedy_prune_jax.teachers.teacher import BROKEN, CUT_OFF, REFUSED, STOPPED, TOOL_CALL

_KNOWN_ENDS = (STOPPED, CUT_OFF, BROKEN, REFUSED, TOOL_CALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
  """Figures over all samples of a run.

  Attributes:
    questions: number of questions.
    samples: number of samples in all.
    accuracy: share of samples that are right.
    accuracy_stderr: standard error over questions, whose samples are not independent; None for
      fewer than two questions.
    pass_at: probability that at least one of k samples of a question is right, by k = 1, 2, 4, ...
      and the samples that a question has; without bias (Chen et al. 2021, arXiv 2107.03374).
    chains: questions of which a chain was kept.
    not_kept: why right samples of the other questions made no chain, with their numbers.
    unparsed: share of samples in which no answer was found.
    cut_off: share of samples that reached `max_new_tokens` (or the end of the context).
    never_stopped: share of thinking samples whose thinking does not end by itself; None where no
      sample thinks.
    outcomes: number of samples by `questions.outcome`; each sample counts once.
    unknown_ends: number of samples by each finish reason that we do not know.
    mean_tokens: tokens of a sample; None where the teacher does not say.
    median_tokens: tokens of a sample; None where the teacher does not say.
    mean_thinking_tokens: tokens of a sample's thinking; None where the teacher does not say.
    mean_answer_tokens: tokens behind the thinking, of the same samples if they have any.
  """

  questions: int
  samples: int
  accuracy: float
  accuracy_stderr: float | None
  pass_at: dict[str, float]
  chains: int
  not_kept: dict[str, int]
  unparsed: float
  cut_off: float
  outcomes: dict[str, int]
  unknown_ends: dict[str, int]
  mean_tokens: float | None
  median_tokens: float | None
  mean_thinking_tokens: float | None
  mean_answer_tokens: float | None
  never_stopped: float | None


def summarise(records: Sequence[Record]) -> Summary:
  """The figures of a run of at least one question, a record each."""
  samples = [sample for record in records for sample in record["samples"]]
  right = [sum(s["correct"] for s in record["samples"]) for record in records]
  counts = [len(record["samples"]) for record in records]
  means = [r / n for r, n in zip(right, counts, strict=True)]
  tokens = [s["num_tokens"] for s in samples if s["num_tokens"] is not None]
  thinking = [s for s in samples if s.get("num_thinking_tokens") is not None]
  thought = [s["num_thinking_tokens"] for s in thinking]
  said = [s["num_tokens"] - s["num_thinking_tokens"] for s in thinking if s["num_tokens"]]
  said = [length for length in said if length > 0]
  kept = [first_correct(record) is not None for record in records]
  least = min(counts)
  ks = sorted({*(2**i for i in range(least.bit_length()) if 2**i <= least), least})
  return Summary(
    questions=len(records),
    samples=len(samples),
    accuracy=sum(right) / len(samples),
    accuracy_stderr=statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None,
    pass_at={
      str(k): statistics.fmean(pass_at_k(n, r, k) for n, r in zip(counts, right, strict=True))
      for k in ks
    },
    chains=sum(kept),
    not_kept=_counts(
      why_not_kept(sample)
      for record, is_kept in zip(records, kept, strict=True)
      for sample in record["samples"]
      if sample["correct"] and not is_kept
    ),
    unparsed=statistics.fmean(s["value"] is None for s in samples),
    cut_off=statistics.fmean(s["finish_reason"] == CUT_OFF for s in samples),
    outcomes=_counts(map(outcome, samples)),
    unknown_ends=_counts(
      s["finish_reason"] for s in samples if s["finish_reason"] not in _KNOWN_ENDS
    ),
    mean_tokens=statistics.fmean(tokens) if tokens else None,
    median_tokens=statistics.median(tokens) if tokens else None,
    mean_thinking_tokens=statistics.fmean(thought) if thought else None,
    mean_answer_tokens=statistics.fmean(said) if said else None,
    never_stopped=never_stopped(samples),
  )


def _counts(names: Iterable[str | None]) -> dict[str, int]:
  """Numbers of equal names, the most frequent first."""
  return dict(collections.Counter(name for name in names if name is not None).most_common())


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
  """Probability of a right one among k of the samples, drawn without replacement."""
  return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def read_samples(workdir: Path) -> list[Record]:
  """The questions of a `sample` run's workdir, with their samples."""
  return list(read_output(workdir, OUTPUT, check_samples))


def write_summary(workdir: Path, summary: Summary) -> None:
  """Writes `summary.json`."""
  write_json(workdir / "summary.json", dataclasses.asdict(summary))


def format_summary(summary: Summary) -> str:
  """The summary as lines to print."""
  error = summary.accuracy_stderr
  passes = ", ".join(f"pass@{k} {value:.1%}" for k, value in summary.pass_at.items())
  lines = [
    f"{summary.questions} questions, {summary.samples} samples",
    f"accuracy {summary.accuracy:.1%}"
    + ("" if error is None else f" (standard error {error:.1%})"),
    passes,
    f"samples: {_listed(summary.outcomes)}",
    f"chains kept {summary.chains}"
    + (f"; right, but not kept: {_listed(summary.not_kept)}" if summary.not_kept else ""),
    f"no answer found in {summary.unparsed:.1%}, cut off {summary.cut_off:.1%}"
    + (
      "" if summary.never_stopped is None else f", thinking never ends {summary.never_stopped:.1%}"
    ),
  ]
  if summary.unknown_ends:
    lines.append(f"unknown finish reasons, taken as ends: {_listed(summary.unknown_ends)}")
  if summary.mean_tokens is not None:
    parts = {"thinking": summary.mean_thinking_tokens, "answer": summary.mean_answer_tokens}
    lines.append(
      f"tokens a sample: mean {summary.mean_tokens:.0f}, median {summary.median_tokens:.0f}"
      + "".join(f"; {name}: mean {mean:.0f}" for name, mean in parts.items() if mean is not None)
    )
  return "\n".join(lines)


def _listed(counts: Mapping[str, int]) -> str:
  return ", ".join(f"{shortened(name)} {count}" for name, count in counts.items())


_SHOWN = 400  # characters of each end of a thinking that is shown


def _shortened_middle(text: str) -> str:
  left_out = len(text) - 2 * _SHOWN
  return text if left_out <= 0 else f"{text[:_SHOWN]} [... {left_out:,} ...] {text[-_SHOWN:]}"


def format_samples(record: Record, most: int) -> str:
  """A question and its first samples beside their verdicts, to be read by eye."""
  head = printable(f"=== {record['id']} (target {record['target']})", one_line=True)
  lines = [head, *indented(record["question"])]
  for index, sample in enumerate(record["samples"][:most]):
    verdict = "right" if sample["correct"] else "wrong"
    if sample["value"] is None:
      verdict = "no answer found"
    said = "" if sample["value"] is None else f", says {sample['value']!r}"
    lines.append(f"-- sample {index}: {verdict}{said} ({shortened(sample['finish_reason'])})")
    if sample.get("thinking"):
      lines += ["   thinking:", *indented(_shortened_middle(sample["thinking"])), "   reply:"]
    lines += indented(sample["text"])
  return "\n".join(lines)
