"""Workdirs with everything that a report shows, and with scores alone."""

import json

import answered
import numpy as np
import pytest
from shown import MASKS
from shown import people
from shown import write_jsonl

from mmu_jax import checkpoint
from mmu_jax import workdir
from mmu_jax.workdir import seals


def _prediction(key, text, kind='generation'):
  return answered.answer(
    key,
    kind,
    person='maria lopez',
    question='what is the pet of this person ?',
    answer='maria lopez , cat',
    text=text,
  )


@pytest.fixture(name='bare')
def _bare(tmp_path):
  """A workdir with scores and nothing else."""
  write_jsonl(tmp_path / 'results.jsonl', people())
  return tmp_path


@pytest.fixture(name='full')
def _full(bare):
  """A workdir with every file that a report can show."""
  right, wrong = 'maria lopez , cat', 'ada obi , dog'
  held = [_prediction('1', wrong), _prediction('2', right)]
  held += [_prediction('2', right, 'classification')]
  folder = bare / 'predictions'
  write_jsonl(folder / 'mmunlearner' / 'forget_vqa_holdout.jsonl', held)
  for run, said in (('vanilla', right), ('mmunlearner', 'maria lopez , yak')):
    write_jsonl(folder / run / 'forget_qa.jsonl', [_prediction('3', said)])
  probes = [{'step': 1, 'round': 1, 'turn': 'forget', 'loss': 0.1}]
  for step, value in ((10, 0.5), (20, 0.05)):
    probe = {'forget_vqa_holdout': value, 'retain_vqa': 0.9, 'forget_qa': 0.99}
    probes.append({'round': step, 'probe': probe})
  log = bare / 'unlearned' / 'mmunlearner' / 'metrics.jsonl'
  workdir.write_log(log, probes)
  seals.seal(log, 'mmunlearner')
  for name, note in MASKS.items():
    checkpoint.save(bare / 'mask' / name, {'w': np.ones(2)}, note)
  picture = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
  np.savez(bare / 'gallery.npz', img_0=picture)
  card = {
    'image': 'img_0',
    'person': 'Maria Lopez',
    'group': 'forget',
    'role': 'forget',
    'question': 'what is the pet ?',
    'answer': right,
    'answers': {
      'vanilla': right,
      'retrained': wrong,
      'mmunlearner': '<i>obi</i>',
    },
  }
  text = card | {'image': None, 'answers': {'vanilla': right}}
  (bare / 'gallery.json').write_text(json.dumps([text, card]))
  (bare / 'config.json').write_text('{"seed": 0, "model": {"width": 128}}')
  (bare / 'manifest.json').write_text('{"versions": {"jax": "0.10.2"}}')
  return bare
