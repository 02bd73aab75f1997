"""How a question is put to a model, and how its answer is read.

A protocol changes a score more than most methods do, so every score is of one
protocol, by name.

* ``plain``: the row's question as it is; of options the likeliest is taken.
  The models of the synthetic people know no other words.
* ``fixed``: the chat template of the checkpoint for every question, one
  instruction, an answer read by what it names. The default.
* ``official_mllmu_bench``, ``official_clear``: what the published evaluation
  does, its errors included, for numbers to be compared with published ones.
"""

import os

from mmu_jax.data.readers import prepared
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking.protocols import fixed
from mmu_jax.evaluation.asking.protocols import official_clear
from mmu_jax.evaluation.asking.protocols import official_mllmu_bench
from mmu_jax.evaluation.asking.protocols import plain
from mmu_jax.evaluation.asking.protocols.question import Asked
from mmu_jax.evaluation.asking.protocols.question import Protocol
from mmu_jax.evaluation.asking.protocols.question import Question

PROTOCOLS = {
  module.PROTOCOL.name: module.PROTOCOL
  for module in (plain, fixed, official_mllmu_bench, official_clear)
}
OFFICIAL = 'official'
PREPARED = 'tfds'
_DEFAULTS = {'people': 'plain'}  # dataset -> protocol; of the others, 'fixed'

__all__ = ('Asked', 'PROTOCOLS', 'Protocol', 'Question', 'find')


def find(name: str, dataset: str, path: str | os.PathLike = '') -> Protocol:
  """Returns the protocol of a name.

  Args:
    name: a key of ``PROTOCOLS``; ``'official'`` for that of the dataset; ''
      for the default of the dataset: ``'plain'`` for the synthetic people,
      else ``'fixed'``.
    dataset: its name: ``'clear'``; a prepared folder (``'tfds'``) counts as
      the dataset that it was made from.
    path: of the data; '' for a dataset of this name in general.

  Raises:
    FileNotFoundError: if the path is that of no prepared folder, and the
      protocol depends on it.
    ValueError: if there is no such protocol, or none was published for the
      dataset.

  Example:
    >>> find('', 'people').name, find('official', 'clear').name
    ('plain', 'official_clear')
  """
  if name in ('', OFFICIAL) and dataset == PREPARED and path:
    dataset = prepared.source(path)
  if not name:
    name = _DEFAULTS.get(dataset, 'fixed')
  if name == OFFICIAL:
    name = f'{OFFICIAL}_{dataset}'
  if name not in PROTOCOLS:
    raise UserError(
      f'there is no protocol {name!r}; known: {", ".join(PROTOCOLS)}, and '
      "'official' for datasets with a published evaluation."
    )
  return PROTOCOLS[name]
