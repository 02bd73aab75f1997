"""The masks of a job are the ones that its importances on disk describe."""

import pathlib
import types

import jax
import ml_collections
import numpy as np
import pytest
import toy

from mmu_jax import checkpoint
from mmu_jax import gradients
from mmu_jax import masks
from mmu_jax import saliency as saliency_lib
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax import workdir as workdir_lib
from mmu_jax.saliency import codes
from mmu_jax.stages import job as job_lib
from mmu_jax.stages import origins
from mmu_jax.stages.budgets import mask_specs as specs
from mmu_jax.stages.masking import importances
from mmu_jax.stages.masking import masks as masking
from mmu_jax.training import loop

pytestmark = pytest.mark.usefixtures('quick_compile')
FORGET = specs.Importance('forget', ())
PROTECTS = {'vision': ['vqa'], 'projector': ['vqa'], 'language': ['vqa', 'qa']}


def _config(**choices):
  """As much of a config as masks depend on."""
  saliency = dict(
    granularity='batch',
    batches=2,
    forget=(),
    preserve=dict(vqa=(), qa=()),
    protects=PROTECTS,
    threshold=1.0,
    normalize=True,
    ties_are_salient=False,
    keep='importances',
  )
  return ml_collections.ConfigDict(
    dict(
      seed=0,
      base={},
      vanilla={},
      checkpoints=dict(importance_every=0),
      runs=dict(one=dict(mask='topk'), two=dict(mask='literal')),
      saliency=saliency | choices,
    )
  )


@pytest.mark.parametrize('name', ['../x', '..', '/abs', 'a/b', ''])
def test_names_that_lead_elsewhere_have_no_folder(name, tmp_path):
  job = _job(tmp_path / 'job')
  for make in (
    lambda: masking.mask(job, name),
    lambda: importances.measure(job, specs.Importance(name, ())),
    lambda: importances.save_importance(job, specs.Importance(name, ()), {}, 1),
  ):
    with pytest.raises(ValueError, match='becomes a file'):
      make()
  assert not list(tmp_path.rglob('*'))


def _job(folder: pathlib.Path, **choices):
  """A job of the toy perceptron, without data."""
  model = types.SimpleNamespace(
    family='toy',
    abstract_params=jax.eval_shape(lambda: toy.params(0)),
    components=toy.COMPONENTS,
    partition_rules=((r'.*', jax.sharding.PartitionSpec()),),
  )
  mesh = sharding.make_mesh('')
  groups = ml_collections.ConfigDict()
  none = (None, None, None)
  config = _config(**choices)
  return job_lib.Job(config, folder, *none, model, groups, False, folder, mesh)


def _importances():
  """Importances with unused entries, of very different sizes."""
  made = {}
  for i, (name, scale) in enumerate(dict(forget=1, vqa=9, qa=0.1).items()):
    tree = toy.tree_like(toy.params(0), i, sign=False)
    unused = toy.random_mask(tree, 20 + i, share=0.5)
    made[name] = jax.tree.map(lambda x, k, c=scale: c * x * ~k, tree, unused)
  return made


def _measured(folder, **choices):
  """A job whose importances are on disk."""
  job = _job(folder, **choices)
  with jax.set_mesh(job.mesh):
    for name, tree in _importances().items():
      importances.save_importance(job, specs.Importance(name, ()), tree, 2)
  return job


def _make(job, kind):
  """A mask of a job, and its note."""
  with jax.set_mesh(job.mesh):
    packed = masking.mask(job, kind)
  note = checkpoint.read_note(job.folder / 'mask' / kind)
  return masks.unpack(packed, toy.params(0)), note


def _want(normalize, ties_are_salient=False, threshold=1.0):
  """The mask and the ties from trees in memory."""
  found = _importances()
  scores, ties = saliency_lib.component_saliency(
    found.pop('forget'),
    found,
    protects=PROTECTS,
    components=toy.COMPONENTS,
    normalize=normalize,
  )
  given = None if ties_are_salient else ties
  made = saliency_lib.mask_from_saliency(
    scores, threshold=threshold, ties=given
  )
  return made, ties


