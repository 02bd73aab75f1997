"""Lines about importances, masks and rounds of unlearning."""

from collections.abc import Iterator, Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
from measuring import compare
from measuring import Line
import numpy as np
import subjects
from subjects import Subject

from mmu_jax import masks
from mmu_jax import methods
from mmu_jax import saliency
from mmu_jax.objectives import descend
from mmu_jax.training import optimizer
from mmu_jax.training import step as step_lib
from mmu_jax.typing import Batch

Batches = Mapping[str, Mapping[str, Batch]]
METHODS = ('ga_diff', 'kl_min', 'npo', 'mmunlearner')
RATE = 3e-4
PICTURES = {'demo': 6}  # of a batch, with four questions each; 1 for the others
SETS = 'forget', 'retain'
_PROTECTS = dict.fromkeys(('vision', 'projector', 'language'), ('retain',))


def importance(subject: Subject, repeats: int) -> Iterator[Line]:
  """Importance of two batches, beside their backward passes; then a mask."""
  params, model = subject.params, subject.model
  loss = lambda p, batch: descend(model.forward, p, None, batch)
  how = dict(forward=model.forward, loss=descend)
  backward = lambda p, batch: _gradient(p, None, batch, **how)
  made = {split: batches(subject, split) for split in SETS}
  measure = lambda split: saliency.importance(loss, params, made[split])
  every = lambda: [backward(params, batch) for batch in made['forget']]
  found = {split: measure(split) for split in SETS}
  squares = jax.tree.map(
    lambda *grads: jnp.mean(jnp.stack([g**2 for g in grads]), 0), *every()
  )
  _same_trees(found['forget'], squares)

  ways = {'importance': lambda: measure('forget'), 'backward': every}
  theirs = None
  if subject.torch is not None:
    import in_torch

    theirs = {s: in_torch.importance(subject.torch, b) for s, b in made.items()}
    ways['torch'] = theirs['forget']
    total = lambda tree: sum(float(x.sum()) for x in jax.tree.leaves(tree))
    np.testing.assert_allclose(
      total(theirs['forget']()), total(found['forget']), rtol=1e-3
    )
  over = {'importance': 'backward', 'backward': ''}
  yield from compare(
    'importance',
    subject.name,
    ways,
    repeats,
    over,
    dict.fromkeys(over, 'torch'),
  )
  one = lambda: backward(params, made['forget'][0])
  yield from _mask(subject, found, theirs, one, repeats)


def _mask(subject, found, theirs, backward, repeats) -> Iterator[Line]:
  """Ratio, ties, threshold and bits of a mask, beside one backward pass."""

  def make():
    scores, ties = saliency.component_saliency(
      found['forget'],
      {'retain': found['retain']},
      protects=_PROTECTS,
      components=subject.model.components,
    )
    mask = saliency.mask_from_saliency(scores, threshold=1.0, ties=ties)
    return masks.pack(mask)

  ratio = jax.tree.map(lambda f, r: (f + 1e-15) / (r + 1e-15), *found.values())
  used = jax.tree.map(
    lambda *x: np.maximum(*x) >= saliency.EPS, *found.values()
  )
  want = jax.tree.map(lambda x, real: (x >= 1) & real, ratio, used)
  got = masks.unpack(make(), subject.params)
  jax.tree.map(np.testing.assert_array_equal, got, want)
  ways = {'mask': make, 'one backward': backward}
  if theirs:
    import in_torch

    both = [theirs[split]() for split in SETS]
    ways['torch'] = lambda: in_torch.mask(*both)
  over = {'mask': 'one backward'}
  yield from compare(
    'mask', subject.name, ways, repeats, over, {'mask': 'torch'}
  )


def rounds(subject: Subject, repeats: int) -> Iterator[Line]:
  """A round of each method: plain and packed rows, beside backward passes."""
  made = {
    'plain': splits(subject, packed=False),
    'packed': splits(subject, packed=True),
  }
  yield from rounds_of(subject, made, given(subject, made['plain']), repeats)


