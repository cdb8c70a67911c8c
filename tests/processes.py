"""Processes that need not import everything again: several of one gloo group, with a limit on time; scripts."""

import multiprocessing
import os
import runpy
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

# Autograd does not survive a fork, and each spawned process would import everything again. What is missing is left out.
multiprocessing.set_forkserver_preload(
    ['mmnorm', 'mmengine.runner', 'mmcv.ops', 'mmseg.apis', 'mmdet.apis', 'mmpretrain.apis', 'matplotlib.pyplot']
)


def run_processes(function, world_size, *args, seconds=180):
    """What ``function(rank, *args)`` returns in each of ``world_size`` processes; it must be importable."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        context = mp.start_processes(
            _process,
            (function, world_size, folder, seconds, args),
            nprocs=world_size,
            join=False,
            start_method='forkserver',
        )
        try:
            while not context.join(max(started + seconds - time.monotonic(), 0.1)):
                left = started + seconds - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f'processes still waited after {seconds} s: collectives are out of step')
        finally:
            for process in context.processes:
                process.kill()
                process.join()
        return [torch.load(Path(folder) / f'{rank}.pt', weights_only=False) for rank in range(world_size)]


def run_script(script, arguments, folder, environment):
    """Run a script as ``python SCRIPT ARGUMENTS`` would in ``folder``, where everything is imported already.

    Returns:
        Its exit status, and all that it wrote.
    """
    with tempfile.TemporaryDirectory() as out:
        log = Path(out) / 'log.txt'
        process = multiprocessing.get_context('forkserver').Process(
            target=_script, args=(script, [str(argument) for argument in arguments], folder, environment, log)
        )
        process.start()
        process.join()
        return process.exitcode, log.read_text(encoding='utf-8')


def _script(script, arguments, folder, environment, log):
    with log.open('w', encoding='utf-8') as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    os.chdir(folder)
    sys.argv = [script, *arguments]
    # Not what pytest has put there.
    tests = str(Path(__file__).parent)
    sys.path[:] = [str(Path(script).parent), *(path for path in sys.path if not path.startswith(tests))]
    runpy.run_path(script, run_name='__main__')


def why_no_fsdp():
    """What FullyShardedDataParallel says to PyTorch's own BatchNorm on the CPU, in these processes; None if nothing."""
    try:
        FullyShardedDataParallel(nn.BatchNorm1d(2), device_id=torch.device('cpu'))(torch.ones(2, 2))
    except Exception as error:
        return f'PyTorch {torch.__version__} shards nothing on the CPU, nn.BatchNorm neither: {error!r}'


def _process(rank, function, world_size, folder, seconds, args):
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', f'file://{folder}/store', timedelta(seconds=seconds), world_size=world_size, rank=rank
    )
    torch.save(function(rank, *args), Path(folder) / f'{rank}.pt')
    # Nobody leaves before all have arrived: the store goes with the last.
    dist.barrier()
    dist.destroy_process_group()
