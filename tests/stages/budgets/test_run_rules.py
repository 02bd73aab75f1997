"""A run that would do something else than it says is refused."""

import pytest

from mmu_jax import recipes
from mmu_jax.stages import job
from mmu_jax.stages.budgets import run_rules


@pytest.fixture
def config():
  return recipes.load('people:fast')


@pytest.mark.parametrize(
  'place', ['unlearn.limits', 'runs.mmunlearner.clip_norms']
)
def test_a_limit_of_a_split_without_turns_is_refused_at_once(place, config):
  config.update_from_flattened_dict({f'{place}.forgte': 3})
  with pytest.raises(ValueError, match=rf"{place} has 'forgte'. Rename it"):
    run_rules.run_settings(config, 'mmunlearner')


@pytest.mark.parametrize(
  'split, teacher, margin, says',
  [
    ('relabelled', '', 9.0, "split 'relabelled' needs a teacher"),
    ('vqa:retain', 'others', 9.0, "others have teacher ''"),
    ('vqa:retain', '', None, 'margin=None.*Give the margin in nats, as 12'),
  ],
)
def test_a_run_needs_a_teacher_where_it_draws_relabelled_rows(
  config, split, teacher, margin, says
):
  with config.unlocked():
    config.unlearn.streams.mixed = (recipes.part(split, size=1),)
    config.runs = dict(
      mine=recipes.run(
        'counterfactual', 1e-3, retain='mixed', teacher=teacher, margin=margin
      )
    )
  with pytest.raises(ValueError, match=f"run 'mine' has .*{says}"):
    run_rules.run_settings(config, 'mine')


def test_a_base_that_is_to_forget_is_no_reference(config):
  with config.unlocked():
    config.runs = dict(mine=recipes.counterfactual_run())
  run_rules.run_settings(config, 'mine')
  config.vanilla.rounds = 0
  with pytest.raises(ValueError, match="'mine' compares with base, which must"):
    run_rules.run_settings(config, 'mine')


@pytest.mark.parametrize('run', ['mmunlearner', 'rewind'])
def test_a_mask_and_a_start_that_do_nothing_are_refused(config, run):
  made = dict(
    mmunlearner=recipes.run('mmunlearner', 1e-4, 'best'),
    rewind=recipes.run('rewind', 1e-4, 'saliency'),
  )
  with config.unlocked():
    config.runs = dict(mine=made[run])
  says = {'mmunlearner': "mask 'best'; a mask is one of saliency, .*, turn"}
  with pytest.raises(
    ValueError, match=says.get(run, 'of vanilla changes noth')
  ):
    run_rules.run_settings(config, 'mine')


@pytest.mark.parametrize(
  'run, words',
  [
    (recipes.run('idk', 1e-4), "'forget' has the true answers, which would be"),
    (recipes.run('salun', 1e-4, 'topk'), 'forget to a stream of .relabelled.'),
    (
      recipes.run('task_vector', 1e-4, reference='base'),
      "its reference is vanilla; got 'base'",
    ),
  ],
)
def test_methods_that_would_learn_what_is_to_go_are_refused(config, run, words):
  with config.unlocked():
    config.runs = dict(mine=run)
  with pytest.raises(ValueError, match=words):
    run_rules.run_settings(config, 'mine')
  masked = recipes.run('task_vector', 1e-4, 'saliency', masked=True)
  with config.unlocked():
    config.runs = dict(mine=masked)
  run_rules.run_settings(config, 'mine')


def test_a_layer_that_the_decoder_has_not_is_refused_before_training(
  config, tmp_path
):
  with config.unlocked():
    config.runs = dict(mine=recipes.run('rmu', 1e-4, layer=3))
  says = "'mine' reads the states after layer 3 .*has 2.*options.layer to 2"
  with pytest.raises(ValueError, match=says):
    job.open_job(config, tmp_path / 'new')
  assert not (tmp_path / 'new').exists()
