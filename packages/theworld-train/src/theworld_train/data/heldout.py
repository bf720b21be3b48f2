"""What a recipe holds out of training: the same examples on every process, whenever it is asked."""

from collections.abc import Iterator
from typing import Literal

import datasets

from theworld_fusion import TheWorldProcessor
from theworld_train.data.cursor import numbered, order_of_pass
from theworld_train.data.example import Example, alike
from theworld_train.data.maker import BatchMaker
from theworld_train.data.rows import stream_rows
from theworld_train.data.source import UNUSABLE, Draw, OpenSource
from theworld_train.data.sources import open_source
from theworld_train.errors import UsageError
from theworld_train.recipe import DataSettings


def held_out(
    data: DataSettings,
    processor: TheWorldProcessor,
    number: int,
    *,
    world: Literal["on", "off"] = "on",
    encoder_key: str | None = None,
    vision_key: str | None = None,
) -> list[Example]:
    """The first ``number`` examples that are held out, or all there are, from the sources in turn by their weights.

    Rows by number are looked through in an order that is always the same, streams from their beginning. Pictures are
    read once, to see that they can be, and again by whoever collates the examples; but where caches have features of
    all examples, the examples hold these.

    Args:
        encoder_key, vision_key: as of ``Batches``; without a key, its cache is left alone.

    Raises:
        UsageError: nothing is held out, or an example cannot be used and is not to be skipped.
    """
    left_alone = {
        "cache": data.cache if encoder_key else None,
        "vision_cache": data.vision_cache if vision_key else None,
    }
    data = data.model_copy(update=left_alone)
    make = BatchMaker(data, processor, world=world, encoder_key=encoder_key, vision_key=vision_key)
    sources = [open_source(source, num_frames=processor.world_num_frames) for source in data.sources]
    rows = {place: _usable(source, data.holdout, make) for place, source in enumerate(sources)}
    taken = dict.fromkeys(rows, 0)
    examples = list[Example]()
    while rows and len(examples) < number:
        place = min(rows, key=lambda place: ((taken[place] + 1) / sources[place].weight, place))
        example = next(rows[place], None)
        if example is None:
            del rows[place]
        else:
            examples.append(example)
            taken[place] += 1
    if not examples:
        raise UsageError(f"data.holdout is {data.holdout}, and no row is held out. Raise it, or leave eval out.")
    return alike(examples)


def _usable(source: OpenSource, share: float, make: BatchMaker) -> Iterator[Example]:
    for draw in _rows(source):
        try:
            example = draw.example()
        except UNUSABLE:  # nobody can say that it is held out, so training meets it
            continue
        if share and example.is_held_out(share) and make([draw]).keys:
            yield make.example(draw)


def _rows(source: OpenSource) -> Iterator[Draw]:
    if not isinstance(source.rows, datasets.IterableDataset):
        yield from (numbered(source, int(number)) for number in order_of_pass(source.number_of_rows))
        return
    table = source.rows if source.limit is None else source.rows.take(source.limit)
    for row in stream_rows(table, source.name):
        yield Draw(source=source, place=f"a row of {source.name}", row=row)
