"""Results of the synthetic people and of two benchmarks, and their masks."""

import functools

from results import result

from mmu_jax.workdir import seals

TASKS = (
  'forget_vqa',
  'forget_vqa_holdout',
  'forget_qa',
  'retain_vqa',
  'retain_qa',
  'real_vqa',
  'real_qa',
)
# Exact match of every task in the order of TASKS, then the choice of four.
SCORES = {
  'vanilla': (1.00, 0.97, 1.00, 0.97, 1.00, 0.71, 1.00, 0.99),
  'retrained': (0.00, 0.00, 1.00, 0.96, 1.00, 0.72, 1.00, 0.17),
  'ga_diff': (0.00, 0.01, 0.25, 0.88, 0.99, 0.62, 1.00, 0.07),
  'mmunlearner': (0.05, 0.05, 1.00, 0.93, 1.00, 0.67, 1.00, 0.29),
}


def people_row(run, task, value, metric='exact_match'):
  row = result(run, task, metric, value, n=144)
  return row | {'low': max(row['low'], 0), 'high': min(row['high'], 1)}


def people(scores=None):
  found = []
  for run, (*values, choice) in (scores or SCORES).items():
    found += [people_row(run, task, v) for task, v in zip(TASKS, values)]
    found.append(people_row(run, 'forget_vqa_holdout', choice, 'choice'))
  return found


ACCURACY = {
  'forget_vqa': (0.51, 0.35, 0.33),
  'forget_vqa_holdout': (0.47, 0.29, 0.31),
  'retain_vqa': (0.48, 0.48, 0.45),
  'real_vqa': (0.53, 0.52, 0.51),
  'forget_qa': (0.40, 0.38, 0.32),
  'retain_qa': (0.39, 0.39, 0.38),
  'real_qa': (0.55, 0.55, 0.54),
}
RUNS = ('vanilla', 'retrained', 'mmunlearner')
SIZES = {'accuracy': 125, 'rougeL': 100, 'cloze': 50}


def benchmark_row(
  run, task, metric, value, n=100, margin=0.04, layout='mllmu_bench'
):
  return result(run, task, metric, value, n=n, margin=margin, layout=layout)


def mllmu():
  return [
    benchmark_row(run, task, metric, values[i] - shift, n)
    for i, run in enumerate(RUNS)
    for shift, (metric, n) in zip((0, 0.1, 0.2), SIZES.items())
    for task, values in ACCURACY.items()
  ] + [benchmark_row(run, 'all', 'model_utility', 0.4, 15) for run in RUNS]


clear_row = functools.partial(benchmark_row, layout='clear')


def clear():
  found = []
  for i, run in enumerate(RUNS):
    for task in ('forget_vqa', 'retain_vqa', 'real_faces', 'real_world'):
      value = (0.7, 0.4, 0.36)[i] if task == 'forget_vqa' else 0.68
      found += [
        clear_row(run, task, m, value, 188) for m in ('accuracy', 'choice')
      ]
    for task in ('forget_vqa', 'forget_qa', 'retain_vqa', 'retain_qa'):
      found.append(clear_row(run, task, 'rougeL', 0.4, 200))
    ratio = clear_row(run, 'forget_vqa', 'truth_ratio_forget', 0.6, 188)
    found.append(ratio)
    found.append(clear_row(run, 'all', 'model_utility', 0.45, 7))
  return found + [
    clear_row(run, 'forget_vqa', 'forget_quality', p, 188, 0)
    for run, p in (('vanilla', 3.2e-12), ('mmunlearner', 0.21))
  ]


BENCHMARKS = {'mllmu': mllmu, 'clear': clear}


def undefined(results, metric, run='mmunlearner'):
  """The results with one metric of a run undefined."""
  gone = {'value': None, 'low': None, 'high': None}
  return [
    row | gone if (row['run'], row['metric']) == (run, metric) else row
    for row in results
  ]


MASKS = {
  'mmunlearner': {
    'kind': 'saliency',
    'threshold': 1.0,
    'granularity': 'batch',
    'normalize': True,
    'density': {'vision': 0.4, 'language': 0.25},
    'density_by_layer': {'vision': [0.3, 0.5], 'language': [0.2, 0.3]},
    'density_by_path': {'lm_head/kernel': 0.37},
    'ties': {'vision': 4321},
    'overlap': {},
  },
  'random': {'kind': 'random', 'density': {'vision': 0.4, 'language': 0.25}},
}


def write_jsonl(path, rows, name=''):
  """Writes a finished file: of scores, or of the answers to a task."""
  results = path.name == 'results.jsonl'
  seals.write_rows(path, rows, name or (path.name if results else path.stem))
