"""What torchvision's script calls its sampler of repeated augmentation."""

import torch.distributed as dist
from torch.utils.data import Sampler


class RASampler(Sampler):
    def __init__(self, dataset, shuffle, seed=0, repetitions=3):
        self.dataset, self.shuffle, self.seed, self.repetitions, self.epoch = dataset, shuffle, seed, repetitions, 0
        self.num_replicas, self.rank = dist.get_world_size(), dist.get_rank()

    def set_epoch(self, epoch):
        self.epoch = epoch
