"""MLLMU-Bench and CLEAR are shown as their papers lay them out."""

from shown import clear
from shown import mllmu

from mmu_jax.evaluation.report import scored


def test_mllmu_bench_has_a_table_for_each_measure():
  blocks = scored.shown_blocks(mllmu())
  assert [block.title for block in blocks] == [
    'classification, accuracy',
    'generation, ROUGE-L',
    'cloze, accuracy',
    'the model as a whole',
  ]
  wanted = [f'{c.title} {c.wanted}' for c in blocks[0].columns]
  assert wanted == [
    'forget VQA ↓',
    'test VQA ↓',
    'retain VQA ↑',
    'real VQA ↑',
    'forget QA ↑',
    'retain QA ↑',
    'real QA ↑',
  ]


def test_clear_shows_the_recall_of_captions_and_text_beside_the_f_measure():
  results = clear()
  recall = [r | {'metric': 'rougeL_recall', 'value': 0.7} for r in results]
  results += [r for r, f in zip(recall, clear()) if f['metric'] == 'rougeL']
  (block,) = [b for b in scored.shown_blocks(results) if 'recall' in b.title]
  assert len(block.columns) == 4
  cells = scored.rows(results)['vanilla']
  assert {cells[c.key].value for c in block.columns} == {0.7}
  assert not any(c.right for c in block.columns)


def test_clear_has_names_captions_text_and_the_real_world_in_one_table():
  first, *others = scored.shown_blocks(clear())
  tasks = scored.tasks_in(clear())
  shown = [(c.about.find(tasks).name, c.metric) for c in first.columns]
  assert shown == [
    ('forget_vqa', 'accuracy'),
    ('forget_vqa', 'rougeL'),
    ('forget_qa', 'rougeL'),
    ('retain_vqa', 'accuracy'),
    ('retain_vqa', 'rougeL'),
    ('retain_qa', 'rougeL'),
    ('real_faces', 'accuracy'),
    ('real_world', 'accuracy'),
  ]
  keys = [c.key for block in others for c in block.columns]
  assert keys == [
    'name_choice',
    'quality',
    'truth_forget',
    'utility',
    'distance',
  ]
