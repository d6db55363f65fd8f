"""A script that uses timm.task and timm.data as timm's train.py does, small enough for tests.

It is not timm's script: only the calls between the script and the library are the same. Unlike timm's it can write
down the batches it gets (``--record``).
"""

import argparse
import sys
from pathlib import Path

import torch
from timm import utils
from timm.data import FastCollateMixup, Mixup, create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models import create_model
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask, LogitDistillationTask, load_task_ema_checkpoint, resume_task_checkpoint

parser = argparse.ArgumentParser()
DEFAULTS = {
    "dataset": "", "val-split": "validation", "model": "resnet10t", "num-classes": 10, "img-size": 32, "epochs": 1,
    "lr": 0.05, "seed": 42, "smoothing": 0.0, "color-jitter": 0.4, "hflip": 0.5, "mixup": 0.0, "cutmix": 0.0,
    "mixup-mode": "batch", "mixup-off-epoch": 0, "resume": "", "device": "cpu",
    "vflip": 0.0, "reprob": 0.0, "remode": "pixel",
    "recount": 1, "aug-repeats": 0.0,
}  # fmt: skip
for name, default in DEFAULTS.items():
    parser.add_argument(f"--{name}", type=type(default), default=default)
for name in ("resplit", "use-multi-epochs-loader", "no-prefetcher", "model-ema"):
    parser.add_argument(f"--{name}", action="store_true")
for name in ("data-dir", "aa", "kd-model-name", "torchcompile", "output", "record"):
    parser.add_argument(f"--{name}")
parser.add_argument("--grayscale-prob", type=float)  # None, as in timm's
parser.add_argument("-b", "--batch-size", type=int, default=8)
parser.add_argument("--scale", type=float, nargs="+", default=[0.6, 1.0])
parser.add_argument("--model-kwargs", nargs="*", default={}, action=utils.ParseKwargs)


def main() -> None:
    args = parser.parse_args()
    device = utils.init_distributed_device(args)
    utils.random_seed(args.seed, args.rank)
    model = create_model(args.model, num_classes=args.num_classes, **args.model_kwargs).to(device)

    # ---- data ----
    data = {"root": args.data_dir, "class_map": "", "download": False, "batch_size": args.batch_size}
    dataset_train = create_dataset(
        args.dataset, split="train", is_training=True, seed=args.seed, repeats=0, input_img_mode="RGB", **data
    )
    dataset_eval = create_dataset(args.dataset, split=args.val_split, is_training=False, input_img_mode="RGB", **data)
    mixing = args.mixup > 0 or args.cutmix > 0
    collate_fn = mixup_fn = None
    if mixing:
        settings = {
            "mixup_alpha": args.mixup, "cutmix_alpha": args.cutmix, "mode": args.mixup_mode,
            "label_smoothing": args.smoothing, "num_classes": args.num_classes,
        }  # fmt: skip
        collate_fn, mixup_fn = (None, Mixup(**settings)) if args.no_prefetcher else (FastCollateMixup(**settings), None)
    common = {
        "input_size": (3, args.img_size, args.img_size), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0),
        "num_workers": 1, "img_dtype": torch.float32, "device": device, "distributed": args.distributed,
        "use_prefetcher": not args.no_prefetcher,
    }  # fmt: skip
    loader_train = create_loader(
        dataset_train, batch_size=args.batch_size, is_training=True, re_split=args.resplit, scale=args.scale,
        hflip=args.hflip, color_jitter=args.color_jitter, auto_augment=args.aa, interpolation="bilinear",
        collate_fn=collate_fn, use_multi_epochs_loader=args.use_multi_epochs_loader, vflip=args.vflip,
        grayscale_prob=args.grayscale_prob, re_prob=args.reprob, re_mode=args.remode, re_count=args.recount,
        num_aug_repeats=args.aug_repeats, **common,
    )  # fmt: skip
    loader_eval = create_loader(dataset_eval, batch_size=10, is_training=False, crop_pct=1.0, **common)

    # ---- task, optimizer, checkpoints ----
    criterion = torch.nn.CrossEntropyLoss()
    if mixing:
        criterion = SoftTargetCrossEntropy()
    elif args.smoothing:
        criterion = LabelSmoothingCrossEntropy(args.smoothing)
    verbose = utils.is_primary(args)
    if args.kd_model_name:
        task = LogitDistillationTask(student_model=model, teacher_model=args.kd_model_name, criterion=criterion)
    else:
        task = ClassificationTask(model=model, criterion=criterion, device=device, dtype=None, verbose=verbose)
    optimizer = create_optimizer_v2(task.get_trainable_module(), opt="sgd", lr=args.lr, momentum=0.9)
    start = 0
    if args.resume:
        start = resume_task_checkpoint(task, args.resume, optimizer=optimizer, log_info=False)
    if args.model_ema:
        task.setup_ema(decay=0.9)
        if args.resume:
            load_task_ema_checkpoint(task, args.resume)
    if args.torchcompile:
        task.compile(backend=args.torchcompile, mode=None)
    if args.distributed:
        task.prepare_distributed(device_ids=[device])
    saver = None
    if args.output and utils.is_primary(args):
        Path(args.output).mkdir(parents=True, exist_ok=True)
        folders = {"checkpoint_dir": args.output, "recovery_dir": args.output}
        saver = utils.CheckpointSaver(task.get_trainable_module(), optimizer, args, task=task, **folders)

    # ---- epochs ----
    record = {"argv": sys.argv, "train": [], "eval": [], "loss": [], "top1": [], "length": len(loader_train)}
    for epoch in range(start, args.epochs):
        if hasattr(getattr(loader_train, "batch_sampler", None), "set_epoch"):
            loader_train.batch_sampler.set_epoch(epoch)
        elif hasattr(loader_train.sampler, "set_epoch"):
            loader_train.sampler.set_epoch(epoch)
        if args.mixup_off_epoch and epoch >= args.mixup_off_epoch and loader_train.mixup_enabled:
            loader_train.mixup_enabled = False
        task.get_trainable_module().train()
        for input, target in loader_train:
            input, target = input.to(device), target.to(device)
            if mixup_fn is not None:
                input, target = mixup_fn(input, target)
            record["train"].append((epoch, input.clone(), target.clone()))
            loss = task(input, target)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            task.update_ema()
            record["loss"].append(loss.item())
        if args.distributed:
            utils.distribute_bn(task.get_trainable_module(), args.world_size, True)
        record["top1"].append(validate(task.get_eval_model(), loader_eval, args, record))
        if args.model_ema:
            validate(task.get_eval_model(ema=True), loader_eval, args, record)
        if saver is not None:
            saver.save_checkpoint(epoch, metric=record["top1"][-1])
    if args.record:
        torch.save(record, f"{args.record}.{args.rank}")
    if args.distributed:
        torch.distributed.destroy_process_group()


def validate(model, loader, args, record) -> float:
    model.eval()
    top1 = utils.AverageMeter()
    with torch.inference_mode():
        for input, target in loader:
            output = model(input.to(args.device))
            (accuracy,) = utils.accuracy(output, target.to(args.device), topk=(1,))
            if args.distributed:
                accuracy = utils.reduce_tensor(accuracy, args.world_size)
            top1.update(accuracy.item(), len(output))
            record["eval"].append((input.clone(), target.clone()))
    return top1.avg


if __name__ == "__main__":
    main()
