"""Lines about answers: whole evaluations, and one token of decoding."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from measuring import compare
from measuring import Line
import numpy as np
import subjects
from subjects import Subject

from mmu_jax.data.batches import batching
from mmu_jax.data.dataset import Task
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking import tasks
from mmu_jax.evaluation.scoring import scores
from mmu_jax.models import llama

PLAIN = protocols.PROTOCOLS['plain']
NEW_TOKENS = 12
BATCH = 64
ASKED = {'demo': 16}  # pictures, with four questions each; 4 for the others


def evaluation(subject: Subject, repeats: int) -> Iterator[Line]:
  """Questions answered and scored, from text and pixels: four a picture.

  Ours gives the likelihoods of the true answers too.
  """
  rows = subjects.asked(ASKED.get(subject.name, 4))
  ways = {
    'batched': lambda: _answers(subject, rows, BATCH),
    'one at a time': lambda: _answers(subject, rows, 1),
  }
  if subject.torch is not None:
    import in_torch

    given = subject.torch, rows, subject.processor, NEW_TOKENS
    ways |= {
      'torch batched': lambda: in_torch.answers(*given, BATCH),
      'torch one at a time': lambda: in_torch.answers(*given, 1),
    }
  first, *others = [call() for call in ways.values()]
  assert len({*first}) > 1  # not one answer to all
  for other in others:
    same = np.mean([a == b for a, b in zip(first, other)])
    assert same > 0.95, f'{same:.0%} of the answers are equal'  # ties
  over = {'batched': 'one at a time', 'one at a time': ''}
  torch = {way: f'torch {way}' for way in over}
  name = 'evaluation'
  yield from compare(name, subject.name, ways, repeats, over, torch)


def _answers(subject, rows, size):
  """The answers of one evaluation; nothing encoded before is used."""
  task = Task('vqa', rows, 'retain', 'vqa', 'keep')
  found = tasks.predict(
    subject.model,
    subject.params,
    PLAIN.questions(task, {'vqa': task}, 0, 0),
    batching.Encoder(subject.processor),
    protocol=PLAIN,
    max_new_tokens=NEW_TOKENS,
    size=size,
  )
  records = [record for batch in found for record in batch]
  for record in records:
    scores.score(record)
  return [record['text'] for record in records]


def decoding(subject: Subject, repeats: int, rows: int = 16) -> Iterator[Line]:
  """Bytes that one new token needs beside the cache, over the cache's."""
  del repeats  # nothing is timed
  model = subject.model
  for slots in (256, 1024):
    make = lambda slots=slots: llama.make_cache(
      model.config.text_config, rows, slots, jnp.float32
    )
    cache = jax.eval_shape(make)
    ints = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
    step = jax.jit(model.extend, donate_argnums=5).lower(
      model.abstract_params,
      ints,
      ints,
      jax.ShapeDtypeStruct((rows, 1, slots), bool),
      jax.ShapeDtypeStruct((), jnp.int32),
      cache,
    )
    memory = step.compile().memory_analysis()
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))
    assert memory.alias_size_in_bytes >= size  # it is written in place
    ratio = [memory.temp_size_in_bytes / size]
    way, over = f'a token, {slots} slots', 'bytes of the cache'
    values = [memory.temp_size_in_bytes / 2**20]
    yield Line('decode', subject.name, way, values, 'MiB', over, ratio)
