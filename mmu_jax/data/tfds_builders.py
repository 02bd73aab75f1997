"""The datasets as builders of TensorFlow Datasets (TFDS), without TensorFlow.

Importing this module registers them::

  import tensorflow_datasets as tfds
  import mmu_jax.data.tfds_builders

  builder = tfds.builder('mmu_clear/forget05', data_dir='tfds')
  builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(manual_dir='CLEAR'))
  rows = builder.as_data_source('vqa_forget')
  rows[0]['question'], rows[0]['images'][0].shape

Nothing is downloaded: the benchmarks are read from ``manual_dir``, the folder
of parquet files as the hub has them. Splits are those to train on
(``vqa/forget`` is ``vqa_forget``) and the tasks, in the order of their rows.
Every row holds its picture, so a picture that is asked about twenty times is
written twenty times; ``prepared.make_tfds`` keeps it once.

Files are array_records, which TFDS reads without TensorFlow. Preparing twice
gives the same bytes. A preparation that was killed leaves a folder
``incomplete.*`` and begins anew; one that is finished is found.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import os
from typing import Any

import tensorflow_datasets as tfds

from mmu_jax.data import datasets
from mmu_jax.data.readers import prepared
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError


@dataclasses.dataclass(eq=False)
class Variant(tfds.core.BuilderConfig):
  """A choice of options, with the folder that it is prepared into.

  For options that no builder names, give a variant with a name of your own::

    variant = Variant(name='text', options=dict(ratio=10, text='training'))
    tfds.builder('mmu_mllmu_bench', config=variant, data_dir=...)

  Attributes:
    options: options of the dataset, see its function in ``datasets``;
      ``seed`` is among them, 0 if it is not given, and ``path`` takes the place
      of ``manual_dir``.
  """

  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class RowsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Writes a dataset of ``datasets.DATASETS``; subclasses say which.

  Attributes:
    dataset: its name.
  """

  VERSION = tfds.core.Version('2.0.0')
  dataset = ''

  def __init__(self, *, file_format: Any = 'array_record', **options: Any):
    """As any builder; the format is one that needs no TensorFlow."""
    super().__init__(file_format=file_format, **options)

  def download_and_prepare(
    self,
    *,
    download_config: tfds.download.DownloadConfig | None = None,
    **options: Any,
  ) -> None:
    """Writes the dataset, or finds it written.

    Args:
      download_config: its ``manual_dir`` is the folder of parquet files; its
        ``download_mode`` can ask to write a dataset again.
      **options: options of TFDS.

    Raises:
      FileNotFoundError: if the folder lacks a file.
      ValueError: if the dataset was written with other options, or a row of it
        is broken: see the dataset's function.
    """
    config = download_config or tfds.download.DownloadConfig()
    if self.is_prepared() and not config.download_mode.overwrite_dataset:
      self._check_same()
    super().download_and_prepare(download_config=config, **options)

  def _info(self) -> tfds.core.DatasetInfo:
    """The metadata known before anything is read."""
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=prepared.features(),
      disable_shuffling=True,  # or its hash would place a row
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
    """Loads the dataset, and notes the names of its splits."""
    options = self._options()
    if self.MANUAL_DOWNLOAD_INSTRUCTIONS and 'path' not in options:
      options['path'] = os.fspath(dl_manager.manual_dir)
    seed = options.pop('seed')
    data = datasets.load(self.dataset, seed, **options)
    noted = prepared.noted(data)
    self.info.metadata.update(options=self._noted(), **noted)
    names = noted['splits']
    rows = {names['train'][split]: rows for split, rows in data.train.items()}
    rows |= {names['tasks'][name]: t.rows for name, t in data.tasks.items()}
    return {  # TFDS has no split without rows
      name: self._generate_examples(rows[name]) for name in rows if rows[name]
    }

  def _generate_examples(
    self, rows: Sequence[Row]
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields key and example of every row."""
    for example in prepared.to_examples(rows):
      yield example['key'], example

  def _options(self) -> dict[str, Any]:
    """The options of this variant, with a seed."""
    return {'seed': 0, **getattr(self.builder_config, 'options', {})}

  def _noted(self) -> dict[str, Any]:
    """The options that the files depend on, as JSON has them."""
    return {
      name: os.fspath(value) if isinstance(value, os.PathLike) else value
      for name, value in sorted(self._options().items())
      if name not in ('path', 'train_path', 'processor')
    }

  def _check_same(self) -> None:
    """Raises if the folder was written with other options."""
    found = self.info.metadata.get('options')
    if found != self._noted():
      raise UserError(
        f'{self.data_path} was prepared with the options {found}, and now '
        f'they are {self._noted()}. Give this variant another name, or '
        'another data_dir, or delete the folder.'
      )


class MmuPeople(RowsBuilder):
  """Fictional people with drawn portraits: see ``world.make_world``."""

  dataset = 'people'
  BUILDER_CONFIGS = [
    Variant(name='full', description='Sixty people, six to be forgotten.')
  ]


class MmuMllmuBench(RowsBuilder):
  """MLLMU-Bench, 500 people who do not exist: arXiv 2410.22108."""

  dataset = 'mllmu_bench'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Get MLLMMU/MLLMU-Bench from the hub (a folder of parquet files for each '
    'config: Full_Set, ft_Data, forget_5, ...) and give its folder: '
    "DownloadConfig(manual_dir='MLLMU-Bench')."
  )
  BUILDER_CONFIGS = [
    Variant(
      name=f'forget_{ratio}',
      description=f'{ratio} % of the people are to be forgotten.',
      options={'ratio': ratio},
    )
    for ratio in (5, 10, 15)
  ]


class MmuClear(RowsBuilder):
  """CLEAR, 200 authors who do not exist, with pictures: arXiv 2410.18057."""

  dataset = 'clear'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'Get therem/CLEAR from the hub (a folder of parquet files for each '
    'config: forget05, forget05+tofu, retain95, ...) and give its folder: '
    "DownloadConfig(manual_dir='CLEAR')."
  )
  BUILDER_CONFIGS = [
    Variant(
      name=f'forget{ratio:02d}',
      description=f'{ratio} % of the authors are to be forgotten.',
      options={'ratio': ratio},
    )
    for ratio in (1, 5, 10)
  ]
