"""The results of `experiments.speed`: tables, pictures and the page for readers."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh

from .. import lab
from .speed_works import WORKS, WRITTEN

OURS, PLAIN = "jaxheads", "pytorch"
GIGA, TERA = 1e9, 1e12

Round = Mapping[str, Any]
"""The calls of all sides in one repeat of a work, with their seconds; repeat 0 is the first call of a process."""


def calls_frame(rounds: Sequence[Round]) -> pd.DataFrame:
    """Return a row for every call; repeat 0 is the first call of a process and tries every way."""
    rows = [
        {"work": sides["work"], "repeat": sides["repeat"], "turn": turn, "side": side, "way": way, **call}
        for sides in rounds
        for turn, (side, ways) in enumerate(sides["calls"].items())
        for way, call in ways.items()
    ]
    return pd.DataFrame(rows)


def times_frame(rounds: Sequence[Round]) -> pd.DataFrame:
    """Return a row for each work and side: medians over the counted repeats; ratios are taken within each repeat."""
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
        held = next(sides["about"].get(side, {}).get("held") for sides in rounds if sides["work"] == work)
        row["held, MB"] = np.nan if held is None else held / 1e6
        row["largest difference"] = group["difference"].max()
        rows.append(row)
    return pd.DataFrame(rows).set_index(["work", "side"])


def lead_frame(rounds: Sequence[Round]) -> pd.DataFrame:
    """Return the factors of jaxheads' lead over plain PyTorch, and its share of the matmul peak; a row for each work.

    lead = FLOPs not spent × faster matrix products × the rest. FLOPs are those of the sweep's plan, against those of
    whole runs one after the other; rates and times are of the same repeat.
    """
    rows = []
    for work in dict.fromkeys(sides["work"] for sides in rounds):
        counted = [sides for sides in rounds if sides["work"] == work and sides["repeat"] > 0]
        about = counted[0]["about"].get(OURS, {})
        if "needed" not in about:
            continue
        seconds = np.array([_seconds(sides, OURS) for sides in counted])
        rate = np.array([sides["rates"][OURS] for sides in counted])
        row = {"work": work, "needed, TFLOP": about["needed"] / TERA, "run by run, TFLOP": about["loop"] / TERA}
        row["peak, GFLOP/s"] = np.median(rate) / GIGA
        row["share of peak"] = np.median(about["needed"] / seconds / rate)
        if all(PLAIN in sides["calls"] for sides in counted):
            plain_rate = np.array([sides["rates"][PLAIN] for sides in counted])
            lead = np.array([_seconds(sides, PLAIN) for sides in counted]) / seconds
            row["PyTorch's peak, GFLOP/s"], row["lead"] = np.median(plain_rate) / GIGA, np.median(lead)
            row["of FLOPs not spent"] = about["loop"] / about["needed"]
            row["of matrix products"] = np.median(rate / plain_rate)
            row["of the rest"] = np.median(lead / (rate / plain_rate)) / row["of FLOPs not spent"]
        for side in (name for name in counted[0]["calls"] if name != OURS):
            side_seconds = np.array([_seconds(sides, side) for sides in counted])
            row[f"over {side} at the peak"] = np.median(side_seconds * rate / about["needed"])
        rows.append(row)
    return pd.DataFrame(rows).set_index("work") if rows else pd.DataFrame()


def _seconds(sides: Round, side: str) -> float:
    return next(iter(sides["calls"][side].values()))["seconds"]


def writing_frame(times: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each batch of written texts and each side: tokens a second, and milliseconds a token."""
    works = [work for work in times.index.unique("work") if WORKS[work].kind == "write"]
    if not works:
        return pd.DataFrame()
    own: Any = times.loc[works, ["seconds", "times jaxheads"]]
    count = np.array([int(work.removeprefix("write_")) for work, _ in own.index])
    own.insert(0, "tokens a second", count * WRITTEN / own["seconds"])
    own.insert(1, "milliseconds a step", 1000 * own["seconds"] / WRITTEN)
    return own


