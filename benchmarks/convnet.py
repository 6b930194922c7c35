"""A plain convolutional network in PyTorch of as many parameters as a run's model, trained on the same pictures.

    python benchmarks/convnet.py RUN [--split test] [--threads 2]

Six convolutions of 3 x 3 in three widths, each with batch normalisation and ReLU, a mean over places and a linear map;
as many steps and pictures a step as the run made, Adam with decoupled decay and a cosine schedule, moved by up to 4
pixels and mirrored. Prints the accuracy on the split and the seconds of training after every tenth of the steps.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from transformer_jax.data.pictures import decode_picture, encode_picture
from transformer_jax.runs.run import Run


def network(width: int, channels: int, labels: int) -> nn.Module:
    """The network whose first convolutions have `width` channels."""
    layers: list[nn.Module] = []
    for size in (width, width, 2 * width, 2 * width, 4 * width, 4 * width):
        if layers and size > channels:
            layers.append(nn.MaxPool2d(2))
        layers += [nn.Conv2d(channels, size, 3, padding=1, bias=False), nn.BatchNorm2d(size), nn.ReLU()]
        channels = size
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, labels))


def size_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def pixels_and_labels(run: Run, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels around 0, [pictures, channels, height, width], and the numbers of labels."""
    task: Any = run.experiment.task
    labels: Any = run.tokenizers["label"]
    examples, _ = run.examples(split)
    sizes = {"size": task.image_size, "channels": task.channels}
    pictures = np.stack([decode_picture(encode_picture(example["image"]), **sizes) for example in examples])
    numbers = [labels.id(example["label"]) for example in examples]
    return torch.tensor(pictures.transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32), torch.tensor(numbers)


def changed(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each picture moved and, half of them, mirrored."""
    padded, size = nn.functional.pad(pictures, (4, 4, 4, 4)), pictures.shape[-1]
    rows = []
    for picture in padded:
        y, x, mirror = torch.randint(0, 9, (3,), generator=generator).tolist()
        cut = picture[:, y : y + size, x : x + size]
        rows.append(cut.flip(2) if mirror < 4 else cut)
    return torch.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--split", default="test")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    run = Run.open(options.run)
    experiment = run.experiment
    (pictures, labels), (test, right) = (pixels_and_labels(run, split) for split in ("train", options.split))
    wanted, classes = experiment.model.num_parameters(), int(labels.max()) + 1
    width = min(range(4, 200), key=lambda one: abs(size_of(network(one, pictures.shape[1], classes)) - wanted))
    model = network(width, pictures.shape[1], classes)
    print(f"{size_of(model):,} parameters; the run's model has {wanted:,}")
    steps, batch = experiment.train.steps, experiment.data.tokens_per_batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    loss_of = nn.CrossEntropyLoss(label_smoothing=experiment.task.label_smoothing)
    generator, order, seconds = torch.Generator().manual_seed(0), torch.zeros(0, dtype=torch.long), 0.0
    for step in range(1, steps + 1):
        start = time.perf_counter()
        if len(order) < batch:
            order = torch.randperm(len(pictures), generator=generator)
        chosen, order = order[:batch], order[batch:]
        loss = loss_of(model.train()(changed(pictures[chosen], generator)), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - start
        if step % max(steps // 10, 1) == 0:
            with torch.no_grad():
                found = torch.cat([model.eval()(part).argmax(dim=1) for part in test.split(256)])
            print(f"step {step}: {100 * (found == right).float().mean():.2f} % after {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
