"""Beside the script, which imports it by name."""

import torch


class ExponentialMovingAverage(torch.optim.swa_utils.AveragedModel):
    def __init__(self, model, decay) -> None:
        super().__init__(model, "cpu", lambda old, new, count: decay * old + (1 - decay) * new, use_buffers=True)


def parameters_of(module):
    yield from module.parameters(recurse=False)
    for child in module.children():
        yield from parameters_of(child)
