"""One point of the study: trains a small network, tells the loss of each epoch, and goes on from a checkpoint."""

import json
import os
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

EPOCHS = 12
CHECKPOINT = Path("ckpt/state.pt")
STOP = Path("stop")  # appears when the pilot wants its slot back


def pictures(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy 16 x 16 pictures of bars; their class is the bar's angle, one of eight."""
    source = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 8, (count,), generator=source)
    angle = classes * torch.pi / 8 + 0.1 * torch.randn(count, generator=source)
    grid = torch.linspace(-1, 1, 16)
    across = (
        grid[None, None, :] * torch.sin(angle)[:, None, None] - grid[None, :, None] * torch.cos(angle)[:, None, None]
    )
    clean = torch.exp(-((across / 0.15) ** 2))
    return (clean + 0.8 * torch.randn(count, 16, 16, generator=source))[:, None], classes


def network(point: dict) -> nn.Module:
    """Two layers of filters and one that decides."""
    width = int(point["width"])
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(point["dropout"]), nn.Linear(32 * width, 8),
    )  # fmt: skip


def save(epoch: int, model: nn.Module, optimiser: torch.optim.Optimizer, loss: float) -> None:
    """Put the checkpoint in place whole: the pilot may look at any time."""
    CHECKPOINT.parent.mkdir(exist_ok=True)
    new = CHECKPOINT.with_suffix(".new")
    torch.save({"epoch": epoch, "model": model.state_dict(), "optimiser": optimiser.state_dict(), "loss": loss}, new)
    new.replace(CHECKPOINT)


def answer(what: dict) -> None:
    """Tell the pilot what became of the point."""
    Path("output.json").write_text(json.dumps(what))


def main() -> None:
    """Train until all epochs are done, or the pilot wants its slot back."""
    point = json.loads(Path("input.json").read_text())
    torch.manual_seed(int(os.environ.get("HPO_SEED", "1")))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 20_000 if device == "cuda" else 2_000
    (images, classes), (unseen, answers) = (
        [tensor.to(device) for tensor in pictures(count, seed)] for count, seed in ((size, 1), (2_000, 2))
    )
    model = network(point).to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=point["lr"], momentum=point["momentum"])
    first, loss = 1, float("nan")
    if CHECKPOINT.exists():
        state = torch.load(CHECKPOINT, map_location=device)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first, loss = state["epoch"] + 1, state["loss"]
    began = time.monotonic()
    with Path("progress.jsonl").open("a") as progress:
        for epoch in range(first, EPOCHS + 1):
            model.train()
            for chosen in torch.randperm(len(images), device=device).split(128):
                optimiser.zero_grad()
                functional.cross_entropy(model(images[chosen]), classes[chosen]).backward()
                optimiser.step()
            model.eval()
            with torch.no_grad():
                loss = functional.cross_entropy(model(unseen), answers).item()
            if not loss < 1e6:
                Path("output.json").write_text(
                    json.dumps({"status": 1, "message": f"fatal: diverged in epoch {epoch}"})
                )
                return
            print(json.dumps({"step": epoch, "loss": loss}), file=progress, flush=True)
            save(epoch, model, optimiser, loss)
            if STOP.exists():
                return
    rate = (EPOCHS + 1 - first) * len(images) / max(time.monotonic() - began, 1e-6)
    message = f"{rate:.0f} pictures a second on {device}"
    print(message)
    Path("meta.json").write_text(json.dumps({"device": device, "pictures_per_second": round(rate)}))
    answer({"status": 0, "loss": loss, "message": message})


main()
