"""Tasks by the names that tests use, and lines of ``results.jsonl``."""

from mmu_jax.data.dataset import by_name
from mmu_jax.data.dataset import role_of
from mmu_jax.data.dataset import Task

_HEADLINES = (
  'forget_vqa_holdout forget_qa retain_vqa retain_qa real_vqa'.split()
)


def make_task(name, rows=(), headlines=_HEADLINES):
  """A task whose name says what it means, which is so in tests alone."""
  split, _, rest = name.partition('_')
  modality, _, holdout = rest.partition('_')
  modality = {'': 'all', 'faces': 'vqa', 'world': 'vqa'}.get(modality, modality)
  role = role_of(split, modality)
  more = {'holdout': bool(holdout), 'headline': name in headlines}
  return Task(name, rows, split, modality, role, **more)


def make_tasks(rows):
  """Tasks of rows by name."""
  return by_name(*(make_task(name, found) for name, found in rows.items()))


def result(run, task, metric, value, *, layout='people', margin=0.04, n=100):
  """One line of ``results.jsonl``."""
  headlines = ['forget_vqa', *_HEADLINES] if layout == 'clear' else _HEADLINES
  meaning = make_task(task, headlines=headlines)._asdict()
  del meaning['name'], meaning['rows'], meaning['reported']
  return meaning | {
    'run': run,
    'step': 9,
    'task': task,
    'metric': metric,
    'value': value,
    'n': n,
    'low': value - margin,
    'high': value + margin,
    'layout': layout,
    'protocol': 'plain' if layout == 'people' else 'fixed',
    'shots': 0,
  }