def rounds_of(
  subject: Subject, made: Batches, theirs: Any, repeats: int
) -> Iterator[Line]:
  """A round of each method.

  Args:
    subject: model, with torch's where there is one.
    made: batches of each split, by way; 'plain' is one.
    theirs: batches of each split as torch takes them, or None.
    repeats: number of timed rounds.
  """
  mask = some_mask(subject)
  for method in METHODS:
    ways = {way: round_of(subject, method, b, mask) for way, b in made.items()}
    if subject.torch is not None:
      import in_torch

      bits = [p > 0 for p in subject.torch.parameters()]
      ways['torch'] = in_torch.rounds(subject.torch, method, theirs, bits)
    # The third round tells whether the first two changed the same.
    told = [{k: float(take()) for k, take in ways.items()} for _ in range(3)]
    for i, losses in enumerate(told):
      # Published masks act before Adam alone, whose momentum then moves what
      # is frozen: from the second round on torch has other weights.
      out = 'torch' if i and method == 'mmunlearner' else ''
      alike = [loss for way, loss in losses.items() if way != out]
      close = dict(rtol=2e-3, atol=1e-6)  # the loss of npo soon is 0
      np.testing.assert_allclose(alike, alike[0], err_msg=method, **close)
    moved = abs(told[2]['plain'] / told[0]['plain'] - 1)
    assert moved > 0.02, f'{method}: two rounds change the loss by {moved:.2%}'
    ways['its backward passes'] = _backward(subject, method, made['plain'])
    over = {'plain': 'its backward passes', 'packed': 'plain'}
    over = {way: base for way, base in over.items() if way in made}
    torch = dict.fromkeys(over, 'torch')
    yield from (
      line._replace(way=f'{method} {line.way}')
      for line in compare('round', subject.name, ways, repeats, over, torch)
    )


def splits(subject: Subject, *, packed: bool) -> dict[str, Batch]:
  """A batch of each split."""
  pictures = PICTURES.get(subject.name, 1)
  of = lambda split: subjects.batch_of(subject, split, pictures, packed)
  return {split: of(split) for split in SETS}


def given(subject: Subject, made: Mapping[str, Batch]) -> Any:
  """The same batches as torch takes them; None without torch."""
  if subject.torch is None:
    return None
  import in_torch

  return {split: in_torch.given(batch) for split, batch in made.items()}


def some_mask(subject: Subject):
  """Half of the weights, packed."""
  above = lambda p: masks.pack(jax.tree.map(lambda x: x > 0, p))
  return jax.jit(above)(subject.params)


def batches(subject: Subject, split: str) -> list[Batch]:
  """Two batches of plain rows: the questions about some pictures."""
  pictures = PICTURES.get(subject.name, 1)
  whole = subjects.batch_of(subject, split, 2 * pictures, packed=False)
  rows = pictures * subjects.QUESTIONS
  cut = lambda i: {name: x[i : i + rows] for name, x in whole.items()}
  return [cut(0), cut(rows)]


def round_of(subject: Subject, method: str, batches, mask):
  """A function that takes one round and returns its last loss."""
  tx = optimizer.build('adamw', weight_decay=0.0)
  own = jax.tree.map(jnp.copy, subject.params)
  state = [step_lib.init(own, tx)]  # donated by each turn
  turns, forward = methods.make(method), subject.model.forward
  reads = any(turn.needs_reference for turn in turns)
  reference = subject.params if reads else None
  mask = mask if any(turn.masked for turn in turns) else None
  del subject  # so that nothing else is held

  def take():
    for turn in turns:
      state[0], measured = step_lib.take_turn(
        state[0],
        batches[turn.split],
        RATE,
        mask if turn.masked else None,
        reference if turn.needs_reference else None,
        forward=forward,
        turn=turn,
        tx=tx,
      )
    return measured['loss']

  return take


def _backward(subject, method, batches):
  """A function that takes the gradients of a round, and changes nothing."""
  params, forward = subject.params, subject.model.forward
  turns = methods.make(method)
  return lambda: [
    _gradient(params, params, batches[t.split], forward=forward, loss=t.loss)
    for t in turns
  ]


@functools.partial(jax.jit, static_argnames=('forward', 'loss'))
def _gradient(params, reference, batch, *, forward, loss):
  """The gradient of one turn's loss."""
  return jax.grad(lambda p: loss(forward, p, reference, batch))(params)


def _same_trees(a, b):
  """Raises unless two trees agree to 1e-3 of each leaf's largest entry."""
  close = lambda x, y: np.testing.assert_allclose(
    x, y, rtol=1e-3, atol=1e-3 * float(jnp.max(y)) + 1e-30
  )
  jax.tree.map(close, a, b)
