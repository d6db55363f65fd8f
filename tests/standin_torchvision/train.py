"""A script that uses torch and torchvision as torchvision's references/classification/train.py does.

It is not torchvision's: only the calls between the script and the libraries are the same. Unlike torchvision's it seeds
each epoch, and writes down each epoch's first batch.
"""

import argparse
import os

import torch
import torch.utils.data
import torchvision
import utils
from sampler import RASampler
from torch import distributed as dist
from torch import nn
from torch.utils.data.dataloader import default_collate
from torchvision.transforms import v2


def train_one_epoch(model, criterion, optimizer, data_loader, model_ema):
    model.train()
    record = {"targets": []}
    for image, target in data_loader:
        state = torch.get_rng_state()
        output = model(image)
        loss = criterion(output, target)
        record = {"image": image, "rng": state, "loss": loss.item(), "output": output.detach()} | record
        record["targets"].append(target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        model_ema.update_parameters(model)
    return record


def evaluate(model, criterion, data_loader) -> float:
    model.eval()
    with torch.inference_mode():
        return sum(criterion(model(image), target).item() for image, target in data_loader)


def main(args) -> None:
    train, val = (os.path.join(args.data_path, half) for half in ("train", "val"))
    to_tensor = [v2.PILToTensor(), v2.ConvertImageDtype(torch.float)]
    dataset = torchvision.datasets.ImageFolder(train, v2.Compose([v2.RandomResizedCrop(32), *to_tensor]))
    dataset_test = torchvision.datasets.ImageFolder(val, v2.Compose([v2.Resize(32), *to_tensor]))
    rank, distributed = int(os.environ.get("RANK", 0)), "RANK" in os.environ
    if distributed:
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        sampler = torch.utils.data.distributed.DistributedSampler(dataset)
        if args.ra_sampler:
            sampler = RASampler(dataset, shuffle=True, repetitions=2)
        sampler_test = torch.utils.data.distributed.DistributedSampler(dataset_test, shuffle=False)
    else:
        sampler, sampler_test = (
            torch.utils.data.RandomSampler(dataset),
            torch.utils.data.SequentialSampler(dataset_test),
        )
    mixup = v2.MixUp(alpha=args.mixup_alpha or 1.0, num_classes=10)
    collate_fn = (lambda batch: mixup(*default_collate(batch))) if args.mixup_alpha else default_collate
    torch.manual_seed(1)
    data_loader = torch.utils.data.DataLoader(dataset, batch_size=8, sampler=sampler, collate_fn=collate_fn)
    data_loader_test = torch.utils.data.DataLoader(dataset_test, batch_size=8, sampler=sampler_test)
    model = torchvision.models.get_model(args.model, weights=None, num_classes=len(dataset.classes))
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(list(utils.parameters_of(model)), lr=0.01, momentum=0.9)
    model_without_ddp = model
    if distributed:
        model = nn.parallel.DistributedDataParallel(model)
        model_without_ddp = model.module
    model_ema = utils.ExponentialMovingAverage(model_without_ddp, 0.9)
    parts = {"model": model_without_ddp, "model_ema": model_ema, "optimizer": optimizer}
    if args.resume:
        checkpoint = torch.load(args.resume, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])
        args.start_epoch = checkpoint["epoch"] + 1
    for epoch in range(args.start_epoch, args.epochs):
        if distributed:
            sampler.set_epoch(epoch)
        torch.manual_seed(10 * epoch + rank)
        record = train_one_epoch(model, criterion, optimizer, data_loader, model_ema)
        record["test"] = [evaluate(network, criterion, data_loader_test) for network in (model, model_ema)]
        torch.save(record, f"{args.output_dir}/record.{rank}")
        if rank == 0:
            states = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**states, "epoch": epoch, "args": args}, f"{args.output_dir}/checkpoint.pth")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, default in {"data-path": "", "output-dir": ".", "resume": "", "model": "shufflenet_v2_x0_5"}.items():
        parser.add_argument(f"--{name}", default=default)
    for name, value in {"mixup-alpha": 0.0, "cutmix-alpha": 0.0, "epochs": 1, "start-epoch": 0}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    for name in ("ra-sampler", "test-only"):
        parser.add_argument(f"--{name}", action="store_true")
    main(parser.parse_args())
