"""Importances and masks are those of the published code.

The mask of a near-tie (ratio 1 to 1e-4) may differ, and that of the biases of
CLIP's keys, whose gradient is rounding noise.
"""

import numpy as np
import published
import pytest

pytestmark = pytest.mark.usefixtures('quick_compile')
IMPORTANCES = {
  'fisher_vision_forget': published.FORGET,
  'fisher_vision_preserve': published.RETAIN,
  'fisher_language_forget': published.FORGET,
  'fisher_language_preserve': published.RETAIN_AND_TEXT,
}
SIZES = {'vision': 31_040, 'language': 44_784}


@pytest.mark.parametrize('file', IMPORTANCES)
def test_every_importance_is_equal_to_1e_5_of_its_norm(file):
  found = published.importance(IMPORTANCES[file])
  for entry in published.entries(found, file):
    if published.is_noise(entry.name):
      assert entry.got.max() < 1e-16 and entry.want.max() < 1e-16
      continue
    error = np.linalg.norm(entry.got - entry.want)
    assert error <= 1e-5 * np.linalg.norm(entry.want), entry.name
    np.testing.assert_array_equal(entry.got == 0, entry.want == 0)


def _published_ratio(component):
  """Hub name -> the ratio of the published importances."""
  forget, preserve = (
    {
      e.name: e.want
      for e in published.entries(
        published.model().params, f'fisher_{component}_{kind}'
      )
    }
    for kind in ('forget', 'preserve')
  )
  return {n: (forget[n] + 1e-15) / (preserve[n] + 1e-15) for n in forget}


@pytest.mark.parametrize('component', SIZES)
def test_masks_differ_in_near_ties_and_noise_alone(component):
  mask, _ = published.mask()
  ratio = _published_ratio(component)
  compared = different = 0
  for entry in published.entries(mask, f'mask_{component}'):
    compared += entry.want.size
    differs = entry.got != entry.want.astype(bool)
    if not published.is_noise(entry.name):
      near_tie = np.abs(np.log(ratio[entry.name])) < 1e-4
      assert not np.any(differs & ~near_tie), entry.name
      different += int(differs.sum())
  assert compared == SIZES[component]
  assert different == 0  # measured; a near-tie may change with the compiler


def test_the_tensors_without_a_published_mask_have_no_gradient():
  meta = published.META['mask']
  assert not meta['language']['int0_names']
  without = meta['vision']['int0_names']
  assert without == published.META['grad_none']['forget_0']
  found = published.tensors(published.importance(published.RETAIN))
  assert not any(found[name].any() for name in without)


def _changed(saliency):
  """How many entries of the published masks another choice changes."""
  mask, _ = published.mask(saliency)
  return {
    component: sum(
      int((e.got != e.want.astype(bool)).sum())
      for e in published.entries(mask, f'mask_{component}')
      if not published.is_noise(e.name)
    )
    for component in SIZES
  }


def test_without_the_tie_rule_the_mask_lacks_the_unused_tokens():
  saliency = published.config().saliency
  saliency.ties_are_salient = False
  assert _changed(saliency) == {'vision': 0, 'language': 1440}


def test_without_the_plain_ratio_the_mask_is_another():
  saliency = published.config().saliency
  saliency.normalize = True
  changed = _changed(saliency)
  assert changed['vision'] > 300 and changed['language'] > 400
