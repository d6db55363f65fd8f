"""SD-Dropout in Hugging Face's Trainer; a method with pairs would get its batches from `get_train_dataloader`.

Needs: skd_plugins, transformers, accelerate.  Run: python examples/with_transformers.py [EPOCHS]
"""

import sys
import tempfile

import torch
from glyphs import error, glyphs, network
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments, set_seed

from skd_plugins import PairBatchSampler, create_task

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20


class SelfDistilling(Trainer):
    """Its model is the method, whose result has the loss."""

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        result = model(inputs["images"], inputs["labels"])
        return (result["loss"], result) if return_outputs else result["loss"]

    def get_train_dataloader(self) -> DataLoader:
        """``[anchors | pairs]`` for CS-KD; without a method that pairs, leave this out."""
        sampler = PairBatchSampler(self.train_dataset.tensors[1], self.args.per_device_train_batch_size)
        loader = DataLoader(self.train_dataset, batch_sampler=sampler, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)


def collate(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Batches as a dictionary, as the Trainer wants them."""
    images, labels = zip(*samples, strict=True)
    return {"images": torch.stack(images), "labels": torch.stack(labels)}


set_seed(0)
method = create_task("sd_dropout", network(), base="cs_kd", weight=0.1).method
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder, num_train_epochs=epochs, per_device_train_batch_size=31, learning_rate=3e-3, weight_decay=0.05,
        save_strategy="no", report_to=[], remove_unused_columns=False, disable_tqdm=True,
    )  # fmt: skip
    SelfDistilling(method, arguments, train_dataset=glyphs(train=True), data_collator=collate).train()
print(error(method.model))
