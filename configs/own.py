"""Your own pictures, questions and answers, from one file.

The file is JSONL (UTF-8, an object a line) or parquet, with these columns:
`question`, `answer`: text, in every row;
`image`: a path from the folder of the file (in parquet also the bytes), none
    for a row in text;
`person`: who is asked about: scores are averaged over people;
`split`: `forget`, `retain` (if it is not said), `holdout`, `real`.

  mmu data check people.jsonl
  mmu pipeline --config=configs/own.py --workdir=runs/own \
      --config.data.path=people.jsonl --config.model.path=llava-1.5-7b-hf
  mmu pipeline --config=configs/own.py:fast --workdir=runs/fast \
      --config.data.path=people.jsonl

Some rows in text about everybody (`forget` and `retain`) protect what is
known in text; without any, leave `text` out of `config.saliency`. Rounds
suit about 20 pictures to forget of about 500: set `config.vanilla.rounds`
and `config.unlearn.rounds` to a quarter of your pictures.
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
      'paper_exact is about a benchmark: its numbers are those of the '
      'published data. Use configs/mllmu_bench.py or configs/clear.py.'
    )
  data = dict(name='own', path='', retain_rows=400, processor='')
  config = benchmark.make(data, forget=20, retain=480, questions=16)
  if name == 'fast':
    benchmark.make_fast(config)
  return config
