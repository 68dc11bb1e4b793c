"""Where each candidate's suffix stands in the packed rows: index arithmetic, on the device.

Deleting the reasoning tokens [start, stop) leaves everything before `start` untouched, so a
candidate needs a forward pass over its suffix only: the n - stop later reasoning tokens and the
answer without its last token, whose output nobody reads. Suffixes of several candidates share a row
of one static width, each a *segment* of it.

Letters beside those of `models.decoder`: n reasoning tokens now, A answer tokens, R rows of a
block, W slots of a row, M segments a row may hold, U units (what one deletion removes), C capacity
of the text (reasoning and answer).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


class Text(NamedTuple):
  """Reasoning and answer of one chain as it now stands."""

  token_ids: Int[Array, " C"]  # reasoning, then answer, then padding
  num_reasoning: Int[Array, ""]  # n
  num_answer: Int[Array, ""]  # A
  unit_sizes: Int[Array, " C"]  # tokens of each unit, in order; 0 behind the last unit
  num_units: Int[Array, ""]  # U


def unit_spans(text: Text) -> tuple[Int[Array, " C"], Int[Array, " C"]]:
  """Text indices [start, stop) of each unit; empty spans behind the last."""
  stops = jnp.cumsum(text.unit_sizes)
  return stops - text.unit_sizes, stops


class RowSlots(NamedTuple):
  """Token, place and view of each slot of some rows; every field is [R, W]."""

  source: Array  # index into the text of the token that the slot feeds to the model
  position: (
    Array  # that token's place in the text behind the prompt, once the deletion is closed up
  )
  visible: Array  # reasoning tokens before the deletion, all of which the slot sees
  resume: Array  # it also sees the reasoning from here on, up to its last token; n: none of it
  segment: Array  # which of the row's segments the slot belongs to
  valid: Array  # False in slots that hold nothing


def suffix_length(stop, text: Text):
  """Positions to run where the deletion ends at `stop`."""
  return text.num_reasoning - stop + text.num_answer - 1


def pair_width(num_reasoning: int, num_answer: int) -> int:
  """Slots that `paired_rows` needs, which is also enough for any one suffix."""
  return max(num_reasoning - 1 + 2 * (num_answer - 1), num_reasoning + num_answer - 2, 1)


def num_rows(num_units):
  """Rows that `paired_rows` fills; a count on the host or a traced one."""
  return (num_units + 1) // 2


def paired_rows(rows: Int[Array, " R"], num_units: Int[Array, ""]) -> Int[Array, "R 2"]:
  """Candidates of some rows where units are tokens: the longest suffix with the shortest.

  Row r holds candidates r and n - 1 - r, together n - 1 + 2 (A - 1) slots whatever r is, so no slot
  is padding. For n = 4 reasoning tokens t0..t3 and the answer a0 a1:

      row 0:  t1 t2 t3 a0 | a0         candidates 0 and 3
      row 1:  t2 t3 a0 | t3 a0         candidates 1 and 2

  Returns -1 where there is no candidate.
  """
  first, last = rows, num_units - 1 - rows
  return jnp.stack(
    [jnp.where(first <= last, first, -1), jnp.where(first < last, last, -1)], axis=-1
  )


def filled_rows(
  lengths: Int[Array, " I"], width: int, segments: int
) -> tuple[Int[Array, "I segments"], Int[Array, ""]]:
  """Rows of suffixes of any lengths: the longest first, each into the first row with room for it.

  Args:
    lengths: suffix lengths of some candidates, at most `width`; negative for one that is not
      wanted.
    width: W.
    segments: M, most candidates a row may hold.

  Returns:
    indices into `lengths` for each row, -1 where there is none, and the number of rows in use.
  """
  (size,) = lengths.shape

  def place(rows, index):
    room, count = rows  # of each row: slots left, segments held
    length = lengths[index]
    row = jnp.argmax((room >= length) & (count < segments))
    at = jnp.where(length >= 0, row, size)
    rows = room.at[at].add(-length, mode="drop"), count.at[at].add(1, mode="drop")
    return rows, (at, count[row])

  order = jnp.argsort(-lengths, stable=True).astype(jnp.int32)
  empty = jnp.full(size, width), jnp.zeros(size, jnp.int32)
  (_, count), (at_row, at_segment) = jax.lax.scan(place, empty, order)
  table = jnp.full((size, segments), -1, jnp.int32)
  return table.at[at_row, at_segment].set(order, mode="drop"), (count > 0).sum()


def plan_slots(
  starts: Int[Array, "R M"], stops: Int[Array, "R M"], text: Text, width: int
) -> RowSlots:
  """Lays the suffixes behind the deletions [start, stop) of each row one behind the other.

  Args:
    starts: first deleted text index of each segment's candidate.
    stops: text index behind the last deleted one; negative where the row has no such segment.
    text: the current text.
    width: W, static.
  """
  lengths = jnp.where(stops >= 0, suffix_length(stops, text), 0)
  ends = jnp.cumsum(lengths, axis=1)
  slot = jnp.arange(width)[None, :]
  segment = (slot[..., None] >= ends[:, None, :]).sum(-1)  # [R, W]
  valid = segment < stops.shape[1]
  segment = jnp.minimum(segment, stops.shape[1] - 1)
  start, stop, end, length = (
    jnp.take_along_axis(x, segment, axis=1) for x in (starts, stops, ends, lengths)
  )
  source = jnp.where(valid, stop + slot - (end - length), 0)
  return RowSlots(
    source=source,
    position=jnp.where(valid, source - (stop - start), 0),
    visible=jnp.where(valid, start, 0),
    resume=jnp.full(source.shape, text.num_reasoning),
    segment=segment,
    valid=valid,
  )


def plan_windows(
  starts: Int[Array, " R"],
  stops: Int[Array, " R"],
  text: Text,
  window: int,
  num_tail: int,
) -> RowSlots:
  """Lays what is estimated of each candidate into a row of its own: a window, and perhaps a tail.

  The window is the next tokens behind the deletion [start, stop). The tail is what predicts the
  answer: the last reasoning token and the answer. Between the two stands the *middle*, which does
  not run again: the tail sees it as it was before the deletion. Positions tell the tail the same
  story, that the middle has not moved; where there is no middle all is exact.

  Args:
    starts: first deleted text index of each candidate.
    stops: text index behind the last deleted one; negative where the row has no candidate.
    text: the current text.
    window: w, static.
    num_tail: A, the most answer tokens of any chain, static; 0: no tail.

  Returns:
    Slots of width `window + num_tail`.
  """
  n, end = text.num_reasoning, text.num_reasoning + text.num_answer - 1  # sources are below `end`
  slot = jnp.arange(window + num_tail)[None, :]
  start, stop = starts[:, None], stops[:, None]
  in_window = slot < window
  tail = jnp.maximum(stop + window, n - 1)  # where the tail begins
  source = jnp.where(in_window, stop + slot, tail + slot - window)
  valid = (stop >= 0) & (source < end)
  closed_up = in_window | (stop + window >= n - 1)
  return RowSlots(
    source=jnp.where(valid, source, 0),
    position=jnp.where(valid, source - jnp.where(closed_up, stop - start, 0), 0),
    visible=jnp.where(valid, start, 0),
    resume=jnp.where(in_window, n, jnp.minimum(stop + window, n)),
    segment=jnp.zeros_like(source),
    valid=valid,
  )
