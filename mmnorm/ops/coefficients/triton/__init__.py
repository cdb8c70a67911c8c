"""The steps of the coefficients as Triton kernels, each step a node of autograd.

On a GPU plain operators cost their launches, some twenty for a pool, which is more than the passes over a small map.
Here a step is one launch forward and one backward, two for the pool. So of a layer in training mode are, beside the
passes over the data, and beside the ratios, which are plain operators,

| layer | forward | backward |
| --- | --- | --- |
| SN | 2: pool, mix | 3: mix, pool |
| EN | 3: pool, correlate, mix | 4: mix, correlate, pool |
| ILM | 3: pool, group moments, mix | 4: mix, group moments, pool |

and one sum of PyTorch's backward, where gradients of the ratios come in parts. With a cumulative average of BN's
statistics (momentum None) the number of batches is counted by a launch before.

There are no atomics, nothing is tuned at run time, and the host waits for nothing: results are the same, bit by bit,
each time, and a CUDA graph can hold all of it. Offsets have 64 bits. Nothing must fit into one program, which walks
through what is larger; but sums over the samples are each of one program, so that samples by the million are slow.
"""

from .mixing import correlate, mix_outputs, mix_statistics, rescale
from .pools import group_moments, pool

KERNELS = {
    'pool': pool,
    'group_moments': group_moments,
    'mix_statistics': mix_statistics,
    'mix_outputs': mix_outputs,
    'correlate': correlate,
    'rescale': rescale,
}
