"""python -m benchmarks.step: a training step and a validation pass of every system, ours beside the reference's.

Both procedures take turns in one process per system, so that a machine that slows down slows both; medians are
compared. `matmul_share` is the step's arithmetic (counted by torch) per second over the machine's measured rate of
matrix products in the precision that the step runs in.
"""

import resource
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import machine, procedures
from xbuslib import models, precision, runs
from xbuslib.cli import show
from xbuslib.config import resolve
from xbuslib.study import open_source


def measure(name: str, size: int, batch: int, steps: int, profile: str, reference: bool) -> dict:
    """One row of the table. Run in a process of its own, so that its peak memory is its own."""
    on = machine.device()
    config = resolve(profile, {"weights": "random", "image_size": size, "batch_size": batch, "phantom_cases": 20})
    source = open_source("phantom", None, None, config, "benchmarks")
    bench = procedures.bench(name, config, source, on)
    kind = precision.name(bench.plan.amp, on)
    ours = procedures.our_step(bench)
    ours()  # kernels chosen, memory taken
    with FlopCounterMode(display=False) as counter:
        ours()
    held, peak, flops = held_gb(bench.system, ours), peak_memory_gb(on), counter.get_total_flops()
    other = procedures.bench(name, config, source, on) if reference else None
    theirs = procedures.reference_step(other) if reference else None
    found, reference_found = [], []
    for _ in range(steps):
        found += machine.seconds(ours, 1, on)
        reference_found += machine.seconds(theirs, 1, on) if reference else []
    step_s, rate = statistics.median(found), machine.matmul_rate(getattr(torch, kind), on)
    passes = machine.seconds(procedures.our_pass(bench), steps, on)
    row = {"system": name, "step_s": step_s, "reference_step_s": None, "ratio": None,
           "pass_s": statistics.median(passes), "reference_pass_s": None, "tflop": flops / 1e12,
           "matmul_tflop_s": rate / 1e12, "matmul_share": flops / step_s / rate,
           "copy_gb_s": machine.copy_rate(on) / 1e9, "precision": kind, "held_gb": held, "peak_memory_gb": peak}
    if reference:
        passes = machine.seconds(procedures.reference_pass(other), steps, on)
        reference_s = statistics.median(reference_found)
        row |= {"reference_step_s": reference_s, "ratio": step_s / reference_s,
                "reference_pass_s": statistics.median(passes)}
    return row


def held_gb(system: models.System, step) -> float:
    """What a step must hold when backward begins, whatever the device (10⁹ bytes): weights, gradients, AdamW's two
    moments, and every tensor that autograd has saved. Kernels' workspace and the allocator's gaps come on top."""
    saved = {}  # storage: bytes; several saved tensors may be views of one storage

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        step()
    own = {p.untyped_storage().data_ptr() for p in system.parameters()}
    activations = sum(size for storage, size in saved.items() if storage not in own)
    weights = sum(p.numel() * p.element_size() * (4 if p.requires_grad else 1) for p in system.parameters())
    return (activations + weights) / 1e9


def peak_memory_gb(on: torch.device) -> float:
    """Of this process so far, 10⁹ bytes; the GPU's where there is one."""
    if on.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main(systems: str = typer.Option("xbusnet", help="names by commas, or all"),
         size: int = typer.Option(352, help="image side, pixels"), batch: int = typer.Option(4),
         steps: int = typer.Option(5, help="timed steps of each procedure; the median counts"),
         profile: str = typer.Option("paper", help="encoders: paper or quick"),
         reference: bool = typer.Option(True, help="time the released code's procedure too"),
         out: Path = typer.Option(None, help="also write CSV with hardware and versions"),
         as_json: bool = typer.Option(False, "--json")) -> None:
    """Time a step and a pass of each system."""
    names = models.names() if systems == "all" else systems.split(",")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        rows = [pool.submit(measure, name, size, batch, steps, profile, reference).result() for name in names]
    if out is not None:
        about = machine.facts() | {"size": size, "batch": batch, "profile": profile, "steps": steps}
        pd.DataFrame(rows).assign(**about).to_csv(out, index=False)
    show(rows, as_json, f"seconds, {size} pixels, batch {batch}, {runs.facts()['device']}")


if __name__ == "__main__":
    typer.run(main)
