"""An importance is of the loss that its mask names."""

import pytest
import toy

from mmu_jax import losses
from mmu_jax.stages.masking import importances

pytestmark = pytest.mark.usefixtures('quick_compile')


@pytest.mark.parametrize('loss', importances.LOSSES)
def test_an_importance_is_of_its_loss(loss):
  batch, params = toy.batch(3), toy.params(4)
  made = importances._loss(toy.forward, loss)
  logits = toy.forward(params, batch)
  of = {'answers': losses.nll, 'margin': losses.logit_margin}[loss]
  want = of(logits, batch['targets'], batch['weights'])
  assert float(made(params, batch)) == pytest.approx(float(want), rel=1e-6)
  assert importances._loss(toy.forward, loss) is made  # compiles once