def _assert_same(got, want):
  np.testing.assert_array_equal(toy.vector(got), toy.vector(want))


@pytest.mark.parametrize('ties_are_salient', [False, True])
@pytest.mark.parametrize('kind', ['saliency', 'literal'])
@pytest.mark.parametrize('threshold', [0.5, 1.0])
def test_a_mask_is_the_one_of_the_same_importances_in_memory(
  tmp_path, kind, ties_are_salient, threshold
):
  choices = dict(threshold=threshold, ties_are_salient=ties_are_salient)
  got, note = _make(_measured(tmp_path, **choices), kind)
  want, ties = _want(kind == 'saliency', **choices)
  _assert_same(got, want)
  assert note['ties'] == masks.counts(ties, toy.COMPONENTS)
  assert note['normalize'] == (kind == 'saliency')
  assert 0.2 < note['density']['all'] < 0.8


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_an_importance_that_is_not_finite_is_not_kept(bad, tmp_path):
  job, tree = _job(tmp_path), _importances()['forget']
  leaves, structure = jax.tree.flatten(tree)
  leaves[0] = np.array(leaves[0])
  leaves[0][..., 0] = bad
  with jax.set_mesh(job.mesh):
    with pytest.raises(FloatingPointError, match="means of 'forget'"):
      importances.save_importance(job, FORGET, structure.unflatten(leaves), 2)
  assert not (tmp_path / 'importance' / 'forget' / '0').exists()


def test_controls_have_the_density_of_the_mask(tmp_path):
  job = _measured(tmp_path)
  (want, note), (top, _), (random, _) = (
    _make(job, kind) for kind in ('saliency', 'topk', 'random')
  )
  assert masks.density_by_leaf(random) == masks.density_by_leaf(want)
  assert 0.1 < masks.overlap(random, want) < 0.3  # by chance: 0.16
  shares = {k: v for k, v in note['density'].items() if k != 'all'}
  forget = _importances()['forget']
  _assert_same(top, saliency_lib.top_share(forget, shares, toy.COMPONENTS))


def test_no_leaf_of_an_importance_is_read_twice_for_a_mask(
  tmp_path, monkeypatch
):
  job, reads = _measured(tmp_path), []
  restore = checkpoint.restore_leaf

  def restore_leaf(folder, name, like):
    reads.append((folder.name, name))
    return restore(folder, name, like)

  monkeypatch.setattr(checkpoint, 'restore_leaf', restore_leaf)
  _make(job, 'saliency')
  names = tree_lib.flatten(toy.params(0))
  language = [n for n in names if n.startswith('language_model')]
  assert len(reads) == 2 * len(names) + len(language)
  assert len(set(reads)) == len(reads)


def test_a_log_ratio_takes_the_place_of_the_importances(
  tmp_path, monkeypatch, capsys
):
  job = _measured(tmp_path, keep='log_ratio')
  monkeypatch.setattr(masking, 'open_job', lambda *_, **__: job)
  for _ in range(2):  # the second call finds everything made
    made = masking.saliency(job.config, tmp_path)
    assert set(made) == {'saliency', 'topk', 'literal'}
    assert 'threshold 2: may change all 0.' in capsys.readouterr().out
    assert not (tmp_path / 'importance').exists()
  like = jax.tree.map(lambda x: x.astype(np.uint8), toy.params(0))
  found = checkpoint.restore(tmp_path / 'log_ratio', like).tree
  _assert_same(codes.to_mask(found), _want(normalize=True)[0])
  _assert_same(codes.to_mask(found, 2.0), _want(True, threshold=2.0)[0])
  note = checkpoint.read_note(tmp_path / 'log_ratio')
  sweep = note['density_by_threshold']
  assert len(sweep) == 9
  assert (
    sweep['1'] == checkpoint.read_note(tmp_path / 'mask/saliency')['density']
  )


