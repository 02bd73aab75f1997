"""How a question is put to a model, and how its answer is read.

A protocol changes a score more than most methods do, so every score is of one
protocol, by name.

* ``plain``: the row's question as it is; of options the likeliest is taken.
  The models of the synthetic people know no other words.
* ``fixed``: the chat template of the checkpoint for every question, one
  instruction, an answer read by the option it names. The default.
* ``official_mllmu_bench``, ``official_clear``: the published evaluation, its
  errors included, for numbers to be compared with published ones.
"""

from mmu_jax.data.dataset import Dataset
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

__all__ = ('Asked', 'PROTOCOLS', 'Protocol', 'Question', 'find_protocol')


def find_protocol(name: str, data: Dataset) -> Protocol:
  """Returns the protocol of a name.

  Args:
    name: a key of ``PROTOCOLS``; '' for the default of the dataset;
      ``'official'`` for its published one.
    data: the dataset that is asked about.

  Raises:
    ValueError: if there is no such protocol, or none was published for the
      dataset.

  Example:
    >>> data = Dataset({}, {}, {}, official='official_clear')
    >>> [find_protocol(name, data).name for name in ('', 'official')]
    ['fixed', 'official_clear']
  """
  chosen = {'': data.protocol, OFFICIAL: data.official}.get(name, name)
  if chosen not in PROTOCOLS:
    raise UserError(
      f'there is no protocol {name!r} for this dataset; known: '
      f'{", ".join(PROTOCOLS)}, and {OFFICIAL!r} for datasets with a published '
      'evaluation.'
    )
  return PROTOCOLS[chosen]
