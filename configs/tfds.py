"""A dataset that was prepared as a TFDS builder, from its folder.

  mmu pipeline --config=configs/tfds.py --workdir=runs/tfds \
      --config.data.path=tfds/mmu_clear/forget05/1.0.0 \
      --config.model.path=llava-1.5-7b-hf
  mmu pipeline --config=configs/tfds.py:fast --workdir=runs/fast \
      --config.data.path=tfds/mmu_clear/forget05/1.0.0

The path is the folder of one version: it has a `dataset_info.json`. Ratio and
text were chosen when it was prepared. Rounds suit 25 pictures to forget of
500, as MLLMU-Bench has at 5 %: set `config.vanilla.rounds` and
`config.unlearn.rounds` to a quarter of the pictures. CLEAR's own config also
teaches the vanilla model what is known in text.
"""

import importlib.util
import pathlib

# A config file is found by its path, and so is the one beside it.
_spec = importlib.util.spec_from_file_location(
  'benchmark', pathlib.Path(__file__).with_name('benchmark.py')
)
benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(benchmark)


def get_config(variant=''):
  """Returns the config; the variant is '' or 'fast'."""
  name, _ = benchmark.parse(variant, ())
  if name == 'paper_exact':
    raise ValueError(
      'paper_exact is about the files of a benchmark. Use '
      'configs/mllmu_bench.py or configs/clear.py.'
    )
  data = dict(name='tfds', path='', processor='')
  config = benchmark.make(data, forget=25, retain=475, questions=16)
  if name == 'fast':
    benchmark.make_fast(config)
  return config