@pytest.mark.parametrize(
  'choices, words',
  [
    (
      dict(threshold=1e30, normalize=False),
      r"the mask 'saliency' selects no weight \(may change all 0.000, .*"
      r'vision 0.000\), so that a masked turn would change nothing',
    ),
    (
      dict(threshold=1e-30, ties_are_salient=True),
      "'saliency' selects every weight .*vision 1.000.* as much as without it",
    ),
  ],
)
def test_a_mask_that_selects_nothing_or_everything_is_refused(
  choices, words, tmp_path, monkeypatch
):
  job = _measured(tmp_path, **choices)
  with jax.set_mesh(job.mesh):
    for kind in ('saliency', 'topk', 'random'):
      with pytest.raises(ValueError, match=words):
        masking.mask(job, kind)
    assert checkpoint.latest_step(tmp_path / 'mask' / 'saliency') is None
    # One that an earlier version has left is refused as well.
    with monkeypatch.context() as patch:
      patch.setattr(masking, '_check_selects', lambda *_: None)
      masking.mask(job, 'saliency')
    with pytest.raises(ValueError, match=words):
      masking.mask(job, 'saliency')


def _of_another_seed(job):
  """The same workdir, as a job of another world would have it."""
  return job._replace(world='another')


@pytest.mark.parametrize(
  'use',
  [
    lambda job: masking.mask(job, 'saliency'),
    lambda job: masking.mask(job, 'random'),
    lambda job: importances.measure(job, FORGET),
  ],
  ids=['a mask', 'a mask made from it', 'an importance'],
)
def test_a_part_of_another_world_is_refused_where_it_is_used(tmp_path, use):
  job = _measured(tmp_path)
  _make(job, 'saliency')
  with jax.set_mesh(job.mesh):
    use(job)
    with pytest.raises(ValueError, match='of another seed, dataset or model'):
      use(_of_another_seed(job))


def test_sums_of_another_world_are_not_gone_on_with(tmp_path):
  job, vanilla = _job(tmp_path), tmp_path / 'vanilla'
  folder = tmp_path / 'importance' / 'forget'
  workdir_lib.claim(folder, importances.settings(job, FORGET))
  note = origins.origin(job, folder, [vanilla])
  with jax.set_mesh(job.mesh):
    sums = gradients.zero_sums(toy.params(0), job.model.partition_rules)
    checkpoint.save(folder / loop.RUNNING, sums, note)
    with pytest.raises(ValueError, match='made from something else.*world'):
      importances._go_on(_of_another_seed(job), FORGET, None, 2, [vanilla])


def test_a_mask_of_the_config_has_its_density_and_importances_of_its_own(
  tmp_path,
):
  """Its preserve sets are of another loss; its controls are as dense."""
  job = _measured(tmp_path)
  own = dict(preserve_loss='margin', density=0.25)
  masks_ = dict(mine=own, mine_random=dict(kind='random', of='mine'))
  job.config.masks = ml_collections.ConfigDict(masks_)
  made = specs.spec(job.config, 'mine')
  used = specs.importances(job.config, made)
  found = _importances() | {'qa': _importances()['vqa']}
  assert used['forget'].own and not used['qa'].own
  with jax.set_mesh(job.mesh):
    for name, which in used.items():
      if not which.own:
        importances.save_importance(job, which, found[name], 2)
  got, note = _make(job, 'mine')
  for component, share in note['density'].items():
    assert share == pytest.approx(0.25, abs=0.06), component
  want, _ = _want(normalize=True)
  assert masks.overlap(got, want) < 0.9
  random, _ = _make(job, 'mine_random')
  assert masks.density_by_leaf(random) == masks.density_by_leaf(got)
  job.config.masks.mine.density = 0.5
  with pytest.raises(ValueError, match='density'):
    _make(job, 'mine')  # another mask of that name is in the workdir
