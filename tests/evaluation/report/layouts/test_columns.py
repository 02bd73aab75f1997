"""Columns find tasks by meaning."""

from results import make_tasks

from mmu_jax.evaluation.report.layouts.columns import About


def test_a_task_is_found_by_meaning_and_if_need_be_by_name():
  tasks = make_tasks(
    dict.fromkeys(('forget_vqa', 'real_faces', 'real_world'), ())
  )
  assert About('real', 'vqa').find(tasks) == tasks['real_faces']
  assert (
    About('real', 'vqa', name='real_world').find(tasks).name == 'real_world'
  )
  assert About('forget', 'vqa', holdout=True).find(tasks) is None
  found = [About(t.split, t.modality).find(tasks) for t in tasks.values()]
  assert len(set(found)) == 2  # the two about real pictures are alike
