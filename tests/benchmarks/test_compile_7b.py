"""7B training steps compile from shapes alone, whatever the depth."""

import compile_7b
import pytest

from mmu_jax import models

pytestmark = pytest.mark.usefixtures('quick_compile')  # the same memory


@pytest.mark.slow
@pytest.mark.parametrize('family', models.MODELS)
def test_a_7b_step_compiles_for_eight_devices_without_weights(family):
  layers = models.MODELS[family].config().text_config.num_hidden_layers
  found = compile_7b.measure(family, layers, 'fsdp=8')
  # Parameters and two moments in float32, and a bit of mask for each.
  whole = found['billions'] * 1e9 * (12 + 1 / 8) / 2**30
  # Norms and biases are copied to every device.
  assert found['arguments_gib'] == pytest.approx(whole / 8, rel=0.02)
  # All but mask and batch is donated.
  assert found['donated_gib'] > 0.98 * found['arguments_gib']
  # The pictures of LLaVA-NeXT take 2,928 tokens, five times LLaVA's; Qwen3-VL
  # has the widest decoder with a large vocabulary, and states of its tower.
  large = family in ('llava_next', 'qwen3_vl')
  assert found['temporaries_gib'] < (12 if large else 10)
  # Each device has the activations of its own rows alone.
  assert not found['logits_of_all_rows']


@pytest.mark.parametrize('family', models.MODELS)
def test_the_program_of_a_7b_step_does_not_grow_with_depth(family):
  layers = models.MODELS[family].config().text_config.num_hidden_layers
  sizes = [
    len(compile_7b.lower(models.build(made), 'fsdp=8').as_text())
    for made in (compile_7b.config(family, n) for n in (2, layers))
  ]
  assert sizes[1] == pytest.approx(sizes[0], rel=0.02)
