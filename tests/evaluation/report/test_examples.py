"""Single answers, right or wrong, or near or far."""

import json

import answered
import numpy as np
import pytest
from results import make_tasks
from shown import clear
from shown import mllmu
from shown import write_jsonl

from mmu_jax.evaluation.report import examples
from mmu_jax.evaluation.report import layouts
from mmu_jax.evaluation.report import page as report


def test_a_gallery_without_its_picture_is_an_error(full):
  np.savez(full / 'gallery.npz', other=np.zeros((2, 2, 3), np.uint8))
  with pytest.raises(ValueError, match="'img_0' is missing"):
    report.write_report(full)


def test_cards_of_sentences_tell_how_near_they_are(tmp_path):
  write_jsonl(tmp_path / 'results.jsonl', mllmu())
  photo = np.zeros((900, 600, 3), np.uint8)
  np.savez(tmp_path / 'gallery.npz', img_0=photo)
  card = {
    'image': 'img_0',
    'person': 'Ann Lee',
    'group': 'forget',
    'role': 'forget',
    'question': 'Where?',
    'answer': 'She lives in Oslo.',
    'answers': {'vanilla': 'She lives in Oslo.', 'mmunlearner': 'In Rome.'},
  }
  (tmp_path / 'gallery.json').write_text(json.dumps([card]))
  page = report.write_report(tmp_path).read_text(encoding='utf-8')
  assert 'ROUGE-L 1.00' in page and 'ROUGE-L .33' in page
  assert '✗ wrong' not in page


def test_mistakes_are_cloze_answers_or_sentences_far_from_the_reference(
  tmp_path,
):
  write_jsonl(tmp_path / 'results.jsonl', clear())
  for run, said in (('vanilla', 'She paints now.'), ('mmunlearner', 'No.')):
    row = answered.answer('1', answer='She paints.', text=said)
    for task in ('forget_qa', 'forget_vqa'):
      write_jsonl(tmp_path / f'predictions/{run}/{task}.jsonl', [row])
  page = report.write_report(tmp_path).read_text(encoding='utf-8')
  assert 'Still answered: forget VQA, captions: 0 of 1' in page
  assert 'Right before and wrong now: forget QA: 1 of 1' in page
  assert 'from a ROUGE-L of .5 on' in page


def test_mistakes_are_shown_once_and_of_several_people(full):
  tasks = make_tasks({'forget_vqa_holdout': ()})
  rows = [
    answered.answer(str(i), person=who, text=answered.ANSWER, question=asked)
    for i, (who, asked) in enumerate(
      [('p1', 'Q?'), ('p1', 'Q?'), ('p1', 'R?'), ('p2', 'Q?')]
    )
  ]
  folder = full / 'predictions'
  write_jsonl(folder / 'ga' / 'forget_vqa_holdout.jsonl', rows)
  (left,) = examples.mistakes(folder, 'ga', layouts.PEOPLE, tasks)
  shown = [(row['person'], row['question']) for row in left['rows']]
  assert shown == [('p1', 'Q?'), ('p2', 'Q?'), ('p1', 'R?')]
  assert (left['count'], left['n']) == (4, 4)
