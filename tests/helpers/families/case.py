"""What the tests ask about a family."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from families.pictures import Pictures

Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """One family of models.

  Attributes:
    name: key in ``models.MODELS``.
    options: a tiny model of ``models.from_options``, heads for four devices.
    room: room of a row of that model for one picture.
    repeats: whether one feature may stand for several tokens of a row.
    hub_config: ``config.json`` of a tiny checkpoint.
    decoder_at: field of ``config.json`` with the decoder's sizes; '' if they
      stand at the top.
    shapes: ``shapes(tied) -> {hub name: shape}`` of that checkpoint, written
      out from the lists on the hub and not taken from our tables.
    renamed: ``renamed(hub name, writer)``, for the writers '4.52' and '5'.
    transposed: number of its tensors that are matrices or convolutions.
    decoder: beginning of the decoder's hub names.
    patches: hub name of the convolution that cuts patches.
    torch_class: name of the class in transformers.
    torch_config: ``torch_config(seed, **changes)``, random sizes.
    torch_seeds: kind of model -> seed that draws one, for saved checkpoints.
    torch_names: beginning of a name in torch -> the same on the hub.
    flatten_config: from the config.json that transformers 5 writes to the
      older one on the hub.
    varies: functions of our config with several values over the seeds.
    pictures: how rows of the reference hold pictures.
    length: tokens of their rows, padded.
    one_more: regex over names in torch, of norms that add 1 to their weight.
  """

  name: str
  options: Mapping[str, Any]
  room: int
  repeats: bool = False
  hub_config: Mapping[str, Any]
  decoder_at: str
  shapes: Callable[[bool], Shapes]
  renamed: Callable[[str, str], str]
  transposed: int
  decoder: str
  patches: str
  torch_class: str
  torch_config: Callable[..., Any]
  torch_seeds: Mapping[str, int]
  torch_names: Mapping[str, str]
  flatten_config: Callable[[dict[str, Any]], dict[str, Any]] = dict
  varies: tuple[Callable[[Any], Any], ...]
  pictures: Pictures
  length: int = 72
  one_more: str = '(?!)'

  def decoder_fields(self, **fields: Any) -> dict[str, Any]:
    """Changes of ``config.json`` that set fields of the decoder."""
    return {self.decoder_at: fields} if self.decoder_at else fields
