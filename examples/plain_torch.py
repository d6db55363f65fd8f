"""CS-KD and SD-Dropout in a plain loop: the terms are functions, the pairs come from a batch sampler.

Needs: skd_plugins without extras.  Run: python examples/plain_torch.py [EPOCHS]
"""

import sys

import torch
import torch.nn.functional as F
from glyphs import error, glyphs, network
from torch.utils.data import DataLoader

from skd_plugins import PairBatchSampler
from skd_plugins.losses import cs_kd_loss, sd_dropout_loss

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
torch.manual_seed(0)
data, model = glyphs(train=True), network()
loader = DataLoader(data, batch_sampler=PairBatchSampler(data.tensors[1], batch_size=31))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))

for _ in range(epochs):
    model.train()
    for images, targets in loader:
        anchors, pairs = images.chunk(2)
        features = model.forward_head(model.forward_features(anchors), pre_logits=True)
        logits = model.fc(features)
        with torch.no_grad():
            pair_logits = model(pairs)
        loss = F.cross_entropy(logits, targets[:31])
        loss = loss + 0.5 * cs_kd_loss(logits, pair_logits) + 0.1 * sd_dropout_loss(features, model.fc)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
print(error(model))
