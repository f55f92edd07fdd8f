"""Train a student on examples, with checkpoints that a kill cannot hurt.

Invariants
- A checkpoint holds the weights, the optimisers, torch's random state, the place in the data
  and the files that this epoch reads: a run killed at any time and resumed takes the steps that
  an unbroken run would take, with the same data (shards that arrive later join at the next
  epoch, in both).
- Checkpoint and best weights are replaced whole; a kill while writing leaves the former ones.
- The dev split is measured, never trained on, and decides which weights are kept.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from narrows.durable import replacing
from narrows.errors import InputError
from narrows.training.batches import collate, groups
from narrows.training.corpus.examples import Example
from narrows.training.data import TrainingData
from narrows.training.recipe import Recipe
from narrows.training.student import Student


@dataclass(frozen=True)
class Progress:
    """``loss``: smoothed training nats a token. ``dev_bits``: bits a dev token (last measured),
    ``dev_bits_per_byte``; nan before. ``eta_s``: until the end."""

    step: int
    share: float
    loss: float
    dev_bits: float
    dev_bits_per_byte: float
    eta_s: float
    tokens_per_s: float


class Training:
    """One run in ``folder``: ``checkpoint.pt``, ``best.pt`` and ``log.jsonl``."""

    def __init__(
        self,
        student: Student,
        data: TrainingData,
        recipe: Recipe,
        folder: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from accelerate import Accelerator

        self._mixed = Accelerator(mixed_precision="bf16" if recipe.bf16 else "no")
        self._data, self._recipe = data, recipe
        self._folder, self._clock = folder, clock
        self._student = student
        self._wrapped = self._mixed.prepare(student)
        self._optimisers = optimisers(student, recipe)
        self._base = [[g["lr"] for g in o.param_groups] for o in self._optimisers]
        self.step = self._epoch = self._position = 0
        self._elapsed_s = self._passes = 0.0
        self._files: list[str] | None = None
        self._loss, self._dev, self.best = math.nan, (math.nan, math.nan), math.inf

    def run(
        self,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        *,
        checkpoint_s: float = 120.0,
    ) -> float:
        """Train to the end of the recipe; the best dev bits a token. Resumes by itself."""
        self._resume()
        recipe, saved = self._recipe, self._now()
        tokens, since = 0, saved
        started = saved - self._elapsed_s
        if self.step == 0 and self._student.rounding is not None:
            self._measure()  # a base has a figure of its own, which training has to beat
        while self._share() < 1.0:
            examples, self._files = self._data.epoch(self._files, self._share() < recipe.text_until)
            todo = self._mine(examples)
            while self._position < len(todo):
                share = self._share()
                if share >= 1.0:
                    break
                tokens += self._train(todo[self._position], share)
                self._position += 1
                self._passes = self._epoch + self._position / len(todo)
                self.step += 1
                now = self._now()
                self._elapsed_s = now - started
                if self.step % recipe.eval_steps == 0:
                    self._measure()
                if now - saved > checkpoint_s:
                    self._save()
                    saved = now
                on_progress(self._report(tokens / max(1e-9, now - since)))
            else:
                self._epoch, self._position, self._files = self._epoch + 1, 0, None
        self._measure()
        self._save()
        return self.best

    def _share(self) -> float:
        return self._recipe.share(self.step, self._elapsed_s, self._passes)

    def _now(self) -> float:
        """The first process's clock: all must agree on when to stop and when to save, or one
        would wait for ever."""
        now = torch.tensor([self._clock()], dtype=torch.float64, device=self._mixed.device)
        if self._mixed.num_processes > 1:
            torch.distributed.broadcast(now, 0)
        return float(now)

    def _mine(self, examples: Sequence[Example]) -> list[list[Example]]:
        """This process's groups; as many for every process, or they would wait for ever."""
        todo = groups(
            examples,
            batch_tokens=self._recipe.batch_tokens,
            seed=self._recipe.seed,
            epoch=self._epoch,
        )
        world = self._mixed.num_processes
        if len(todo) < world:
            raise InputError(f"{len(todo)} batches for {world} processes", "give more data")
        return todo[self._mixed.process_index : len(todo) - len(todo) % world : world]

    def _train(self, group: Sequence[Example], share: float) -> int:
        recipe = self._recipe
        factor = recipe.rate(self.step, share)
        for optimiser, rates in zip(self._optimisers, self._base, strict=True):
            for part, rate in zip(optimiser.param_groups, rates, strict=True):
                part["lr"] = rate * factor
        self._student.train()
        self._round(share >= recipe.rounded_from)
        batch = collate(
            group, self._student.classes, prompt_weight=recipe.prompt_weight, distil=True
        )
        device = self._mixed.device
        with self._mixed.autocast():
            nats = self._wrapped(*(torch.from_numpy(x).to(device) for x in batch.arrays))
        weights = torch.from_numpy(batch.weights).to(device)
        loss = (nats * weights).sum() / weights.sum()
        self._mixed.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._student.parameters(), recipe.clip_norm)
        for optimiser in self._optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(f"the loss is {value} at step {self.step}", "lower the learning rate")
        self._loss = value if math.isnan(self._loss) else 0.95 * self._loss + 0.05 * value
        return batch.tokens

    def _round(self, wanted: bool) -> None:
        """Whether the student computes what the packed model will."""
        rounding = self._student.rounding
        if rounding is not None:
            rounding.enabled = wanted
            if wanted:
                rounding.refresh()

    def _measure(self) -> None:
        """Dev bits; keeps the weights where they are the best so far."""
        bits, per_byte = self.dev_bits()
        self._dev = bits, per_byte
        if not self._mixed.is_main_process:
            return
        row = {"step": self.step, "elapsed_s": round(self._elapsed_s, 1), "loss": self._loss}
        row |= {"epoch": self._epoch, "dev_bits": bits, "dev_bits_per_byte": per_byte}
        with (self._folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if bits < self.best:
            self.best = bits
            self._write("best.pt", {"model": self._student.learned(), **row})

    def dev_bits(self) -> tuple[float, float]:
        """Bits a token (cross-entropy under the teacher where there is one) and bits a byte;
        with the runtime's rounding in every recipe that ever trains with it."""
        self._student.eval()
        self._round(self._recipe.rounded_from < 1)
        total = tokens = 0.0
        with torch.no_grad(), self._mixed.autocast():
            for group in self._data.dev_groups:
                batch = collate(group, self._student.classes, prompt_weight=0.0, distil=True)
                nats = self._student(
                    *(torch.from_numpy(x).to(self._mixed.device) for x in batch.arrays)
                )
                total += float(nats.sum())
                tokens += batch.tokens
        bits = total / math.log(2)
        return bits / tokens, bits / self._data.dev_bytes

    def _report(self, tokens_per_s: float) -> Progress:
        share = self._share()
        eta = self._elapsed_s * (1 - share) / share if share else math.inf
        return Progress(self.step, share, self._loss, *self._dev, eta, tokens_per_s)

    def _save(self) -> None:
        if self._mixed.is_main_process:
            self._write(
                "checkpoint.pt",
                {
                    "recipe": asdict(self._recipe),
                    "model": self._student.learned(),
                    "optimisers": [o.state_dict() for o in self._optimisers],
                    "random": torch.get_rng_state(),
                    "place": (self.step, self._epoch, self._position),
                    "behind": (self._elapsed_s, self._passes),
                    "files": self._files,
                    "figures": (self._loss, self._dev, self.best),
                },
            )
        self._mixed.wait_for_everyone()

    def _write(self, name: str, value: dict[str, Any]) -> None:
        with replacing(self._folder / name) as file:
            torch.save(value, file)

    def _resume(self) -> None:
        path = self._folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self._mixed.device, weights_only=True)
        if state["recipe"] != asdict(self._recipe):
            raise InputError(f"{self._folder} holds a run of another recipe", "use another folder")
        self._student.restore(state["model"])
        for optimiser, value in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(value)
        torch.set_rng_state(state["random"].cpu())
        self.step, self._epoch, self._position = state["place"]
        self._elapsed_s, self._passes = state["behind"]
        self._files = state["files"]
        self._loss, self._dev, self.best = state["figures"]


def optimisers(student: Student, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, head and norms."""
    named = [(n, p) for n, p in student.named_parameters() if p.requires_grad]
    inner = [p for n, p in named if p.ndim == 2 and ".layers." in n]
    chosen = {id(p) for p in inner}
    outer = [p for _, p in named if id(p) not in chosen]
    result: list[torch.optim.Optimizer] = []
    if recipe.muon and inner:
        result.append(
            torch.optim.Muon(inner, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        )
    else:
        outer = [p for _, p in named]
    if outer:
        result.append(
            torch.optim.AdamW(
                outer,
                lr=recipe.embed_rate,
                betas=(0.9, 0.95),
                weight_decay=recipe.weight_decay,
                fused=True,  # one pass over memory: a sixth of the step's time for 135 M weights
            )
        )
    return result
