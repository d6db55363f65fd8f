"""SD-Dropout on CS-KD in a LightningModule.

Needs: skd_plugins, lightning.  Run: python examples/with_lightning.py [EPOCHS]
"""

import sys

import lightning as L
import torch
from glyphs import error, glyphs, network
from torch.utils.data import DataLoader

from skd_plugins import PairBatchSampler, create_task

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20


class SelfDistilled(L.LightningModule):
    """The method is the module that is trained; its ``model`` is the plain network."""

    def __init__(self) -> None:
        super().__init__()
        self.method = create_task("sd_dropout", network(), base="cs_kd", weight=0.1).method

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        result = self.method(*batch)
        self.log_dict({key: value for key, value in result.items() if value.ndim == 0})
        return result["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)


L.seed_everything(0)
data, module = glyphs(train=True), SelfDistilled()
trainer = L.Trainer(
    max_epochs=epochs, logger=False, enable_checkpointing=False, log_every_n_steps=10,
    use_distributed_sampler=False,  # on several processes give the sampler rank and world
)  # fmt: skip
trainer.fit(module, DataLoader(data, batch_sampler=PairBatchSampler(data.tensors[1], batch_size=31)))
print(error(module.method.model))