def curves_frame(points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row for each point of a cost curve: median seconds, first call, and the FLOPs of the plan."""
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


def results(rounds: Sequence[Round], points: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> lab.Results:
    """Return everything that is written."""
    frames = {"times": times_frame(rounds), "lead": lead_frame(rounds)}
    frames["writing"] = writing_frame(frames["times"])
    figures = {"times": draw_times(frames["times"])}
    if points:
        frames["curves"] = curves_frame(points)
        figures["curves"] = draw_curves(frames["curves"])
    frames = {name: frame for name, frame in frames.items() if len(frame)}
    return lab.Results(
        page(frames, rounds, about),
        about,
        {"calls": calls_frame(rounds).set_index(["work", "repeat", "turn"]), **frames},
        figures,
        others={f"{name}.md": f"{markdown(frame)}\n".encode() for name, frame in frames.items()},
    )


def page(frames: Mapping[str, pd.DataFrame], rounds: Sequence[Round], about: Mapping[str, Any]) -> str:
    """Return the page for readers."""
    sizes, repeats = about["sizes"], max(sides["repeat"] for sides in rounds)
    text = f"""# Speed: jaxheads beside {", ".join(side for side in about["sides"] if side != OURS)}

Random weights of GPT-2's form ({sizes["layers"]} layers, {sizes["heads"]} heads, width {sizes["width"]}, vocabulary
{sizes["vocabulary"]}), float32, on {about["processor"]}, {about["cores"]} cores. Ablation, importance and the forward
pass: {sizes["prompts"]} prompts × {sizes["length"]} tokens; patching: {sizes["pairs"]} pairs × {sizes["pair_length"]}
tokens, with a shared prefix of {sizes["prefix"]} in the work of that name. The objective is a logit difference at the
last position. Sides take turns, {repeats} times each after a first call. Every table of every call agreed with the
others within {about["tolerance"][OURS]:g} of the largest value (of 1 if that is less){_rounded_sides(about)}.

{markdown(frames["times"])}

Seconds: median of the counted repeats. Times jaxheads: ratio within a repeat, median. First call: in a new process,
with compilation if the side compiles. Peak memory: of the whole process. Held, for measures only: memory beside weights
and results (jaxheads: buffers of the compiled program; TransformerLens: its cache). Way: the fastest in calls.csv.
"""
    if "writing" in frames:
        text += f"""
## What writing costs

Greedy text of {WRITTEN} tokens behind prompts of {sizes["length"]} tokens, the prompt's own pass included; PyTorch by
`transformers`' `generate`, with its cache. All sides wrote the same tokens.

{markdown(frames["writing"])}
"""
    if "lead" in frames:
        text += f"""
## Where the lead comes from

Lead over plain PyTorch = FLOPs not spent × faster matrix products on this machine × the rest. Only the first factor
carries over to other hardware. FLOPs needed are those of the sweep's plan (`jh.plan(…).cost().flops`); the peak is the
rate of float32 products of 1,024 rows, measured in the same process in each repeat. "Over … at the peak" is the lead
if all needed FLOPs ran at that peak: on this machine it cannot be more.

{markdown(frames["lead"])}
"""
    if "curves" in frames:
        sizes = about["curves"]
        text += f"""
## What it costs

Ablation of all heads by jaxheads. One size at a time is changed from {sizes["layers"]} layers, {sizes["heads"]} heads,
{sizes["prompts"]} examples of {sizes["length"]} tokens and one device (devices share the same {about["cores"]} cores).

{markdown(frames["curves"])}
"""
    return text


def markdown(frame: pd.DataFrame) -> str:
    """Return a table as Markdown, with works by their titles."""
    frame = frame.reset_index()
    if "work" in frame:
        frame["work"] = [WORKS[work].title for work in frame["work"]]
    return lab.markdown(frame)


def draw_times(times: pd.DataFrame) -> "jh.plots.Picture":
    """Draw the seconds of each work, a bar for each side, with the range of its repeats."""
    works, sides = times.index.unique("work"), times.index.unique("side")
    figure, [axes] = jh.plots.panels(1, (10, 4))
    for number, side in enumerate(sides):
        own: Any = times.xs(side, level="side").reindex(works)
        seconds, at = own["seconds"], np.arange(len(works)) + number / (len(sides) + 1)
        spread = np.nan_to_num([seconds - own["fastest"], own["slowest"] - seconds])
        axes.bar(at, seconds, 1 / (len(sides) + 1), yerr=spread, capsize=2, color=jh.plots.color(number), label=side)
    titles = [textwrap.fill(WORKS[work].title, 18) for work in works]
    axes.set_xticks(np.arange(len(works)) + (len(sides) - 1) / 2 / (len(sides) + 1), titles, fontsize=8)
    axes.set_yscale("log")
    axes.set_ylabel("seconds (median, range)")
    axes.legend()
    return figure


def draw_curves(curves: pd.DataFrame) -> "jh.plots.Picture":
    """Draw the seconds along each axis of the cost."""
    names = curves.index.unique("axis")
    figure, row = jh.plots.panels(len(names), (3 * len(names), 3), sharey=True)
    row[0].set(ylabel="seconds", ylim=(0, 1.05 * curves["seconds"].max()))
    for name, axes in zip(names, row, strict=True):
        curve = curves.xs(name, level="axis")
        axes.plot(curve.index, curve["seconds"], marker="o")
        axes.set_xticks(list(curve.index))
        axes.set_xlabel(name)
    return figure


def _rounded_sides(about: Mapping[str, Any]) -> str:
    """Return in words how near the tables of the sides come that round factors of products."""
    exact = about["tolerance"][OURS]
    rounded = [f"{side} within {own:g}" for side, own in about["tolerance"].items() if own != exact]
    return f"; of the largest value itself {', '.join(rounded)}" if rounded else ""
