"""People to keep who stand in for those to forget, while settings are chosen.

A benchmark or own data has no people of its own for that. So some entities of
the retain set are forgotten instead, for a try. The true forget set stays
aside: vanilla knows it, and a try neither trains on it nor asks about it.
"""

from collections.abc import Mapping, Sequence

from mmu_jax.data.dataset import by_name
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import QA
from mmu_jax.data.dataset import RETAIN
from mmu_jax.data.dataset import role_of
from mmu_jax.data.dataset import Task
from mmu_jax.data.dataset import VQA
from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import GENERATION
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

GROUPS = {FORGET: 'tuning_forget', RETAIN: 'tuning_retain'}
_LEAST = 2  # entities on either side


def stand_in(
  data: Dataset, groups: Mapping[str, Sequence[str]], seed: int
) -> tuple[Dataset, dict[str, tuple[str, ...]]]:
  """Returns a dataset in which others are to be forgotten, and its groups.

  As many entities (people; without names pictures) as the forget set has are
  drawn from the retain set: at most a quarter of it, but never below two. There
  are no new pictures of them, so tasks ask about rows that vanilla was trained
  on, and that reported tasks about the retain set have, too. A score tells how
  much of the training is left, and nothing about new pictures.

  Args:
    data: dataset with splits such as ``'vqa/retain'``.
    groups: groups by role, as ``config.groups``.
    seed: seed of the choice.

  Returns:
    The dataset with two more groups of training rows, and with tasks about
    these alone, none of them reported; and their roles.

  Raises:
    ValueError: if there are fewer than four entities with pictures to keep.

  Example:
    >>> rows = [Row(f'{i}', 'Who?', 'Ada', 'Ada', image=b'') for i in range(9)]
    >>> train = {'vqa/forget': rows[:2], 'vqa/retain': rows[2:]}
    >>> data = Dataset(train, {}, {})
    >>> roles = {'forget': ['forget'], 'retain': ['retain']}
    >>> changed, groups = stand_in(data, roles, 0)
    >>> groups['forget'], len(changed.train['vqa/tuning_forget'])
    (('tuning_forget',), 2)
  """
  rows = {
    (kind, role): [
      row for g in groups[role] for row in data.train.get(f'{kind}/{g}', ())
    ]
    for kind in (VQA, QA)
    for role in GROUPS
  }
  entities = {
    role: sorted({_entity(row) for row in rows[VQA, role]}) for role in GROUPS
  }
  chosen = _choose(entities[RETAIN], len(entities[FORGET]), seed)
  train, tasks = dict(data.train), []
  for kind in (VQA, QA):
    for split, group in GROUPS.items():
      found = [
        row
        for row in rows[kind, RETAIN]
        if (_entity(row) in chosen) == (split == FORGET)
      ]
      train[f'{kind}/{group}'] = found
      asked = [row._replace(task=GENERATION, options=()) for row in found]
      role, name = role_of(split, kind), f'{group}_{kind}'
      task = Task(name, asked, split, kind, role, reported=False, headline=True)
      tasks += [task] if asked else []
  roles = {role: (group,) for role, group in GROUPS.items()}
  everybody = {'everybody': tuple(GROUPS.values())}
  return data._replace(train=train, tasks=by_name(*tasks)), roles | everybody


def _entity(row: Row) -> str:
  """The person of a row, or else its picture, or else the row."""
  return row.person or row.picture_key or row.key


def _choose(kept: Sequence[str], forgotten: int, seed: int) -> set[str]:
  """Draws the entities that stand in."""
  if len(kept) < 2 * _LEAST:
    raise UserError(
      'tuning forgets some of the retain set instead of the forget set: it '
      f'needs pictures of at least {2 * _LEAST} people or things to keep, and '
      f'the data have {len(kept)}. Add rows to retain, or set '
      'config.runs.NAME.rate by hand.'
    )
  number = max(_LEAST, min(forgotten, len(kept) // 4))
  order = named_rng(seed, 'stand_ins').permutation(len(kept))
  return {kept[i] for i in order[:number]}
