"""A noise level per frame: a video from a clean first frame, a pyramid of levels, and frames without end."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from noise_scheduler_sampling_system import DiffusionPipeline, FlowPath, TimeGrid
from noise_scheduler_sampling_system.grids import FrameGrid
from noise_scheduler_sampling_system.models import GaussianModel
from noise_scheduler_sampling_system.running import RunState

FRAMES, WIDTH = 6, 2
pipeline = DiffusionPipeline(FlowPath(), "heun")

# A stand-in for a trained video network: the exact model of frames with correlation 0.8 from one to the next. Like
# such a network it is called with x of shape (B, T, ...) and t of shape (B, T).
distance = (torch.arange(FRAMES)[:, None] - torch.arange(FRAMES)).abs()
network = GaussianModel(pipeline.scheduler, torch.zeros(FRAMES, WIDTH), torch.kron(0.8**distance, torch.eye(WIDTH)))


def image_to_video() -> None:
    """All frames together, the first of which is known."""
    grid = FrameGrid.full_sequence(pipeline.grid(20), FRAMES, context=1)
    first = torch.full((1, 1, WIDTH), 2.0)
    videos = pipeline.sample(network, shape=(500, FRAMES, WIDTH), grid=grid, context=first, seed=0)
    print("image to video, mean of each frame:", [f"{frame.mean():.2f}" for frame in videos.unbind(1)])


def pyramid() -> None:
    """Later frames are noisier; each frame is handed out when it is finished."""
    grid = FrameGrid.pyramid(pipeline.grid(4), FRAMES, delay=1)
    done: set[int] = set()
    for step in pipeline.stream(network, shape=(4, FRAMES, WIDTH), grid=grid, seed=0):
        for frame in sorted({*step.finished_frames} - done):
            print(f"pyramid: frame {frame} is finished after step {step.index}, model call {step.nfe}")
        done = {*step.finished_frames}


def window_of(grid: TimeGrid) -> tuple[FrameGrid, FrameGrid]:
    """A window that rolls: the grid that fills it, and that of a round, in which one frame is finished.

    After each, the first frame is clean, and every later frame is a few steps noisier than the one before it.
    """
    delay = grid.steps // (FRAMES - 1)
    if delay * (FRAMES - 1) != grid.steps:
        raise ValueError(f"give a multiple of {FRAMES - 1} steps")

    def row(step: int) -> list[int]:
        return [min(max(step - frame * delay, 0), grid.steps) for frame in range(FRAMES)]

    full = grid.steps
    fill = FrameGrid.from_indices(grid, [row(step) for step in range(full + 1)])
    return fill, FrameGrid.from_indices(grid, [row(step) for step in range(full, full + delay + 1)])


def rollout(batch: int, steps: int, seed: int = 0, resume: RunState | None = None) -> Iterator[tuple[Tensor, RunState]]:
    """Frames without end, each with the state to go on from. The model sees one clean frame and the window after it."""
    fill, round_of = window_of(pipeline.grid(steps))
    if resume is None:
        *_, last = pipeline.stream(network, shape=(batch, FRAMES, WIDTH), grid=fill, seed=seed)
        yield last.x[:, 0], last.state
        resume = last.state
    while True:
        number = resume.keys[0][1] // batch + 1  # samples of a seed are numbered, and each round has numbers of its own
        window = resume.state.x
        if number > 1:  # the window rolls: the oldest frame leaves, and a new one joins as noise
            fresh = torch.randn(batch, 1, WIDTH, generator=torch.Generator().manual_seed(number))
            window = torch.cat([window[:, 1:], fresh], dim=1)
        run = pipeline.stream(network, grid=round_of, initial_sample=window, seed=seed, first_index=number * batch)
        *_, last = run
        yield last.x[:, 1], last.state
        resume = last.state


if __name__ == "__main__":
    image_to_video()
    pyramid()
    frames = rollout(batch=400, steps=20)
    first = [next(frames) for _ in range(8)]
    resumed = rollout(batch=400, steps=20, resume=first[4][1])
    same = all(torch.equal(next(resumed)[0], frame) for frame, _ in first[5:])
    video = torch.stack([frame for frame, _ in first], dim=1)
    following = (video[:, :-1] * video[:, 1:]).mean() / video.square().mean()
    print(f"rollout of {video.shape[1]} frames: deviation {video.std():.2f} (1), correlation {following:.2f} (0.8)")
    print(f"the rollout that was resumed after 5 frames returns the same frames: {same}")
