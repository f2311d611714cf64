"""What `experiments.speed` found, as tables, pictures and a page."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.speed_works import WORKS
from jaxheads.files import Content

OURS, PLAIN = "jaxheads", "pytorch"
GIGA, TERA = 1e9, 1e12


def calls_frame(rounds: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Every call that was made, one a row; repeat 0 is the first call of a process and tries every way."""
    rows = [
        {"work": one["work"], "repeat": one["repeat"], "turn": turn, "side": side, "way": way, **call}
        for one in rounds
        for turn, (side, calls) in enumerate(one["calls"].items())
        for way, call in calls.items()
    ]
    return pd.DataFrame(rows)


def times_frame(rounds: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a work and side: medians over the counted repeats; ratios are taken within each repeat."""
    calls = calls_frame(rounds)
    rows = []
    for work, side in dict.fromkeys(zip(calls["work"], calls["side"], strict=True)):
        group = calls.query("work == @work and side == @side")
        counted = group.query("repeat > 0")
        way = counted["way"].iloc[0]
        first = group.query("repeat == 0 and way == @way")
        ours = calls.query("work == @work and side == @OURS and repeat > 0").set_index("repeat")
        row: dict[str, Any] = {"work": work, "side": side, "way": way, "seconds": counted["seconds"].median()}
        row["fastest"], row["slowest"] = counted["seconds"].min(), counted["seconds"].max()
        row["times jaxheads"] = (counted.set_index("repeat")["seconds"] / ours["seconds"]).median()
        row["cpu seconds"], row["first call"] = counted["cpu_seconds"].median(), first["seconds"].iloc[0]
        row["peak memory, GB"] = counted["memory"].max() / GIGA
        held = next(one["about"].get(side, {}).get("held") for one in rounds if one["work"] == work)
        row["held, MB"] = np.nan if held is None else held / 1e6
        row["largest difference"] = group["difference"].max()
        rows.append(row)
    return pd.DataFrame(rows).set_index(["work", "side"])


def lead_frame(rounds: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Where jaxheads' lead over plain PyTorch comes from, and its share of the matmul peak; one row a work.

    lead = FLOPs not spent × faster matrix products × the rest. The FLOPs are those of the sweep's plan beside those of
    one whole run after the other; rates and times are of the same repeat.
    """
    rows = []
    for work in dict.fromkeys(one["work"] for one in rounds):
        counted = [one for one in rounds if one["work"] == work and one["repeat"] > 0]
        about = counted[0]["about"].get(OURS, {})
        if "needed" not in about:
            continue
        seconds = np.array([_seconds(one, OURS) for one in counted])
        rate = np.array([one["rates"][OURS] for one in counted])
        row = {"work": work, "needed, TFLOP": about["needed"] / TERA, "run by run, TFLOP": about["loop"] / TERA}
        row["peak, GFLOP/s"] = np.median(rate) / GIGA
        row["share of peak"] = np.median(about["needed"] / seconds / rate)
        if all(PLAIN in one["calls"] for one in counted):
            theirs = np.array([one["rates"][PLAIN] for one in counted])
            lead = np.array([_seconds(one, PLAIN) for one in counted]) / seconds
            row["PyTorch's peak, GFLOP/s"], row["lead"] = np.median(theirs) / GIGA, np.median(lead)
            row["of FLOPs not spent"] = about["loop"] / about["needed"]
            row["of matrix products"] = np.median(rate / theirs)
            row["of the rest"] = np.median(lead / (rate / theirs)) / row["of FLOPs not spent"]
        for side in (name for name in counted[0]["calls"] if name != OURS):
            took = np.array([_seconds(one, side) for one in counted])
            row[f"over {side} at the peak"] = np.median(took * rate / about["needed"])
        rows.append(row)
    return pd.DataFrame(rows).set_index("work") if rows else pd.DataFrame()


def _seconds(one: Mapping[str, Any], side: str) -> float:
    return next(iter(one["calls"][side].values()))["seconds"]


def curves_frame(points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a point of a cost curve: median seconds, first call, and the FLOPs that the plan says are needed."""
    rows = [
        {
            "axis": point["axis"],
            "value": point["value"],
            "seconds": np.median(point["seconds"]),
            "first call": point["first"],
            "needed, TFLOP": point["needed"] / TERA,
            "GFLOP/s": point["needed"] / np.median(point["seconds"]) / GIGA,
        }
        for point in points
    ]
    return pd.DataFrame(rows).set_index(["axis", "value"])


def files(
    rounds: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]], about: Mapping[str, Any]
) -> dict[str, Content]:
    """Everything to write but the provenance, by file name."""
    frames = {"times": times_frame(rounds), "lead": lead_frame(rounds)}
    if points:
        frames["curves"] = curves_frame(points)
    contents: dict[str, Content] = {"calls.csv": _csv(calls_frame(rounds).set_index(["work", "repeat", "turn"]))}
    for name, frame in frames.items():
        if len(frame):
            contents[f"{name}.csv"], contents[f"{name}.md"] = _csv(frame), (markdown(frame) + "\n").encode()
    contents["summary.md"] = summary(frames, rounds, about).encode()
    contents["times.png"] = partial(_draw_times, frames["times"])
    if points:
        contents["curves.png"] = partial(_draw_curves, frames["curves"])
    return contents


def summary(frames: Mapping[str, pd.DataFrame], rounds: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """What was found, for a reader."""
    sizes, repeats = about["sizes"], max(one["repeat"] for one in rounds)
    page = f"""# Speed: jaxheads beside {", ".join(side for side in about["sides"] if side != OURS)}

Random weights of GPT-2's form ({sizes["layers"]} layers, {sizes["heads"]} heads, width {sizes["width"]}, vocabulary
{sizes["vocabulary"]}), float32, on {about["processor"]}, {about["cores"]} cores. Ablation, importance and the forward
pass: {sizes["prompts"]} prompts × {sizes["length"]} tokens; patching: {sizes["pairs"]} pairs × {sizes["pair_length"]}
tokens, with a shared prefix of {sizes["prefix"]} where it says so. The objective is a logit difference at the last
position. Sides take turns, {repeats} times each after a first call; every table of every call agreed with the others
within {about["tolerance"]:g} of the largest value (of 1 where that is less).

{markdown(frames["times"])}

Seconds: median of the counted repeats. Times jaxheads: ratio within a repeat, median. First call: a new process,
compilation included where there is any. Peak memory: of the whole process. Held: of measures, what is kept beside
weights and results: our buffers as compiled, the cache of TransformerLens. Way: the fastest of those in calls.csv.
"""
    if len(frames["lead"]):
        page += f"""
## Where the lead comes from

Over plain PyTorch, lead = FLOPs not spent × faster matrix products on this machine × the rest. Only the first travels
to other hardware. FLOPs needed are those that the sweep's plan names (`jh.plan(…).cost().flops`); the peak is that of
float32 products of 1,024 rows, measured in the same process in each repeat. "Over … at the peak" is what the lead
would be if all that is needed ran at that peak: on this machine it cannot be more.

{markdown(frames["lead"])}
"""
    if "curves" in frames:
        page += f"""
## What it costs

Ablation of all heads by jaxheads, one size at a time changed from {about["curves"]["layers"]} layers,
{about["curves"]["heads"]} heads, {about["curves"]["prompts"]} examples of {about["curves"]["length"]} tokens, one
device (devices are parts of the same {about["cores"]} cores).

{markdown(frames["curves"])}
"""
    return page


def markdown(frame: pd.DataFrame) -> str:
    """A table as Markdown, works by their titles."""
    shown = frame.reset_index()
    if "work" in shown:
        shown["work"] = [WORKS[work].title for work in shown["work"]]
    return shown.to_markdown(index=False, floatfmt=".3g")


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(lineterminator="\n").encode()


def _draw_times(times: pd.DataFrame, file: BinaryIO) -> None:
    works, sides = times.index.unique("work"), times.index.unique("side")
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    for number, side in enumerate(sides):
        seconds = times.xs(side, level="side")["seconds"].reindex(works)
        axes.bar(np.arange(len(works)) + number / (len(sides) + 1), seconds, 1 / (len(sides) + 1), label=side)
    axes.set_xticks(np.arange(len(works)) + (len(sides) - 1) / 2 / (len(sides) + 1), list(works))
    axes.set_yscale("log")
    axes.set_ylabel("seconds (median)")
    axes.legend()
    figure.savefig(file, format="png", dpi=80)


def _draw_curves(curves: pd.DataFrame, file: BinaryIO) -> None:
    names = curves.index.unique("axis")
    figure = Figure(figsize=(3 * len(names), 3), layout="constrained")
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False, sharey=True)[0], strict=True):
        curve = curves.xs(name, level="axis")
        axes.plot(curve.index, curve["seconds"], marker="o")
        axes.set_xticks(list(curve.index))
        axes.set_ylim(bottom=0)
        axes.set_xlabel(name)
    figure.axes[0].set_ylabel("seconds")
    figure.savefig(file, format="png", dpi=80)
