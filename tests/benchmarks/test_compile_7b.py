"""7B training steps compile from shapes alone, whatever the depth."""

import compile_7b
import pytest


@pytest.mark.slow
@pytest.mark.parametrize('family, layers', [('llava', 32), ('qwen2_vl', 28)])
def test_a_7b_step_compiles_for_eight_devices_without_weights(family, layers):
  found = compile_7b.measure(family, layers, 'fsdp=8')
  # Parameters and two moments in float32, and a bit of mask for each.
  whole = found['billions'] * 1e9 * (12 + 1 / 8) / 2**30
  # Norms and biases are copied to every device.
  assert found['arguments_gib'] == pytest.approx(whole / 8, rel=0.02)
  # All but mask and batch is donated.
  assert found['donated_gib'] > 0.98 * found['arguments_gib']
  assert found['temporaries_gib'] < 16
