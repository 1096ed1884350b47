"""python -m benchmarks.step: a training step and a validation pass of every system, ours beside the reference's.

The two procedures take turns, each in a process of its own: a machine that slows down slows both, and neither profits
from how the other keeps memory. Medians are compared. `matmul_share` is the step's arithmetic (counted by torch) per
second over the machine's rate of matrix products in the precision that the step runs in, measured between the steps.
"""

import resource
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import machine, procedures
from xbuslib.config import resolve
from xbuslib.display.terminal import show
from xbuslib.models import precision, registry
from xbuslib.models.system import System
from xbuslib.runs import environment
from xbuslib.runs.source import open_source

WARM_UP = 3  # steps more before any is timed: the first ones of a process pay for memory that all later ones use again
WAYS = {"ours": (procedures.our_step, procedures.our_pass),
        "reference": (procedures.reference_step, procedures.reference_pass)}


@cache
def set_up(way: str, name: str, size: int, batch: int, profile: str) -> tuple[procedures.Bench, Callable]:
    """One system and its training step, one way; built once in each process, which holds it between calls."""
    config = resolve(profile, {"weights": "random", "image_size": size, "batch_size": batch, "phantom_cases": 20})
    source = open_source("phantom", None, None, config, "benchmarks")
    bench = procedures.bench(name, config, source, machine.device())
    return bench, WAYS[way][0](bench)


def begin(*setting) -> dict:
    """Make a first step (kernels chosen), count one, and warm up; `setting` is as for set_up, here and below."""
    bench, step = set_up(*setting)
    step()
    with FlopCounterMode(display=False) as counter:
        step()
    amp, held = bench.plan.amp and setting[0] == "ours", held_gb(bench.system, step)
    for _ in range(WARM_UP):
        step()
    return {"tflop": counter.get_total_flops() / 1e12, "precision": precision.name(amp, machine.device()),
            "held_gb": held, "peak_memory_gb": peak_memory_gb(machine.device())}


def step_seconds(*setting) -> float:
    return machine.seconds(set_up(*setting)[1], 1, machine.device())[0]


def pass_seconds(times: int, way: str, *setting) -> float:
    one_pass = WAYS[way][1](set_up(way, *setting)[0])
    return statistics.median(machine.seconds(one_pass, times, machine.device()))


def measure(name: str, size: int, batch: int, steps: int, profile: str, reference: bool) -> dict:
    """One row of the table."""
    pools = {way: ProcessPoolExecutor(1, mp_context=get_context("spawn"))
             for way in (WAYS if reference else ["ours"])}
    setting = name, size, batch, profile
    try:
        made = {way: pool.submit(begin, way, *setting).result() for way, pool in pools.items()}
        ours, kind = made["ours"], getattr(torch, made["ours"]["precision"])
        found, rates = {way: [] for way in pools}, []
        for _ in range(steps):
            for way, pool in pools.items():
                found[way].append(pool.submit(step_seconds, way, *setting).result())
            rates.append(machine.matmul_rate(kind, machine.device()))
        step_s = {way: statistics.median(values) for way, values in found.items()}
        pass_s = {way: pool.submit(pass_seconds, steps, way, *setting).result() for way, pool in pools.items()}
    finally:
        for pool in pools.values():
            pool.shutdown()
    rate, theirs = statistics.median(rates), step_s.get("reference")
    return {"system": name, "step_s": step_s["ours"], "reference_step_s": theirs,
            "ratio": step_s["ours"] / theirs if theirs else None,
            "pass_s": pass_s["ours"], "reference_pass_s": pass_s.get("reference"), "tflop": ours["tflop"],
            "matmul_tflop_s": rate / 1e12, "matmul_share": ours["tflop"] * 1e12 / step_s["ours"] / rate,
            "copy_gb_s": machine.copy_rate(machine.device()) / 1e9, "precision": ours["precision"],
            "held_gb": ours["held_gb"], "peak_memory_gb": ours["peak_memory_gb"],
            "reference_peak_memory_gb": made["reference"]["peak_memory_gb"] if reference else None}


def held_gb(system: System, step) -> float:
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
    names = registry.names() if systems == "all" else systems.split(",")
    rows = [measure(name, size, batch, steps, profile, reference) for name in names]
    if out is not None:
        about = machine.facts() | {"size": size, "batch": batch, "profile": profile, "steps": steps}
        pd.DataFrame(rows).assign(**about).to_csv(out, index=False)
    show(rows, as_json, f"seconds, {size} pixels, batch {batch}, {environment.facts()['device']}")


if __name__ == "__main__":
    typer.run(main)
