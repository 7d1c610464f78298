"""From sources to packed streams, the same ones in every run of a configuration.

    streams = Streams(parse_data_config(table), tokenizer, processor)
    with streams.in_order(rank_streams(step, streams_per_step=16, rank=0, ranks=2)) as batches:
        for batch in batches:
            ...

| file | what |
|---|---|
| `config` | what a recipe says |
| `schedule` | weights over tokens seen; early, mid and late fusion |
| `records` | random access to files |
| `sources` | tasks, texts and conversations as sources |
| `drafts` | token ids and loss masks |
| `packing` | best-fit packing |
| `streams` | the mixture, block by block |
| `prefetch` | worker processes |
"""

from k25.train.data.config import DataConfig, parse_data_config
from k25.train.data.schedule import fusion
from k25.train.data.streams import Progress, Streams, rank_streams

__all__ = ["DataConfig", "Progress", "Streams", "fusion", "parse_data_config", "rank_streams"]
