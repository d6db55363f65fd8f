"""CS-KD with accelerate, on one process or many; ``prepare`` divides the batches.

Needs: skd_plugins[train].  Run: accelerate launch examples/with_accelerate.py [EPOCHS]
"""

import sys

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from glyphs import error, glyphs, network
from torch.utils.data import DataLoader

from skd_plugins import PairBatchSampler, create_task

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
accelerator = Accelerator()
set_seed(0)
data = glyphs(train=True)
task = create_task("cs_kd", network(), weight=0.5, device=accelerator.device)
loader = DataLoader(data, batch_sampler=PairBatchSampler(data.tensors[1], batch_size=31))
optimizer = torch.optim.SGD(task.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
method = task.method
step, optimizer, loader = accelerator.prepare(method, optimizer, loader)  # DDP around the whole step

for _ in range(epochs):
    step.train()
    for images, targets in loader:
        optimizer.zero_grad()
        accelerator.backward(step(images, targets)["loss"])
        optimizer.step()
if accelerator.is_main_process:
    print(error(method.model))
accelerator.end_training()
